"""Tests of `modelworks.agents.mcp.transport`: what a server may send, over HTTP; `test_client.py` has the processes."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("mcp", reason="the MCP SDK is not installed")

import anyio
import httpx2

from modelworks.agents.mcp import transport
from modelworks.agents.mcp.client import McpError, McpServer, Server

sys.path.append(str(Path(__file__).parents[1]))  # for `import web`

import web


@pytest.fixture
def site() -> Iterator[web.Site]:
    with web.site() as made:
        yield made


def got(url: str, allowance: transport.Allowance) -> bytes:
    async def get() -> bytes:
        async with httpx2.AsyncClient(transport=transport._Counting(allowance), trust_env=False) as client:
            return (await client.get(url)).content

    return anyio.run(get)


def test_an_allowance_is_used_up_and_renewed() -> None:
    allowance = transport.Allowance()
    assert allowance.take(transport.CALL_BYTES)
    assert not allowance.take(1)
    allowance.renew()
    assert allowance.take(1)
    assert (transport.MESSAGE_BYTES, transport.CALL_BYTES) == (8 << 20, 32 << 20)  # as the documentation says


def test_bodies_count_until_the_allowance_is_used_up(site: web.Site) -> None:
    url, allowance = site.page("/", bytes(20 << 20)), transport.Allowance()
    assert len(got(url, allowance)) == 20 << 20
    with pytest.raises(httpx2.ReadError, match="more than 32 MiB"):
        got(url, allowance)


def test_a_packed_body_is_refused_for_its_size_is_not_known(site: web.Site) -> None:
    url = site.page("/", gzip.compress(bytes(1 << 20)), content_encoding="gzip")
    with pytest.raises(httpx2.DecodingError, match="not asked for"):
        got(url, transport.Allowance())


def test_a_server_that_answers_with_a_flood_or_sends_elsewhere_is_an_error(
    site: web.Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 13: the SDK posts what a call holds to no other origin."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with web.site() as canary:
        canary.page("/mcp", "{}", content_type="application/json")
        site.page("/moved", status=307, location=f"{canary.url}/mcp")
        site.page("/flood", bytes(40 << 20), content_type="application/json")
        site.page("/page", "<html>", content_type="text/html")
        for path in ("/moved", "/flood", "/page"):
            with (
                pytest.raises(McpError, match="MCP server own"),
                McpServer(Server("own", url=f"{site.url}{path}", seconds=20)),
            ):
                pass
        assert canary.asked == []
