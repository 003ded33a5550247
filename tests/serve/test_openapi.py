"""The description of the whole server."""

from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator

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


def test_keys_and_documents_where_there_are_some(serving, tmp_path, letters) -> None:
    from modelworks.retrieval.collection import Collection
    from modelworks.serve.documents import Documents

    served = serving(api_keys=["k"], documents=Documents(tmp_path, Collection(tmp_path / "store", letters)))
    told = served.http.get("/openapi.json").json()
    assert told["paths"][CHAT]["post"]["security"] == [{"key": []}]
    assert "401" in told["paths"][CHAT]["post"]["responses"]
    assert "401" not in told["paths"]["/health"]["get"]["responses"]
    assert body_of(told, "/api/ask").is_valid({"question": "who?"})
    assert not body_of(told, "/api/ask").is_valid({"question": "x" * 5000})
    assert set(told["paths"]["/api/sync"]["post"]["responses"]) >= {"202", "401"}
