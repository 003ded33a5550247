"""Tests of `modelworks.agents.net`: what may not be reached, and what may not be taken."""

from __future__ import annotations

import gzip
import ipaddress
import socket
import ssl
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.agents import net
from modelworks.agents.net import Access, NetError, is_public, request

sys.path.append(str(Path(__file__).parent))  # for `import web`

import web

looked_up: list[str] = []


def unresolved(host: str, port: int) -> Sequence[str]:
    looked_up.append(host)
    return []


@pytest.fixture(autouse=True)
def _nothing_looked_up() -> Iterator[None]:
    """What is refused for its URL is refused before anything is asked of a name server."""
    looked_up.clear()
    yield
    assert looked_up == []


def loopback(host: str, port: int) -> Sequence[str]:
    return ["127.0.0.1"]


@pytest.fixture
def site() -> Iterator[web.Site]:
    with web.site() as made:
        yield made


@pytest.fixture
def access(site: web.Site) -> Access:
    return Access(private=(site.place,), seconds=20)


# --- addresses --------------------------------------------------------------------------------------------------------

PRIVATE = """0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.100.100.200 127.0.0.1 127.255.255.254 169.254.169.254 172.16.0.1
172.31.255.255 192.0.0.192 192.0.2.1 192.168.1.1 198.18.0.1 198.51.100.7 203.0.113.9 224.0.0.1 239.255.255.250 240.0.0.1
255.255.255.255 192.88.99.1 168.63.129.16 :: ::1 ::7f00:1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::ffff:0:127.0.0.1
64:ff9b::7f00:1 64:ff9b::8.8.8.8 64:ff9b:1::1 100::1 2001::1 2001:0:7f00:1:: 2001:db8::1 2002:7f00:1:: 2002:a00:1::1
3fff::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 fe80::1%lo fec0::1 ff02::1""".split()
PUBLIC = """1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1 172.15.255.255
172.32.0.0 192.167.255.255 192.169.0.0 223.255.255.255 2606:4700::1111 2a00:1450:4001:80b::200e 2001:4860:4860::8888
2003::1""".split()


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_only_this_machine_reaches_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@given(st.ip_addresses())
def test_what_is_public_python_holds_for_global_too(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    # The other way round it does not hold: `is_global` is true of multicast, 6to4 and some mapped addresses.
    assert not is_public(str(address)) or (address.is_global and not address.is_multicast)


SPELLINGS = {
    "decimal": lambda n, o: str(n),
    "hex": lambda n, o: hex(n),
    "octal": lambda n, o: f"0{n:o}",
    "hex parts": lambda n, o: ".".join(map(hex, o)),
    "octal parts": lambda n, o: ".".join(f"0{each:o}" for each in o),
    "padded": lambda n, o: ".".join(f"{each:04d}" for each in o),
    "two parts": lambda n, o: f"{o[0]}.{n & 0xFFFFFF}",
    "three parts": lambda n, o: f"{o[0]}.{o[1]}.{n & 0xFFFF}",
    "mixed": lambda n, o: f"{hex(o[0])}.{o[1]}.0{o[2]:o}.{o[3]}",
    "dotted": lambda n, o: ".".join(map(str, o)),
    "with a dot": lambda n, o: ".".join(map(str, o)) + ".",
    "wide": lambda n, o: "".join(chr(ord(c) + 0xFEE0) if c.isdigit() else "。" for c in ".".join(map(str, o))),
    "mapped": lambda n, o: f"[::ffff:{'.'.join(map(str, o))}]",
    "mapped hex": lambda n, o: f"[0:0:0:0:0:FFFF:{n >> 16:x}:{n & 0xFFFF:x}]",
    "compatible": lambda n, o: f"[::{n >> 16:x}:{n & 0xFFFF:x}]",
    "6to4": lambda n, o: f"[2002:{n >> 16:x}:{n & 0xFFFF:x}::1]",
    "nat64": lambda n, o: f"[64:ff9b::{n >> 16:x}:{n & 0xFFFF:x}]",
}


@given(
    st.one_of(*(st.ip_addresses(v=4, network=each) for each in ("127.0.0.0/8", "10.0.0.0/8", "169.254.0.0/16"))),
    st.sampled_from(sorted(SPELLINGS)),
    st.sampled_from(("http", "https")),
)
def test_no_spelling_of_a_private_address_is_connected_to(
    address: ipaddress.IPv4Address, spelling: str, scheme: str
) -> None:
    """Fault 13 (gemini-cli#24230)."""
    host = SPELLINGS[spelling](int(address), address.packed)
    with pytest.raises(NetError):
        request(f"{scheme}://{host}/", resolve=lambda host, port: [host], access=Access(seconds=0.5))


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "localhost.", "a.localhost", "LocalHost."])
def test_this_machine_by_name_is_refused_unasked(host: str) -> None:
    with pytest.raises(NetError, match="this machine"):
        request(f"http://{host}/", resolve=unresolved)


