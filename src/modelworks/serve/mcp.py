"""Tools over MCP's streamable HTTP at `/mcp`, behind the guard that every server of modelworks has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from modelworks.serve.app import http_error
from modelworks.serve.guard import Guard
from modelworks.serve.metrics import Metrics
from modelworks.serve.service import LOOPBACK, Limits

PATH: Final = "/mcp"
_LIMITS: Final = Limits(body_bytes=4 << 20, in_flight=256)
_SESSIONS: Final = 256


@dataclass(frozen=True)
class Offering:
    """A server of tools, and who may come to it."""

    server: Server[Any]
    api_keys: Sequence[str] = ()
    hosts: Sequence[str] = LOOPBACK
    any_address: bool = False
    limits: Limits = _LIMITS
    metrics: Metrics = field(default_factory=Metrics)
    replicas: None = None


def create_mcp_app(offering: Offering, **more: Any) -> Starlette:
    """The ASGI application; `more` is as the SDK's session manager takes it."""
    manager = StreamableHTTPSessionManager(
        offering.server, max_request_body_size=offering.limits.body_bytes, max_sessions=_SESSIONS, **more
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with manager.run():
            yield

    app = Starlette(
        routes=[Route(PATH, StreamableHTTPASGIApp(manager))],
        lifespan=lifespan,
        middleware=[Middleware(Guard, service=offering, routes=[PATH])],
        exception_handlers={HTTPException: http_error},
    )
    app.state.cut = lambda: None  # a stream that stays open waits for what may never come
    return app
