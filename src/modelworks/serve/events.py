"""Answers over HTTP: JSON bodies in, JSON or server-sent events out, and what happens when the other side leaves."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from modelworks.serve.errors import ApiError, Disconnected, as_api_error
from modelworks.serve.fields import Fields, parse_object

Value = TypeVar("Value")

_LARGE: Final = 65_536  # bytes that are read beside the event loop
DONE: Final = b"data: [DONE]\n\n"
_log = logging.getLogger("modelworks.serve")


def to_bytes(value: Any) -> bytes:
    """JSON as compact UTF-8."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(errors="replace")


def event(value: Any, name: str | None = None) -> bytes:
    """One server-sent event (WHATWG HTML, section 9.2) whose data is JSON, so it has no line ends of its own."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + to_bytes(value) + b"\n\n"


class Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return to_bytes(content)


def error_response(error: ApiError) -> Json:
    headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Json(error.to_json(), error.status, headers)


def told_of(error: Exception) -> ApiError:
    """What a client is told of any error; a defect's traceback goes to the log, and to the client no word of it."""
    if (told := as_api_error(error)) is not None:
        return told
    _log.error("a request failed", exc_info=error)
    return ApiError(500, "the server failed; its log says why", code="internal_error")


async def read_body(request: Request, limit: int, parse: Callable[[Fields], Value]) -> Value:
    """What `parse` makes of the JSON object that a request brings.

    Raises `ApiError`: 413 beyond `limit` bytes, 400 for what is no object, and what `parse` raises.
    """
    too_large = ApiError(413, f"the body is larger than the {limit} bytes that this server takes", code="too_large")
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > limit:
        raise too_large
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise too_large
            chunks.append(chunk)
    except ClientDisconnect:
        raise Disconnected from None
    body = b"".join(chunks)
    if size < _LARGE:
        return parse(parse_object(body))
    return await asyncio.to_thread(lambda: parse(parse_object(body)))


async def while_connected(receive: Receive, work: Awaitable[Value]) -> Value:
    """The result of `work`, which is cancelled when the client goes away; then `Disconnected` is raised."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Disconnected
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events until the iterator ends, the client leaves or time is up; the iterator is closed in any case.

    An error after the first event cannot have a status any more: it is an event, then the stream ends.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[bytes, None], *, until: float, on_end: Callable[[], None] = lambda: None
    ) -> None:
        """`until`: the event loop's time at which the stream is cut. `on_end`: what ends the work behind it."""
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events, self._until, self._on_end = events, until, on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await while_connected(receive, self._send_all(send))
        except (Disconnected, TimeoutError):  # nobody reads what there is
            return
        finally:
            self._on_end()

    async def _send_all(self, send: Send) -> None:
        last = b""
        try:
            async with asyncio.timeout_at(self._until), aclosing(self._events) as events:
                async for chunk in events:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except Exception as error:  # noqa: BLE001 - told to the client, and a defect to the log as well
            last = event(told_of(error).to_json())
        # A reader that has not read for the whole time limit does not get to hold this up as well.
        async with asyncio.timeout(5):
            await send({"type": "http.response.body", "body": last, "more_body": False})
