"""The routes that only tell: models, health, the page's files."""

from __future__ import annotations

from importlib import resources

import pytest

from modelworks.serve.guard import CSP


def test_models(served) -> None:
    assert [model.id for model in served.openai.models.list()] == ["echo", "letters"]
    assert served.openai.models.retrieve("echo").owned_by == "modelworks"
    response = served.http.get("/v1/models/other")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


def test_the_page(served) -> None:
    if not (resources.files("modelworks.serve") / "pages" / "index.html").is_file():
        pytest.skip("this package holds no page")
    response = served.http.get("/")
    assert response.headers["content-type"].startswith("text/html")
    assert response.headers["content-security-policy"] == CSP
    assert "unsafe" not in CSP
    for path in ("/../app.py", "/%2e%2e/app.py", "/..%2fapp.py", "/js/../../app.py", "/nothing.js"):
        response = served.http.get(path)
        assert response.status_code == 404, path
        assert response.json()["error"]["type"] == "not_found_error"


def test_head_is_get_without_a_body(served) -> None:
    response = served.http.head("/health")
    assert (response.status_code, response.content) == (200, b"")


def test_adapters_are_models(adapted) -> None:
    listed = adapted.http.get("/v1/models").json()["data"]
    assert [(model["id"], model["type"], model.get("parent")) for model in listed] == [
        ("tiny", "chat", None),
        ("pirate", "chat", "tiny"),
        ("poet", "chat", "tiny"),
        ("letters", "embedding", None),
    ]
    assert adapted.openai.models.retrieve("poet").id == "poet"
