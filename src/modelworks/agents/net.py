"""HTTP that reaches public addresses only, whatever a model, a page or a redirect writes as a URL.

A name is resolved once. Every address that it has must be public, and the connection goes to one of those by number, so
that a second answer of the name server (rebinding) decides nothing; TLS still verifies the name. Each hop of a redirect
is checked anew. Time, headers and body are capped, the body after decompression too. No proxy is used, and neither
cookies nor a `.netrc`.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import queue
import re
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from urllib.parse import quote, urljoin, urlsplit

from modelworks.core.errors import ModelworksError

Resolve: TypeAlias = Callable[[str, int], Sequence[str]]

_PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443}
_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
_SAFE: Final = frozenset(("GET", "HEAD"))
_TO_ONE_ORIGIN: Final = frozenset(("authorization", "cookie"))
# What frames a request on its connection, or says whose it is.
_OURS: Final = frozenset(
    ("host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "expect", "keep-alive")
)
_NO_URL: Final = re.compile(r"[\x00-\x20\x7f\\]")
_NAME: Final = re.compile(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
# What browsers and inet_aton take for the end of an IPv4 address: 127.1, 0x7f.1 and 2130706433 are 127.0.0.1.
_NUMBER: Final = re.compile(r"\d+|0x[0-9a-f]*")
_PATH_SAFE: Final = "/%:@!$&'()*+,;=~?"

# IANA's registries of special-purpose addresses, and multicast. Of IPv6 only 2000::/3 is for the public at all: outside
# lie loopback, link-local, unique local, multicast, IPv4-mapped and -compatible addresses and NAT64's.
_UNICAST: Final = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("2000::/3"))
_SPECIAL: Final = tuple(
    map(
        ipaddress.ip_network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
            *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
            *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
            "168.63.129.16/32",  # Azure's host agent, which answers every virtual machine
            "2001::/23",  # protocols of their own: Teredo, ORCHID, benchmarks
            "2001:db8::/32",
            "2002::/16",  # 6to4, which leads to the IPv4 address within
            "3fff::/20",
        ),
    )
)


class NetError(ModelworksError):
    """A URL may not be reached, cannot be, or answers with more than may be taken; the message says which."""


@dataclass(frozen=True, slots=True)
class Access:
    """What may be reached over the network, and how much of it may be taken."""

    domains: tuple[str, ...] = ()
    """Where there are any, only these names and those below them."""
    ports: frozenset[int] = frozenset((80, 443))
    private: tuple[str, ...] = ()
    """`host:port` that may be reached wherever they are, such as a search server on this machine."""
    body_bytes: int = 4 << 20
    header_bytes: int = 64 << 10
    seconds: float = 30.0
    """For everything together: names, redirects, and the body's last byte."""
    redirects: int = 5


@dataclass(frozen=True, slots=True)
class Response:
    """What a server answered."""

    url: str
    """Where it came from after redirects, without user name, password and fragment."""
    status: int
    headers: Mapping[str, str]
    """By lower-case name; several of one name are joined with commas."""
    body: bytes

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def charset(self) -> str:
        """The encoding that the server declares; "" for none."""
        found = re.search(r"charset\s*=\s*[\"']?([\w:.-]+)", self.headers.get("content-type", ""), re.I)
        return found[1] if found else ""


def is_public(address: str) -> bool:
    """Whether an IP address is one that anybody on the internet can be reached at. Raises ValueError for none."""
    found = ipaddress.ip_address(address)
    return any(found in each for each in _UNICAST) and not any(found in each for each in _SPECIAL)


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name, as the system knows them. Raises OSError."""
    return [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def request(
    url: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    access: Access | None = None,
    resolve: Resolve = resolve,
) -> Response:
    """Ask a URL, within what `access` allows.

    Redirects of GET and HEAD are followed, with `Authorization` and `Cookie` dropped where they lead to another origin.
    Of other methods they are returned as they are: what may be sent to one address was not meant for another.

    Raises `NetError`. A status of 400 and more is no error here.
    """
    access = access or Access()
    deadline = time.monotonic() + access.seconds
    given = {name.lower(): value for name, value in (headers or {}).items()}
    if forbidden := sorted(name for name in given if name in _OURS or name.startswith("proxy-")):
        raise NetError(f"the header {forbidden[0]!r} is set by the client itself; leave it out")
    target = _target(url, access)
    for _ in range(access.redirects + 1):
        response = _ask(target, method, given, body, access, resolve, deadline)
        location = response.headers.get("location")
        if response.status not in _REDIRECTS or location is None or method not in _SAFE:
            return response
        following = _target(urljoin(target.url, _utf8(location)), access)
        if following.origin != target.origin:
            given = {name: value for name, value in given.items() if name not in _TO_ONE_ORIGIN}
        target = following
    raise NetError(f"{url}: more than {access.redirects} redirects")


# --- what a URL means -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Target:
    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port

    @property
    def place(self) -> str:
        """The host as headers and URLs have it, its port only where that is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.place}{self.path}"


