"""Who may ask, from where, and how many at once: what is decided before any endpoint sees a request."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Sequence
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modelworks.serve.errors import ApiError
from modelworks.serve.events import error_response
from modelworks.serve.metrics import Metrics
from modelworks.serve.service import Limits

CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = (
    ("content-security-policy", CSP),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
)
GUARDED: Final = ("/v1/", "/api/", "/metrics", "/mcp")
"""What a key is needed for; the page and `/health` tell nothing that is anyone's."""


class Guarded(Protocol):
    """What a guard asks of what it stands before; `Service` is one."""

    @property
    def metrics(self) -> Metrics: ...
    @property
    def limits(self) -> Limits: ...
    @property
    def api_keys(self) -> Sequence[str]: ...
    @property
    def hosts(self) -> Sequence[str]: ...
    @property
    def any_address(self) -> bool: ...
    @property
    def replicas(self) -> Any: ...


class Guard:
    """ASGI middleware that refuses requests, counts them and adds the headers that every answer has."""

    def __init__(self, app: ASGIApp, service: Guarded, routes: Sequence[str]) -> None:
        """`routes`: the paths that are counted under their own names; one that ends in "/", with all below it."""
        self._app = app
        self._service = service
        self._routes = sorted(routes, key=len, reverse=True)
        self._keys = [_digest(key.encode()) for key in service.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        metrics = self._service.metrics
        status = 499  # what proxies log for a client that left before an answer began

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(raw=message["headers"])
                for name, value in _HEADERS:
                    headers[name] = value
                headers.setdefault("cache-control", "no-cache")
                if self._service.replicas is None:  # where there are several, Ray's proxy says it
                    headers["x-request-id"] = f"req_{secrets.token_hex(12)}"
                message["headers"] = headers.raw
            await send(message)

        metrics.in_flight += 1
        try:
            self._check(scope["path"], Headers(scope=scope))
            await self._app(scope, receive, send_guarded)
        except ApiError as error:
            await error_response(error)(scope, receive, send_guarded)
        finally:
            metrics.in_flight -= 1
            method = scope["method"] if scope["method"] in ("GET", "POST", "HEAD", "OPTIONS") else "other"
            metrics.requests[self._route(scope["path"]), method, status] += 1

    def _check(self, path: str, headers: Headers) -> None:
        """Raise `ApiError` for a request that may not be made."""
        # A page elsewhere can make a browser send requests here, under its own name's DNS record (rebinding).
        host = headers.get("host", "")
        if not self._is_own(host):
            raise ApiError(
                403, f"Host {host[:80]!r} is not a name of this server; start it with --allow-host to add one"
            )
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise ApiError(403, f"requests from {origin[:80]!r} are refused: only pages of this server may send them")
        if self._keys and path.startswith(GUARDED):
            self._check_key(headers.get("authorization", ""))
        if self._service.metrics.in_flight > self._service.limits.in_flight and path != "/health":
            raise ApiError(503, "too many requests are under way", code="overloaded", retry_after=1)

    def _is_own(self, host: str) -> bool:
        name = _hostname(host)
        if name is None:
            return False
        if name in self._service.hosts:
            return True
        if not self._service.any_address:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _check_key(self, authorization: str) -> None:
        scheme, _, key = authorization.partition(" ")
        given = _digest(key.strip().encode("latin-1"))  # as the header's bytes were read
        # Every key is compared, each in constant time, so that the time tells nothing of them.
        known = [hmac.compare_digest(given, each) for each in self._keys]
        if scheme.lower() != "bearer" or not any(known):
            said = "the API key is wrong" if authorization else "an API key is needed: Authorization: Bearer KEY"
            raise ApiError(401, said, code="invalid_api_key")

    def _route(self, path: str) -> str:
        for route in self._routes:
            if path == route or (route.endswith("/") and path.startswith(route)):
                return route
        return "other"


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _hostname(host: str) -> str | None:
    """The name in a `Host` header, in lower case and without port and brackets; None for what is no such header."""
    if any(character in host for character in "/@?#\\ ,"):
        return None
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
        return parts.hostname
    except ValueError:
        return None
