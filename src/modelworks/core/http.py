"""JSON to a server and JSON back: tried again where that may help, and given up at once where somebody halts.

answer = Endpoint("http://localhost:8000/v1", key="MY_KEY").post("chat/completions", {"model": "m", ...})
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, Final, Protocol

from modelworks.core.errors import ConfigError, ModelworksError

PASSING: Final = (408, 409, 425, 429, 500, 502, 503, 504)
_LONGEST_WAIT: Final = 30.0
_LARGEST: Final = 64 << 20  # of an answer, in bytes


class PostError(ModelworksError):
    """A server stays away, refuses, or answers with what is no JSON; `tries` is how often it was asked."""

    def __init__(self, reason: str, tries: int) -> None:
        super().__init__(reason + (f" (asked {tries} times)" if tries > 1 else ""))
        self.reason, self.tries = reason, tries


class PostHalted(ModelworksError):
    """The halt came before the answer."""


class Halting(Protocol):
    """What can end a request early, from any thread."""

    def is_set(self) -> bool: ...
    def wait(self, seconds: float) -> bool: ...
    def on_set(self, listener: Callable[[], None]) -> Callable[[], None]: ...


class Endpoint:
    """A server's URL, and the key that is sent to it: the value of the environment variable that `key` names.

    What may pass (no connection, 429, 5xx) is tried again, `tries` times in all, each time after a longer wait. Raises
    ConfigError for a URL that is none and for a variable that is not set; `whose` names the two in the message.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str = "",
        timeout: float = 60.0,
        tries: int = 4,
        wait: float = 1.0,
        whose: str = "server",
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"{url!r} is no URL of a {whose}; it begins with http:// or https://")
        if key and not os.environ.get(key):
            raise ConfigError(f"the environment variable {key}, which is to hold the {whose}'s key, is not set")
        self.url = url.rstrip("/")
        self._key = os.environ.get(key, "") if key else ""
        self._timeout, self._tries, self._wait = timeout, tries, wait

    def post(self, path: str, body: Mapping[str, Any], halt: Halting | None = None) -> Any:
        """The JSON that the server answers with. Raises PostError, and PostHalted at once where `halt` is set.

        A halted request's connection is closed, so that a server which looks knows that nobody waits.
        """
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        request = urllib.request.Request(f"{self.url}/{path}", json.dumps(body).encode(), headers)
        for attempt in range(1, self._tries + 1):
            try:
                return json.loads(self._ask(request, halt))
            except urllib.error.HTTPError as error:
                reason, passing = _told(error), error.code in PASSING
            except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
                reason, passing = str(getattr(error, "reason", error) or type(error).__name__), True
            except (ValueError, RecursionError) as error:
                reason, passing = f"its answer is not JSON: {error}", False
            if halt is not None and halt.is_set():
                raise PostHalted(f"{self.url}: halted")
            if not passing:
                break
            if attempt < self._tries:
                self._rest(min(self._wait * 2 ** (attempt - 1), _LONGEST_WAIT), halt)
        raise PostError(" ".join(reason.split()), attempt)

    def _rest(self, seconds: float, halt: Halting | None) -> None:
        if halt is None:
            time.sleep(seconds)
        elif halt.wait(seconds):
            raise PostHalted(f"{self.url}: halted")

    def _ask(self, request: urllib.request.Request, halt: Halting | None) -> bytes:
        """One try. Under a halt it runs in a thread of its own: a look-up of a name cannot be broken off, only left."""
        if halt is None:
            return _read(urllib.request.build_opener(), request, self._timeout)
        answer: Future[bytes] = Future()
        connections = _Connections()

        def ask() -> None:
            try:
                answer.set_result(_read(connections.opener(), request, self._timeout))
            except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
                answer.set_exception(error)

        asked = threading.Event()
        answer.add_done_callback(lambda _: asked.set())
        forget = halt.on_set(asked.set)
        try:
            threading.Thread(target=ask, name="modelworks-post", daemon=True).start()
            asked.wait()
        finally:
            forget()
        if halt.is_set():
            connections.close()
            raise PostHalted(f"{self.url}: halted")
        return answer.result()


def _read(opener: urllib.request.OpenerDirector, request: urllib.request.Request, timeout: float) -> bytes:
    with opener.open(request, timeout=timeout) as reply:
        data: bytes = reply.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST >> 20} MiB")
    return data


class _Connections:
    """The connections that a request opens, so that another thread can cut them."""

    def __init__(self) -> None:
        self._opened: list[http.client.HTTPConnection] = []

    def opener(self) -> urllib.request.OpenerDirector:
        plain, secure = urllib.request.HTTPHandler(), urllib.request.HTTPSHandler()
        plain.http_open = partial(self._open, plain, http.client.HTTPConnection)  # type: ignore[method-assign]
        secure.https_open = partial(self._open, secure, http.client.HTTPSConnection)  # type: ignore[method-assign]
        return urllib.request.build_opener(plain, secure)

    def _open(
        self,
        handler: urllib.request.AbstractHTTPHandler,
        kind: type[http.client.HTTPConnection],
        request: urllib.request.Request,
    ) -> http.client.HTTPResponse:
        def connect(host: str, **settings: Any) -> http.client.HTTPConnection:
            connection = kind(host, **settings)
            self._opened.append(connection)
            return connection

        return handler.do_open(connect, request)

    def close(self) -> None:
        for connection in self._opened:
            with suppress(OSError):
                if isinstance(connection.sock, socket.socket):
                    connection.sock.shutdown(socket.SHUT_RDWR)


def _told(error: urllib.error.HTTPError) -> str:
    """The status, and what the server says of it."""
    try:
        said = json.loads(error.read(10_000))["error"]
        return f"{error.code} {said['message'] if isinstance(said, dict) else said}"
    except (ValueError, KeyError, TypeError, OSError):
        return f"{error.code} {error.reason}"
