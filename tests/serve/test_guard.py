"""Who may ask, from where; what every answer's headers say."""

from __future__ import annotations

import pytest

PROTECTED = ["/v1/models", "/metrics"]


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "a@localhost", "", "["],
)
def test_a_foreign_host_is_refused(served, host: str) -> None:
    """A foreign Host header drives a local server (agents.md fault 14, notebooklm-py#1869)."""
    for path in ("/health", "/", "/v1/models"):
        response = served.http.get(path, headers={"host": host})
        assert response.status_code in (400, 403), response.text  # h11 itself refuses what is no host at all
    assert served.post("/v1/chat/completions", {}, headers={"host": host}).status_code in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "[::1]:80", "localhost."])
def test_this_servers_own_names(served, host: str) -> None:
    expected = 403 if host.endswith(".") else 200
    assert served.http.get("/health", headers={"host": host}).status_code == expected


def test_other_names_and_addresses_where_they_are_allowed(serving) -> None:
    served = serving(hosts=("box.lan",), any_address=True)
    for host, status in (("box.lan", 200), ("10.1.2.3:99", 200), ("[fe80::1]", 200), ("other.lan", 403)):
        assert served.http.get("/health", headers={"host": host}).status_code == status, host


def test_pages_elsewhere_may_not_ask(served) -> None:
    own = f"http://localhost:{served.port}"
    for origin, status in (
        (own, 200),
        ("https://evil.example", 403),
        ("null", 403),
        (f"http://localhost:{served.port + 1}", 403),
        ("http://127.0.0.1.evil.example", 403),
    ):
        headers = {"host": f"localhost:{served.port}", "origin": origin}
        assert served.http.get("/v1/models", headers=headers).status_code == status, origin
    response = served.http.options("/v1/chat/completions", headers={"origin": "https://evil.example"})
    assert response.status_code == 403
    assert "access-control-allow-origin" not in response.headers


def test_keys(serving) -> None:
    served = serving(api_keys=["first", "zweiter-schlüssel"])
    for path in PROTECTED:
        for given in (None, "", "Bearer", "Bearer wrong", "Bearer firs", "Bearer first2", "Basic first", "first"):
            response = served.http.get(path, headers={} if given is None else {"authorization": given})
            assert response.status_code == 401, given
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.json()["error"]["code"] == "invalid_api_key"
        assert served.http.get(path, headers={"authorization": "Bearer first"}).status_code == 200
        other = "Bearer zweiter-schlüssel".encode()
        assert served.http.get(path, headers=[(b"authorization", other)]).status_code == 200
    assert served.post("/v1/chat/completions", {"model": "echo"}).status_code == 401
    assert served.http.get("/health").status_code == 200


def test_every_answer_has_the_headers(served) -> None:
    for response in (
        served.http.get("/health"),
        served.http.get("/no/such/page"),
        served.post("/v1/chat/completions", {}),
        served.http.get("/health", headers={"host": "evil.example"}),
        served.post("/v1/completions", {"model": "echo", "prompt": "x", "stream": True}),
    ):
        assert response.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["x-request-id"].startswith("req_")
        assert "server" not in response.headers