@pytest.mark.parametrize("address", PRIVATE)
def test_a_name_at_a_private_address_is_refused_and_the_address_not_told(address: str) -> None:
    with pytest.raises(NetError, match="no public address") as caught:
        request("http://intranet.test/", resolve=lambda host, port: [address])
    assert address not in str(caught.value)


def test_a_name_with_one_private_address_among_public_ones_is_refused() -> None:
    with pytest.raises(NetError, match="no public address"):
        request("http://both.test/", resolve=lambda host, port: ["8.8.8.8", "10.0.0.1"])


# --- URLs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        *("file:///etc/passwd", "ftp://example.com/", "gopher://example.com/", "data:text/plain,x", "example.com", ""),
        *("http://", "http:///etc", "http://exa mple.com/", "http://example.com\\@127.0.0.1/", "http://example.com:x/"),
        *(
            "http://example.com/\r\nHost: other",
            "http://example.com/\0",
            "http://a..b/",
            "http://[::1",
            "http://[1.2]/",
        ),
        *(
            "http://[fe80::1%25lo]/",
            "http://example.com:99999/",
            "http://ex%61mple.com/",
            "http://℀.test/",
            "http://\ud800/",
        ),
        *(
            "http://1.2.3/",
            "http://1.2.3.4.5/",
            "http://0x/",
            "http://256.1.1.1/",
            "http://example.0x7f/",
            "//example.com/",
        ),
        f"http://{'a' * 300}.com/",
    ],
)
def test_what_is_no_url_is_one_line_and_reaches_nothing(url: str) -> None:
    with pytest.raises(NetError) as caught:
        request(url, resolve=unresolved)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_as_a_url_is_refused_or_resolved_once(text: str) -> None:
    asked = []

    def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["10.0.0.1"]

    with pytest.raises(NetError):
        request(f"http://{text}", resolve=resolve)
    assert len(asked) <= 1


def test_ports_and_domains_are_the_policys(site: web.Site) -> None:
    with pytest.raises(NetError, match=r"port 22 is not among 80, 443"):
        request("http://example.com:22/", resolve=unresolved)
    with pytest.raises(NetError, match=r"evilexample\.com is not within example\.com"):
        request("http://evilexample.com/", resolve=unresolved, access=Access(domains=("example.com",)))
    with pytest.raises(NetError, match="no public address"):  # which comes after the domain was found right
        request("http://api.example.com/", resolve=loopback, access=Access(domains=("example.com",)))


def test_credentials_in_a_url_are_neither_sent_nor_told(site: web.Site, access: Access) -> None:
    site.page("/", "hello")
    answer = request(f"http://user:secret@{site.place}/#part", access=access)
    assert answer.url == f"{site.url}/"
    assert "authorization" not in site.asked[0][2]


def test_a_url_beyond_ascii_is_sent_escaped(site: web.Site, access: Access) -> None:
    site.page("/caf%C3%A9?q=%C3%BC&a=%20", "hello")
    assert request(f"{site.url}/café?q=ü&a=%20", access=access).body == b"hello"


# --- what is connected to ---------------------------------------------------------------------------------------------


