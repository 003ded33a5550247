"""Bodies, server-sent events, and work that ends with its client."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from modelworks.serve.errors import ApiError, Disconnected
from modelworks.serve.events import EventStream, event, to_bytes, told_of, while_connected


def run(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 10))


class Client:
    """One end of an ASGI connection: what it was sent, and when it leaves."""

    def __init__(self, *, leaves_after: int | None = None) -> None:
        self.sent: list[dict[str, Any]] = []
        self._gone = asyncio.Event()
        self._leaves_after = leaves_after

    async def receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        if len(self.sent) == self._leaves_after:
            self._gone.set()
            await asyncio.sleep(5)  # a connection that is gone takes nothing more

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


def test_an_event_is_one_line_of_json() -> None:
    assert event({"a": "x\ny\u2028é"}) == 'data: {"a":"x\\ny\u2028é"}\n\n'.encode()
    assert event([1], "kind") == b"event: kind\ndata: [1]\n\n"
    with pytest.raises(ValueError):
        to_bytes(float("nan"))


def test_work_is_cancelled_when_the_client_leaves() -> None:
    async def check() -> None:
        client, cancelled = Client(), asyncio.Event()

        async def work() -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.set()
                raise

        client._gone.set()
        with pytest.raises(Disconnected):
            await while_connected(client.receive, work())
        assert cancelled.is_set()

    run(check())


def test_work_gives_its_result_and_its_error() -> None:
    async def check() -> None:
        assert await while_connected(Client().receive, asyncio.sleep(0, "done")) == "done"

        async def fail() -> None:
            raise KeyError("x")

        with pytest.raises(KeyError):
            await while_connected(Client().receive, fail())

    run(check())


@pytest.mark.parametrize("leaves_after", [None, 2])
def test_a_stream_ends_its_work_once_whatever_happens(leaves_after: int | None) -> None:
    async def check() -> None:
        ended: list[str] = []

        async def events() -> Any:
            try:
                for number in range(3):
                    yield event(number)
            finally:
                ended.append("events")

        client = Client(leaves_after=leaves_after)
        until = asyncio.get_running_loop().time() + 5
        stream = EventStream(events(), until=until, on_end=lambda: ended.append("work"))
        await stream({}, client.receive, client.send)  # type: ignore[arg-type]
        assert ended == ["events", "work"]
        if leaves_after is None:
            assert client.body == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
            assert client.sent[-1]["more_body"] is False

    run(check())


def test_an_error_within_a_stream_is_its_last_event(caplog: pytest.LogCaptureFixture) -> None:
    async def check(error: Exception) -> bytes:
        async def events() -> Any:
            yield b"data: 0\n\n"
            raise error

        client = Client()
        stream = EventStream(events(), until=asyncio.get_running_loop().time() + 5)
        await stream({}, client.receive, client.send)  # type: ignore[arg-type]
        assert client.sent[-1]["more_body"] is False
        return client.body

    assert b'"message":"no more"' in run(check(ApiError(503, "no more")))
    assert caplog.text == ""
    told = run(check(KeyError("secret")))
    assert b"secret" not in told
    assert b"internal_error" in told
    assert "KeyError: 'secret'" in caplog.text


def test_a_stream_whose_time_is_up_says_so() -> None:
    async def check() -> bytes:
        async def events() -> Any:
            yield b"data: 0\n\n"
            await asyncio.sleep(60)

        client = Client()
        stream = EventStream(events(), until=asyncio.get_running_loop().time() + 0.05)
        await stream({}, client.receive, client.send)  # type: ignore[arg-type]
        return client.body

    assert b"time_limit" in run(check())


def test_a_defect_is_told_as_one() -> None:
    assert told_of(ZeroDivisionError("x")).status == 500
