"""The server as a process on a network meets people: bad input, slow and vanishing clients, strangers, its own end."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
from collections import Counter
from typing import Any

import httpx
import pytest

from modelworks.core.errors import ConfigError
from modelworks.serve import server

URL = "/v1/chat/completions"


def ask(text: str = "hi", **more: Any) -> dict[str, Any]:
    return {"model": "echo", "messages": [{"role": "user", "content": text}], "temperature": 0} | more


def encoded(**more: Any) -> bytes:
    return json.dumps(ask(**more)).encode()


# --- bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"null",
        b"\xff\xfe",
        b'{"model": "echo", "messages": NaN}',
        b'{"model": "echo", "temperature": Infinity}',
        b'{"model": "\\ud800", "messages": []}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"temperature": ' + b"9" * 10_000 + b"}",
    ],
)
def test_what_is_no_json_object(served, body: bytes) -> None:
    response = served.http.post(URL, content=body)
    assert response.status_code == 400
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert len(response.text) < 400


def test_a_body_over_the_limit(serving, limits) -> None:
    """A 10 MB prompt is refused, by its stated length and, sent in chunks, once it is too long; others go on."""
    served = serving(limits=limits(body_bytes=1 << 20))
    body = encoded(text="x" * 10_000_000)
    assert served.refused(URL, ask("x" * 10_000_000), status=413)["code"] == "too_large"
    chunks = (body[at : at + 65536] for at in range(0, len(body), 65536))
    assert served.http.post(URL, content=chunks).status_code == 413
    assert served.say("still here").choices[0].message.content == "still here"


def test_a_prompt_far_over_the_context_stalls_nobody(served) -> None:
    """Tokenising holds the interpreter; a prompt that cannot fit is refused before that."""
    worst = 0.0
    done = threading.Event()

    def watch() -> None:
        nonlocal worst
        while not done.is_set():
            began = time.perf_counter()
            assert served.http.get("/health").status_code == 200
            worst = max(worst, time.perf_counter() - began)

    watcher = threading.Thread(target=watch)
    watcher.start()
    error = served.refused(URL, ask("word " * 1_400_000))
    done.set()
    watcher.join()
    assert error["code"] == "context_length_exceeded"
    assert "4096" in error["message"]
    assert worst < 2


def test_the_wrong_path_and_the_wrong_method(served) -> None:
    assert served.post("/v1/nothing", {}).json()["error"]["type"] == "not_found_error"
    response = served.http.get(URL)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.json()["error"]["message"]
    assert served.http.delete("/v1/models").status_code == 405


def test_no_http_at_all(served) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as sock:
        sock.sendall(b"\x16\x03\x01\x02\x00 hello\r\n\r\n")
        assert b"400" in sock.recv(200)
    assert served.http.get("/health").json() == {"status": "ok", "model": "echo"}


# --- clients that leave, linger or come all at once -------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slot_within_a_second(serving, stream: bool) -> None:
    served = serving()
    served.model.pause = 0.01
    sock = served.raw(encoded(text="x" * 2000, stream=stream))
    served.wait_until(lambda stats: stats.running == 1, 10)
    if stream:
        assert sock.recv(100)
    sock.close()
    served.wait_until(lambda stats: stats.running == 0, 1)
    assert served.stats().counts.cancelled == 1
    assert served.stats().blocks_used == 0


def test_a_client_that_leaves_while_it_waits_is_forgotten(serving) -> None:
    served = serving(engine={"max_running": 1})
    served.model.pause = 0.01
    first = served.raw(encoded(text="x" * 3000, stream=True))
    served.wait_until(lambda stats: stats.running == 1, 10)
    second = served.raw(encoded(text="y" * 3000))
    served.wait_until(lambda stats: stats.queued == 1, 10)
    second.close()
    served.wait_until(lambda stats: stats.queued == 0, 1)
    first.close()


def test_all_choices_of_a_client_that_leaves_end(serving) -> None:
    served = serving()
    served.model.pause = 0.002
    sock = served.raw(encoded(text="x" * 1000, stream=True, n=4))
    served.wait_until(lambda stats: stats.running == 4, 10)
    sock.close()
    served.wait_until(lambda stats: stats.running == 0, 1)


def test_a_slow_reader_holds_nobody_up(serving) -> None:
    """Its answer is computed at full speed, and so are others' beside it."""
    served = serving()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        sock.connect(("127.0.0.1", served.port))
        body = encoded(text="x" * 300, stream=True, n=4, logprobs=True, top_logprobs=20)  # 3 MB of events
        head = f"POST {URL} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body)
        served.wait_until(lambda stats: stats.running == 4, 10)
        began = time.perf_counter()
        assert served.say("quick").choices[0].message.content == "quick"
        assert time.perf_counter() - began < 20
        served.wait_until(lambda stats: stats.running == 0, 60)
        assert served.stats().counts.finished == 5