def _target(url: str, access: Access) -> _Target:
    """What to connect to for a URL, or `NetError`."""
    if _NO_URL.search(url):
        raise NetError(f"{url!r} is no URL: it has a space, a backslash or a control character in it")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        path, query = quote(parts.path or "/", safe=_PATH_SAFE), quote(parts.query, safe=_PATH_SAFE)
    except ValueError as error:
        raise NetError(f"{url!r} is no URL: {error}") from error
    if parts.scheme not in _PORTS:
        raise NetError(f"{url!r}: only http:// and https:// can be asked")
    if not host:
        raise NetError(f"{url!r} names no host")
    host = _canonical(host)
    target = _Target(
        parts.scheme, host, _PORTS[parts.scheme] if port is None else port, f"{path}?{query}" if query else path
    )
    if _is_private_allowed(target, access):
        return target
    if target.port not in access.ports:
        raise NetError(f"{target.url}: port {target.port} is not among {', '.join(map(str, sorted(access.ports)))}")
    if access.domains and not any(host == each or host.endswith(f".{each}") for each in access.domains):
        raise NetError(f"{target.url}: {host} is not within {', '.join(access.domains)}")
    return target


def _canonical(host: str) -> str:
    """A host in its one spelling: an address as `ipaddress` writes it, or a name in ASCII and lower case."""
    if ":" in host:
        if "%" in host:
            raise NetError(f"{host!r} names an interface of this machine, which is not reached")
        try:
            return str(ipaddress.IPv6Address(host))
        except ValueError as error:
            raise NetError(f"{host!r} is no IPv6 address") from error
    try:
        name = host.encode("idna").decode("ascii").lower().removesuffix(".")
    except UnicodeError as error:
        raise NetError(f"{host!r} is no name of a host") from error
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        try:
            return str(ipaddress.IPv4Address(name))
        except ValueError as error:
            raise NetError(f"{host!r} is no IPv4 address; it is written as four decimal numbers") from error
    if not _NAME.fullmatch(name):
        raise NetError(f"{host!r} is no name of a host")
    return name


def _is_private_allowed(target: _Target, access: Access) -> bool:
    host = f"[{target.host}]" if ":" in target.host else target.host
    return f"{host}:{target.port}" in access.private


def _addresses(target: _Target, access: Access, resolve: Resolve, deadline: float) -> list[str]:
    """Where to connect: all addresses of the host, each of which may be connected to, or `NetError`."""
    allowed = _is_private_allowed(target, access)
    if not allowed and (target.host == "localhost" or target.host.endswith(".localhost")):
        raise NetError(f"{target.url}: refused: {target.host} is this machine")
    found = list(dict.fromkeys(_resolved(target, resolve, deadline)))
    if not found:
        raise NetError(f"{target.url}: {target.host} has no address")
    try:
        refused = not allowed and not all(map(is_public, found))
    except ValueError as error:
        raise NetError(f"{target.url}: {target.host} has an address that is none: {error}") from error
    if refused:  # which address it is stays here: a model has no need to learn the local network
        raise NetError(f"{target.url}: refused: {target.host} is at no public address")
    return found


def _resolved(target: _Target, resolve: Resolve, deadline: float) -> Sequence[str]:
    # The system's resolver knows no timeout of ours, so it is waited for from outside.
    answers: queue.SimpleQueue[Sequence[str] | OSError | UnicodeError] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            answers.put(resolve(target.host, target.port))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    threading.Thread(target=look_up, name="resolve", daemon=True).start()
    try:
        answer = answers.get(timeout=_left(target, deadline))
    except queue.Empty:
        raise NetError(f"{target.url}: no answer of the name server in time") from None
    if isinstance(answer, Exception):
        raise NetError(f"{target.url}: {target.host} cannot be resolved: {_reason(answer)}") from answer
    return answer


# --- one exchange -----------------------------------------------------------------------------------------------------