def test_a_name_that_changes_its_address_is_connected_to_at_the_one_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault 13: rebinding. The name is asked for once, and the connection goes to a number."""
    answers = iter([["8.8.8.8"], ["127.0.0.1"], ["127.0.0.1"]])
    connected = []

    def create_connection(address: tuple[str, int], timeout: float) -> socket.socket:
        connected.append(address)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(net.socket, "create_connection", create_connection)
    with pytest.raises(NetError, match="Connection refused"):
        request("http://rebinding.test/", resolve=lambda host, port: next(answers))
    assert connected == [("8.8.8.8", 80)]
    assert next(answers) == ["127.0.0.1"]


def test_an_address_that_refuses_leads_to_the_next(site: web.Site) -> None:
    site.page("/", "hello")
    place = f"site.test:{site.port}"
    answer = request(
        f"http://{place}/", access=Access(private=(place,)), resolve=lambda host, port: ["127.0.0.2", "127.0.0.1"]
    )
    assert answer.body == b"hello"
    assert site.asked[0][2]["host"] == place


def test_a_redirect_is_checked_anew(site: web.Site, access: Access) -> None:
    """Fault 13: a page that may be reached sends on to one that may not."""
    with web.site() as canary:
        canary.page("/", "secret")
        port = canary.port
        for location in (
            *(f"http://127.0.0.1:{port}/", f"http://[::ffff:127.0.0.1]:{port}/", f"//127.0.0.1:{port}/"),
            *(
                f"http://2130706433:{port}/",
                f"http://localhost:{port}/",
                "file:///etc/passwd",
                "http://169.254.169.254/",
            ),
        ):
            site.page("/", status=302, location=location)
            with pytest.raises(NetError):
                request(f"{site.url}/", access=replace(access, ports=frozenset((80, port))))
        assert canary.asked == []


def test_redirects_are_followed_so_far(site: web.Site, access: Access) -> None:
    site.page("/0", status=301, location="1")
    site.page("/1", status=307, location=f"{site.url}/2?x=1#part")
    site.page("/2?x=1", "there")
    assert request(f"{site.url}/0", access=access).url == f"{site.url}/2?x=1"
    site.page("/loop", status=302, location="/loop")
    with pytest.raises(NetError, match="more than 5 redirects"):
        request(f"{site.url}/loop", access=access)


def test_secrets_stay_with_their_origin_and_bodies_with_their_address(site: web.Site, access: Access) -> None:
    with web.site() as other:
        other.page("/", "there")
        both = replace(access, private=(site.place, other.place))
        site.page("/", status=302, location=f"{other.url}/")
        request(f"{site.url}/", access=both, headers={"Authorization": "Bearer x", "Cookie": "a=b", "X-Kept": "y"})
        assert site.asked[0][2]["authorization"] == "Bearer x"
        assert {"authorization", "cookie"}.isdisjoint(other.asked[0][2])
        assert other.asked[0][2]["x-kept"] == "y"
        site.page("/", status=307, location=f"{other.url}/")
        answer = request(f"{site.url}/", method="POST", body=b"private", access=both)
        assert (answer.status, len(other.asked)) == (307, 1)


@pytest.mark.parametrize("name", ["Host", "Content-Length", "transfer-encoding", "Proxy-Authorization"])
def test_headers_that_frame_a_request_cannot_be_given(name: str) -> None:
    with pytest.raises(NetError, match="leave it out"):
        request("http://example.com/", headers={name: "x"}, resolve=unresolved)


@pytest.mark.parametrize(("name", "value"), [("X-A", "b\r\nX-C: d"), ("X\n", "b"), ("X-A", "Ω"), ("", "b")])
def test_headers_cannot_smuggle_others(site: web.Site, access: Access, name: str, value: str) -> None:
    with pytest.raises(NetError, match="not a request"):
        request(f"{site.url}/", headers={name: value}, access=access)
    assert site.asked == []


def test_proxies_of_the_environment_are_not_used(
    site: web.Site, access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    site.page("/", "hello")
    assert request(f"{site.url}/", access=access).body == b"hello"


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for site.test, with its key."""
    folder = tmp_path_factory.mktemp("certificate")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=site.test"
    try:
        subprocess.run(
            [*command.split(), "-addext", "subjectAltName=DNS:site.test", "-keyout", "key", "-out", "cert"],
            cwd=folder,
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    return folder


def test_tls_verifies_the_name_at_the_pinned_address(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert", certificate / "key")

    def speak(connected: socket.socket) -> None:
        with context.wrap_socket(connected, server_side=True) as secure:
            secure.recv(65536)
            secure.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")

    with web.raw(speak, read=False) as port:
        names = ("site.test", "other.test")
        access = Access(private=tuple(f"{name}:{port}" for name in names), seconds=20)
        with pytest.raises(NetError, match="certificate is not valid"):
            request(f"https://site.test:{port}/", access=access, resolve=loopback)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert"))
        assert request(f"https://site.test:{port}/", access=access, resolve=loopback).body == b"hello"
        with pytest.raises(NetError, match="certificate is not valid"):
            request(f"https://other.test:{port}/", access=access, resolve=loopback)


# --- how much ---------------------------------------------------------------------------------------------------------


def test_a_body_is_capped_as_sent_and_as_unpacked(site: web.Site, access: Access) -> None:
    small = replace(access, body_bytes=1000)
    site.page("/exact", b"x" * 1000)
    assert len(request(f"{site.url}/exact", access=small).body) == 1000
    site.page("/large", b"x" * 1001)
    site.page("/bomb", gzip.compress(bytes(50 << 20)), content_encoding="gzip")
    for path in ("/large", "/bomb"):
        with pytest.raises(NetError, match="larger than"):
            request(f"{site.url}{path}", access=small)


def test_a_packed_body_is_unpacked(site: web.Site, access: Access) -> None:
    site.page("/", gzip.compress(b"hello"), content_encoding="gzip")
    assert request(f"{site.url}/", access=access).body == b"hello"
    assert site.asked[0][2]["accept-encoding"] == "gzip"
    site.page("/", gzip.compress(b"hello")[:-4], content_encoding="gzip")
    with pytest.raises(NetError, match="closed before"):
        request(f"{site.url}/", access=access)
    site.page("/", b"not packed", content_encoding="gzip")
    with pytest.raises(NetError, match="incorrect header"):
        request(f"{site.url}/", access=access)
    site.page("/", zlib.compress(b"hello"), content_encoding="br")
    with pytest.raises(NetError, match="not asked for"):
        request(f"{site.url}/", access=access)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"HTTP/1.1 200 OK\r\n" + b"x-a: b\r\n" * 20000, "."),
        (b"HTTP/1.1 200 OK\r\nx-a: " + b"b" * 200_000, "."),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 20000, "more than may be taken"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello", "closed before"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", "."),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n", "."),
        (b"SSH-2.0-OpenSSH\r\n", "."),
        (b"", "."),
    ],
)
def test_a_server_that_floods_or_breaks_off_is_an_error(said: bytes, error: str) -> None:
    with web.raw(lambda connected: connected.sendall(said)) as port, pytest.raises(NetError, match=error):
        request(f"http://127.0.0.1:{port}/", access=Access(private=(f"127.0.0.1:{port}",), seconds=20))


