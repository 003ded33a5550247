"""The description of the whole server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bodies import READERS, changed
from hypothesis import given, settings
from jsonschema import Draft202012Validator

from modelworks.retrieval.collection import Collection
from modelworks.serve.chat import ChatRequest
from modelworks.serve.completions import CompletionRequest
from modelworks.serve.documents import Documents
from modelworks.serve.embeddings import EmbeddingRequest
from modelworks.serve.responses import ResponseRequest

CHAT = "/v1/chat/completions"


def test_every_path_is_described(served) -> None:
    told = served.http.get("/openapi.json").json()
    assert told["openapi"] == "3.1.0"
    assert set(told["paths"]) == {
        "/health",
        "/metrics",
        "/openapi.json",
        "/v1/models",
        "/v1/models/{model}",
        CHAT,
        "/v1/completions",
        "/v1/responses",
        "/v1/embeddings",
    }
    for path, operations in told["paths"].items():
        for method, operation in operations.items():
            assert served.http.request(method, path.replace("{model}", "echo")).status_code in (200, 400), path
            for status, response in operation["responses"].items():
                assert response["description"]
                schema = response["content"].get("application/json", {}).get("schema", {})
                assert int(status) < 400 or schema == {"$ref": "#/components/schemas/Error"}


def body_of(told: dict[str, Any], path: str) -> Draft202012Validator:
    return Draft202012Validator(told["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"])


def test_it_names_the_models_and_the_errors(served) -> None:
    told = served.http.get("/openapi.json").json()
    body = {"model": "echo", "messages": [{"role": "user", "content": "x"}]}
    assert body_of(told, CHAT).is_valid(body)
    assert not body_of(told, CHAT).is_valid(body | {"model": "other"})
    assert body_of(told, "/v1/embeddings").is_valid({"model": "letters", "input": "x"})
    error = served.refused(CHAT, {})
    Draft202012Validator(told["components"]["schemas"]["Error"]).validate({"error": error})
    assert "security" not in told["paths"][CHAT]["post"]
    assert "securitySchemes" not in told["components"]


def test_adapters_are_models_that_may_be_asked(adapted) -> None:
    body = body_of(adapted.http.get("/openapi.json").json(), CHAT)
    for model, there in (("tiny", True), ("pirate", True), ("nobody", False)):
        assert body.is_valid({"model": model, "messages": [{"role": "user", "content": "x"}]}) == there


@pytest.mark.parametrize(
    ("path", "read", "model"),
    [
        (CHAT, ChatRequest.parse, "echo"),
        ("/v1/completions", CompletionRequest.parse, "echo"),
        ("/v1/responses", ResponseRequest.parse, "echo"),
        ("/v1/embeddings", EmbeddingRequest.parse, "letters"),
    ],
)
def test_every_body_is_answered_as_described(served, path: str, read: Any, model: str) -> None:
    """Right or wrong, whole or as a stream: a status that the description has, and an error in OpenAI's shape."""
    told = served.http.get("/openapi.json").json()
    described = told["paths"][path]["post"]["responses"]
    error = Draft202012Validator(told["components"]["schemas"]["Error"])
    statuses = set()

    @settings(max_examples=60)
    @given(changed(READERS[read]))
    def check(body: dict[str, Any]) -> None:
        if body.get("model") == "m":
            body["model"] = model
        if path != "/v1/embeddings":
            length = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
            body.setdefault(length, 3)
        response = served.post(path, body)
        statuses.add(response.status_code)
        assert str(response.status_code) in described
        assert response.status_code < 500, response.text
        if response.status_code >= 400:
            error.validate(response.json())
        elif body.get("stream") is True:
            events = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: {")]
            assert events
            assert not any("error" in json.loads(each) for each in events)
        else:
            assert set(described["200"]["content"]["application/json"]["schema"]["required"]) <= set(response.json())

    check()
    assert {200, 400} <= statuses


def test_keys_and_documents_where_there_are_some(serving, tmp_path, letters) -> None:
    served = serving(api_keys=["k"], documents=Documents(tmp_path, Collection(tmp_path / "store", letters)))
    told = served.http.get("/openapi.json").json()
    assert told["paths"][CHAT]["post"]["security"] == [{"key": []}]
    assert "401" in told["paths"][CHAT]["post"]["responses"]
    assert "401" not in told["paths"]["/health"]["get"]["responses"]
    assert body_of(told, "/api/ask").is_valid({"question": "who?"})
    assert not body_of(told, "/api/ask").is_valid({"question": "x" * 5000})
    assert set(told["paths"]["/api/sync"]["post"]["responses"]) >= {"202", "401"}
