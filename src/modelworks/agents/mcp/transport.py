"""Ways to a server, each with an allowance: what a server says beyond it ends the connection instead of the memory.

The SDK's own transports read lines and bodies of any length; the protocol over them stays the SDK's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import anyio
import anyio.abc
import httpx2
import mcp_types
from anyio.streams.buffered import BufferedByteReceiveStream
from mcp.client.stdio import get_default_environment
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage
from pydantic import ValidationError

MESSAGE_BYTES: Final = 8 << 20
"""The longest message of a server."""
CALL_BYTES: Final = 32 << 20
"""All that a server may say while one call waits, or between two."""
_LAST_WORDS: Final = 4096
_LEAVE: Final = 1.0
"""Seconds that a server has to end by itself, once its input is closed, and again once it was told to."""
_GONE: Final = (
    anyio.EndOfStream,
    anyio.ClosedResourceError,
    anyio.BrokenResourceError,
    anyio.IncompleteRead,
    ConnectionError,
    OSError,
)


class Allowance:
    """Bytes that a server may still send."""

    def __init__(self) -> None:
        self._left = CALL_BYTES
        self.said = ""
        """The end of what a process wrote to its standard error, for the message that tells of its death."""

    def renew(self) -> None:
        self._left = CALL_BYTES

    def take(self, count: int) -> bool:
        """Whether so many more bytes are within it."""
        self._left -= count
        return self._left >= 0


@asynccontextmanager
async def stdio(
    command: Sequence[str], environment: Mapping[str, str], allowance: Allowance
) -> AsyncGenerator[tuple[Any, Any]]:
    """A server as a process of ours, spoken to over its standard streams; the end kills it with all its children.

    It gets the few variables that any program needs, and `environment`. Raises OSError where it cannot be started.
    """
    process = await anyio.open_process(
        list(command),
        env=get_default_environment() | dict(environment),
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    to_session, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    outgoing, from_session = anyio.create_memory_object_stream[SessionMessage](0)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_read, process.stdout, to_session, allowance)
            group.start_soon(_listen, process.stderr, allowance)
            group.start_soon(_write, process.stdin, from_session, to_session)
            try:
                yield incoming, outgoing
            finally:
                with anyio.CancelScope(shield=True):
                    await _end(process)
                group.cancel_scope.cancel()
    finally:
        for stream in (to_session, incoming, outgoing, from_session):
            stream.close()


async def _read(stream: anyio.abc.ByteReceiveStream, to_session: Any, allowance: Allowance) -> None:
    lines = BufferedByteReceiveStream(stream)
    with to_session, suppress(*_GONE, anyio.DelimiterNotFound):
        while True:
            line = await lines.receive_until(b"\n", MESSAGE_BYTES)
            if not allowance.take(len(line)):
                return
            with suppress(ValidationError):  # what is no message is the server's own noise
                await to_session.send(SessionMessage(mcp_types.jsonrpc_message_adapter.validate_json(line)))


async def _listen(stream: anyio.abc.ByteReceiveStream, allowance: Allowance) -> None:
    with suppress(*_GONE):
        async for chunk in stream:
            allowance.said = (allowance.said + chunk.decode(errors="replace"))[-_LAST_WORDS:]


async def _write(stream: anyio.abc.ByteSendStream, from_session: Any, to_session: Any) -> None:
    try:
        async with from_session:
            async for message in from_session:
                await stream.send(message.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
    except _GONE:
        to_session.close()  # a request that cannot be sent would be waited for


async def _end(process: anyio.abc.Process) -> None:
    assert process.stdin is not None
    with suppress(*_GONE):
        await process.stdin.aclose()
    with anyio.move_on_after(_LEAVE):
        await process.wait()
    for number in (signal.SIGTERM, signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM):
        # Also where the process itself has ended: its children may not have.
        with suppress(OSError):
            if sys.platform == "win32":
                process.kill()
            else:
                os.killpg(process.pid, number)
        with anyio.move_on_after(_LEAVE):
            await process.wait()
            if number == signal.SIGTERM and not _is_there(process.pid):
                break
    await process.aclose()


def _is_there(group: int) -> bool:
    """Whether a process of the group lives."""
    if sys.platform == "win32":
        return False
    try:
        os.killpg(group, 0)
    except OSError:
        return False
    return True


@asynccontextmanager
async def http(
    url: str, headers: Mapping[str, str], allowance: Allowance, auth: httpx2.Auth | None = None
) -> AsyncGenerator[tuple[Any, Any]]:
    """A server at a URL, by streamable HTTP. The SDK follows no redirect to another origin; no proxy is used."""
    # Unpacked as it is counted: a packed body would have to be counted twice.
    async with (
        httpx2.AsyncClient(
            headers={"Accept-Encoding": "identity", **headers},
            auth=auth,
            transport=_Counting(allowance),
            timeout=httpx2.Timeout(30.0, read=None),  # calls have timeouts of their own
            trust_env=False,
        ) as client,
        streamable_http_client(url, http_client=client) as streams,
    ):
        yield streams


class _Counting(httpx2.AsyncBaseTransport):
    def __init__(self, allowance: Allowance) -> None:
        self._inner = httpx2.AsyncHTTPTransport(trust_env=False)
        self._allowance = allowance

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._inner.handle_async_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise httpx2.DecodingError("its answer is packed, which was not asked for", request=request)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Counted(response.stream, self._allowance)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Counted(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream, allowance: Allowance) -> None:
        self._inner = inner
        self._allowance = allowance

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            if not self._allowance.take(len(chunk)):
                raise httpx2.ReadError(f"it sends more than {CALL_BYTES >> 20} MiB")
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()
