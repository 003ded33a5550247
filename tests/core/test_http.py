"""Posts to a server of the test's own: tried again, refused, halted. What `feedback` makes of it is tested there."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from modelworks.agents.halt import Halt
from modelworks.core.errors import ConfigError
from modelworks.core.http import Endpoint, PostError, PostHalted


@pytest.fixture
def silent() -> Iterator[tuple[str, socket.socket]]:
    """A server that takes connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1", listening


@pytest.fixture
def flaky() -> Iterator[Any]:
    """Says 503, and the third time what it was sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.seen += 1
            self.send_response(200 if made.seen == 3 else 503)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    made: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.seen = 0
    made.url = f"http://127.0.0.1:{made.server_port}"
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.mark.parametrize("halt", [None, Halt()])
def test_what_passes_is_tried_again(flaky: Any, halt: Halt | None) -> None:
    assert Endpoint(flaky.url, wait=0.01).post("x", {"a": "ü"}, halt) == {"a": "ü"}
    assert flaky.seen == 3
    flaky.seen = 0
    with pytest.raises(PostError, match=r"503 .*\(asked 2 times\)") as caught:
        Endpoint(flaky.url, wait=0.01, tries=2).post("x", {}, halt)
    assert caught.value.tries == 2


def test_a_halt_ends_a_request_at_once_and_closes_its_connection(silent: tuple[str, socket.socket]) -> None:
    url, listening = silent
    halt, failed = Halt(), []

    def ask() -> None:
        try:
            Endpoint(url).post("x", {"question": "?"}, halt)
        except PostHalted as error:
            failed.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    connection, _ = listening.accept()
    with connection:
        assert json.loads(connection.recv(10_000).split(b"\r\n\r\n")[1] or connection.recv(10_000))
        began = time.monotonic()
        halt.set()
        asking.join(5)
        assert time.monotonic() - began < 1
        assert len(failed) == 1
        connection.settimeout(5)
        assert connection.recv(1) == b""


def test_a_halt_ends_the_wait_before_another_try(flaky: Any) -> None:
    halt = Halt()
    threading.Timer(0.2, halt.set).start()
    with pytest.raises(PostHalted):
        Endpoint(flaky.url, wait=30.0).post("x", {}, halt)
    with pytest.raises(PostHalted):
        Endpoint(flaky.url).post("x", {}, halt)


def test_settings_that_cannot_work() -> None:
    with pytest.raises(ConfigError, match="no URL of a model"):
        Endpoint("localhost:8000", whose="model")
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        Endpoint("http://localhost", key="NO_SUCH_KEY")