def _ask(
    target: _Target,
    method: str,
    headers: Mapping[str, str],
    body: bytes | None,
    access: Access,
    resolve: Resolve,
    deadline: float,
) -> Response:
    try:
        addresses = _addresses(target, access, resolve, deadline)
        with _connected(target, addresses, deadline) as connected:
            wire = _Wire(connected, target, deadline, access.header_bytes)
            connection = http.client.HTTPConnection(target.host, target.port)
            connection.auto_open = 0
            connection.sock = wire
            connection.putrequest(method, target.path, skip_host=True, skip_accept_encoding=True)
            for name, value in _headers(target, headers, body).items():
                connection.putheader(name, value)
            connection.endheaders(body)
            with connection.getresponse() as answer:
                wire.budget += 2 * access.body_bytes  # twice, for chunks have frames
                taken = _body(answer, target, access.body_bytes)
            joined: dict[str, str] = {}
            for name, value in answer.getheaders():
                name = name.lower()
                joined[name] = f"{joined[name]}, {value}" if name in joined and name != "location" else value
            return Response(target.url, answer.status, joined, taken)
    except TimeoutError as error:
        raise NetError(f"{target.url}: no whole answer within {access.seconds:g} seconds") from error
    except (OSError, http.client.HTTPException, zlib.error) as error:
        raise NetError(f"{target.url}: {_reason(error)}") from error
    except ValueError as error:  # what http.client finds wrong with a method, a path or a header
        raise NetError(f"{target.url}: not a request that can be sent: {error}") from error


def _headers(target: _Target, given: Mapping[str, str], body: bytes | None) -> dict[str, str]:
    ours = {"host": target.place, "connection": "close"}
    if body is not None:
        ours["content-length"] = str(len(body))
    return {"user-agent": "modelworks", "accept": "*/*", "accept-encoding": "gzip", **given, **ours}


def _connected(target: _Target, addresses: Sequence[str], deadline: float) -> socket.socket:
    """A connection to the first address that takes one."""
    failed: OSError | None = None
    for number, address in enumerate(addresses):
        share = _left(target, deadline) / (len(addresses) - number)  # one that is silent leaves time for the others
        try:
            plain = socket.create_connection((address, target.port), timeout=share)
        except OSError as error:
            failed = error
            continue
        if target.scheme == "http":
            return plain
        try:
            plain.settimeout(_left(target, deadline))
            return ssl.create_default_context().wrap_socket(plain, server_hostname=target.host)
        except BaseException:
            plain.close()
            raise
    assert failed is not None
    raise failed


def _body(answer: http.client.HTTPResponse, target: _Target, limit: int) -> bytes:
    encoding = answer.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip", ""):
        raise NetError(f"{target.url}: its body is encoded as {encoding!r}, which was not asked for")
    unpack = None if encoding in ("identity", "") else zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    taken = bytearray()
    while piece := answer.read1(1 << 16):
        taken += piece if unpack is None else unpack.decompress(piece, limit - len(taken) + 1)
        if len(taken) > limit:
            raise NetError(f"{target.url}: its body is larger than {limit / (1 << 20):g} MiB")
    if answer.length or (unpack is not None and taken and not unpack.eof):
        raise NetError(f"{target.url}: the connection was closed before the body's end")
    return bytes(taken)


class _Wire:
    """A connection as `http.client` uses one, with a deadline for all of it and a budget of bytes to read."""

    def __init__(self, connected: socket.socket, target: _Target, deadline: float, budget: int) -> None:
        self.budget = budget
        self._socket, self._target, self._deadline = connected, target, deadline

    def sendall(self, data: Any) -> None:
        view = memoryview(data)
        while view:
            self._socket.settimeout(_left(self._target, self._deadline))
            view = view[self._socket.send(view) :]

    def receive(self, buffer: Any) -> int:
        self._socket.settimeout(_left(self._target, self._deadline))
        count = self._socket.recv_into(buffer)
        self.budget -= count
        if self.budget < 0:
            raise NetError(f"{self._target.url}: it sends more than may be taken")
        return count

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb"
        return io.BufferedReader(_Incoming(self))

    def close(self) -> None:
        """Nothing yet: `http.client` closes before it reads the body, and the socket has an owner."""


class _Incoming(io.RawIOBase):
    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._wire.receive(buffer)


def _left(target: _Target, deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _utf8(location: str) -> str:
    """A header's text, which was read as Latin-1, as what most servers mean."""
    return location.encode("latin-1").decode("utf-8", "replace")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip() or type(error).__name__
