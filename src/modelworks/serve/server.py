"""Binding an address and serving there until a signal comes; streams that have begun are finished first."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable
from typing import Final

import uvicorn
from starlette.applications import Starlette

from modelworks.core.errors import ConfigError

_BACKLOG: Final = 2048
_LAST_WORDS: Final = 1.0
"""Seconds in which answers that are cut can still say so."""
_log = logging.getLogger("modelworks.serve")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to `host`."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, *, has_key: bool) -> None:
    """Raise `ConfigError` for an address that others can reach while anyone may ask."""
    if not has_key and not is_loopback(host):
        raise ConfigError(
            f"host {host} can be reached from other machines, and no API key is set: "
            "give --api-key (or MODELWORKS_API_KEY), or leave --host out to serve this machine only"
        )


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to an address; port 0 takes a free one. Raises `ConfigError` where that cannot be had."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError, OverflowError) as error:
        raise ConfigError(f"host {host}: {getattr(error, 'strerror', None) or error}") from error
    family, kind, protocol, _, address = found[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, OverflowError) as error:
        bound.close()
        raise ConfigError(
            f"cannot serve at {host} port {port}: {getattr(error, 'strerror', None) or error}; --port chooses another"
        ) from error
    return bound


def url(bound: socket.socket) -> str:
    """Where a browser finds a socket's server."""
    host, port = bound.getsockname()[:2]
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def make_server(
    app: Starlette, *, shutdown_seconds: int = 30, on_start: Callable[[], None] | None = None
) -> uvicorn.Server:
    """A server for sockets of `bind`: `server.run([socket])`, and `server.should_exit = True` ends it.

    It then takes no more connections, and lets requests that have begun go on for `shutdown_seconds`; those that take
    longer are cut by `app.state.cut`, streams with an event that says so. `on_start` is called once connections are
    taken.
    """
    config = uvicorn.Config(
        app,
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # the peer's address decides nothing, and must not look as if a header could set it
        ws="none",
        backlog=_BACKLOG,
        timeout_keep_alive=30,
        # `_Server` ends what is late itself; uvicorn would end it with a traceback each.
        timeout_graceful_shutdown=shutdown_seconds + 10,
    )
    return _Server(config, app, shutdown_seconds, on_start)


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, app: Starlette, shutdown_seconds: float, on_start: Callable[[], None] | None
    ) -> None:
        super().__init__(config)
        self._app = app
        self._shutdown_seconds = shutdown_seconds
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._on_start is not None:
            self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        cutting = asyncio.ensure_future(self._cut())
        try:
            await super().shutdown(sockets)
        finally:
            cutting.cancel()
        if self.server_state.tasks:  # a second signal: nothing is waited for
            self._hang_up()
            await asyncio.wait([*self.server_state.tasks], timeout=_LAST_WORDS)

    async def _cut(self) -> None:
        """End what is still under way when its time is over: answers first, then the connections that stay."""
        await asyncio.sleep(self._shutdown_seconds)
        late = len(self.server_state.tasks)
        _log.warning("%d requests were still under way after %g seconds and are cut", late, self._shutdown_seconds)
        await asyncio.to_thread(self._app.state.cut)
        await asyncio.sleep(_LAST_WORDS)
        self._hang_up()

    def _hang_up(self) -> None:
        """Close every connection at once, which their requests take for clients that left."""
        for connection in [*self.server_state.connections]:
            if (transport := connection.transport) is not None:
                transport.abort()