@pytest.mark.parametrize(
    "begin",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nx-a: ",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;",
    ],
)
def test_a_server_that_drips_is_left_in_time(begin: bytes) -> None:
    def drip(connected: socket.socket) -> None:
        connected.sendall(begin)
        while True:
            connected.sendall(b"x")
            time.sleep(0.05)

    with web.raw(drip) as port, pytest.raises(NetError, match=r"within 0\.4 seconds"):
        request(f"http://127.0.0.1:{port}/", access=Access(private=(f"127.0.0.1:{port}",), seconds=0.4))


def test_a_name_server_that_is_silent_is_left_in_time() -> None:
    def silent(host: str, port: int) -> Sequence[str]:
        time.sleep(5)
        return ["8.8.8.8"]

    with pytest.raises(NetError, match="no answer of the name server"):
        request("http://slow.test/", access=Access(seconds=0.2), resolve=silent)


def test_what_cannot_be_reached_is_said_in_one_line() -> None:
    def unknown(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(
        NetError, match=r"^http://nowhere\.test/: nowhere\.test cannot be resolved: Name or service not"
    ):
        request("http://nowhere.test/", resolve=unknown)
    with pytest.raises(NetError, match="has no address"):
        request("http://nowhere.test/", resolve=lambda host, port: [])


def test_what_a_server_declares_is_read(site: web.Site, access: Access) -> None:
    site.page("/", "x", content_type='Text/HTML; Charset="ISO-8859-1"', set_cookie="a=b")
    answer = request(f"{site.url}/", access=access)
    assert (answer.status, answer.media_type, answer.charset) == (200, "text/html", "ISO-8859-1")
    assert request(f"{site.url}/", method="HEAD", access=access).body == b""
    assert "cookie" not in site.asked[-1][2]
    assert request(f"{site.url}/none", access=access).status == 404