def test_500_connections_at_once_are_served_or_sent_away(serving) -> None:
    served = serving(engine={"max_queued": 64})

    body = encoded(text="hi")
    head = f"POST {URL} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"

    async def one() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(head.encode() + body)
        answer = await reader.read()
        writer.close()
        return answer

    async def all_of_them() -> list[bytes]:
        return await asyncio.gather(*(one() for _ in range(500)))

    found = asyncio.run(all_of_them())
    statuses = Counter(int(answer.split(b" ", 2)[1]) for answer in found)
    assert statuses.keys() <= {200, 429, 503}
    assert statuses[200] >= 64
    assert sum(b"\r\nretry-after: 1\r\n" in answer for answer in found) == 500 - statuses[200]
    assert served.say("still here").choices[0].message.content == "still here"
    assert served.stats().running == served.stats().queued == 0


def test_more_requests_than_may_be_under_way(serving, limits) -> None:
    served = serving(limits=limits(in_flight=1))
    served.model.pause = 0.01
    with served.raw(encoded(text="x" * 2000, stream=True)) as sock:
        assert sock.recv(100)
        response = served.post(URL, ask())
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        assert served.http.get("/health").status_code == 200


def test_the_time_limit_of_a_request(serving, limits) -> None:
    served = serving(limits=limits(seconds=0.5))
    served.model.pause = 0.02
    assert served.refused(URL, ask("x" * 500), status=504)["code"] == "time_limit"
    text = served.post(URL, ask("x" * 500, stream=True)).text
    assert '"content":"x"' in text
    assert json.loads(text.strip().rpartition("data: ")[2])["error"]["code"] == "time_limit"
    with served.raw(b"") as sock:  # a body that never comes
        sock.settimeout(5)
    with socket.create_connection(("127.0.0.1", served.port), timeout=5) as sock:
        sock.sendall(f"POST {URL} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{{".encode())
        assert b"504" in sock.recv(200)
    served.wait_until(lambda stats: stats.running == 0, 1)


# --- the end ----------------------------------------------------------------------------------------------------------


def test_a_graceful_end_finishes_streams(serving) -> None:
    served = serving(stop_seconds=60)
    served.model.pause = 0.005
    with served.http.stream("POST", URL, json=ask("x" * 200, stream=True)) as response:
        lines = response.iter_lines()
        next(lines)
        served.stop()
        text = "\n".join(lines)
    assert text.count('"content":"x"') > 190
    assert text.rstrip().endswith("data: [DONE]")
    served.thread.join(60)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{served.url}/health", timeout=1)


def test_an_end_does_not_wait_for_ever(serving) -> None:
    served = serving(stop_seconds=1)
    served.model.pause = 0.05
    with served.raw(encoded(text="x" * 2000, stream=True)):
        served.wait_until(lambda stats: stats.running == 1, 10)
        served.stop()
        began = time.monotonic()
        served.wait_until(lambda stats: stats.running == 0, 5)
        assert time.monotonic() - began > 0.5


def test_what_is_late_at_the_end_is_cut_without_a_traceback(serving) -> None:
    """uvicorn would log a traceback for each request that it cancels; a client would see a stream that breaks off."""
    told: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = told.append  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in ("uvicorn.error", "modelworks.serve")]
    served = serving(stop_seconds=1)
    served.model.pause = 0.02
    for logger in loggers:  # after uvicorn has set up its own
        logger.addHandler(handler)
    try:
        with (
            served.http.stream("POST", URL, json=ask("x" * 2000, stream=True)) as response,
            served.raw(encoded(text="y" * 2000)) as whole,
            socket.create_connection(("127.0.0.1", served.port), timeout=10) as silent,
        ):
            silent.sendall(f"POST {URL} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{{".encode())
            lines = response.iter_lines()
            next(lines)
            served.wait_until(lambda stats: stats.running == 2, 10)
            served.stop()
            last = [line for line in lines if line][-1]
            assert json.loads(last.removeprefix("data: "))["error"]["code"] == "stopping"
            assert b" 503 " in whole.recv(100)
            served.thread.join(20)
            assert not served.thread.is_alive()
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
    [record] = told
    assert record.exc_info is None
    assert "3 requests" in record.getMessage()


def test_a_defect_is_a_500_that_tells_nothing(serving, monkeypatch: pytest.MonkeyPatch) -> None:
    served = serving()
    monkeypatch.setattr(served.model, "forward", lambda *_, **__: 1 / 0)
    error = served.refused(URL, ask(), status=500)
    assert error["type"] == "server_error"
    assert "division" not in error["message"]
    text = served.post(URL, ask(stream=True)).text
    assert json.loads(text.strip().rpartition("data: ")[2])["error"]["code"] == "internal_error"
    monkeypatch.undo()
    assert served.say("well again").choices[0].message.content == "well again"


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_this_machine_alone_needs_no_key(host: str) -> None:
    server.check_exposure(host, has_key=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_others_need_a_key(host: str) -> None:
    with pytest.raises(ConfigError, match="API key"):
        server.check_exposure(host, has_key=False)
    server.check_exposure(host, has_key=True)


def test_an_address_that_cannot_be_had() -> None:
    with server.bind("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(ConfigError, match=r"port \d+.*--port"):
            server.bind("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ConfigError, match=r"no-such-host\.invalid"):
        server.bind("no-such-host.invalid", 0)


def test_the_url() -> None:
    with server.bind("127.0.0.1", 0) as bound:
        assert server.url(bound) == f"http://127.0.0.1:{bound.getsockname()[1]}"
    with server.bind("0.0.0.0", 0) as bound:
        assert server.url(bound).startswith("http://localhost:")
