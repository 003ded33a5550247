"""The server's description in OpenAPI's words (spec.openapis.org/oas/v3.1.0), made from what its endpoints read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from starlette.requests import Request
from starlette.responses import Response

import modelworks
from modelworks.serve.fields import Fields
from modelworks.serve.guard import GUARDED
from modelworks.serve.service import Service
from modelworks.serve.shape import Schema, describe

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]

_ERROR: Final[Schema] = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "The path of the field at fault"},
                "code": {"type": ["string", "null"]},
            },
            "required": ["message", "type", "param", "code"],
            "additionalProperties": False,
        }
    },
    "required": ["error"],
    "additionalProperties": False,
}
_ALWAYS: Final = {
    403: "A foreign host or page",
    405: "A method that the path does not take",
    503: "Too many requests are under way, or the server stops",
}
_OF_BODIES: Final = {
    400: "A field is wrong or unknown, or the prompt longer than the context",
    413: "The body is too large",
    429: "Too many requests wait",
    504: "The time limit is over",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """A path and method, what runs there, and what it takes and gives."""

    method: Literal["GET", "POST"]
    path: str
    """As Starlette writes it: a parameter that may hold slashes is `{name:path}`."""
    run: Endpoint
    summary: str
    gives: Sequence[str] = ()
    """The fields that its answer always has."""
    read: Callable[[Fields], Any] | None = None
    """What reads its body; None where it has none."""
    models: Callable[[Service], Sequence[str]] | None = None
    """Of which models its body must name one."""
    status: int = 200
    kinds: Sequence[str] = ("application/json",)
    """The media types of its answer."""
    missing: bool = False
    """Whether there may be nothing under that path, or under the model's name."""


def document(service: Service, operations: Sequence[Operation]) -> dict[str, Any]:
    """The OpenAPI document of a server."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = operation.path.replace(":path}", "}")
        paths.setdefault(path, {})[operation.method.lower()] = _operation(service, operation)
    components: dict[str, Any] = {"schemas": {"Error": _ERROR}}
    if service.api_keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "modelworks",
            "version": modelworks.__version__,
            "summary": "A model's HTTP API, as OpenAI's",
        },
        "paths": paths,
        "components": components,
    }


def _operation(service: Service, operation: Operation) -> dict[str, Any]:
    answer: Schema = {"type": "object", "required": [*operation.gives]} if operation.gives else {}
    content = {kind: {"schema": answer if kind == "application/json" else {}} for kind in operation.kinds}
    responses = {str(operation.status): {"description": operation.summary, "content": content}}
    errors = dict(_ALWAYS)
    described: dict[str, Any] = {"summary": operation.summary, "responses": responses}
    _, brace, name = operation.path.partition("{")
    if brace:
        parameter = {"name": name.partition(":")[0], "in": "path", "required": True, "schema": {"type": "string"}}
        described["parameters"] = [parameter]
    if operation.read is not None:
        errors |= _OF_BODIES
        schema = describe(operation.read)
        if operation.models is not None:
            schema["properties"]["model"]["enum"] = list(operation.models(service))
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    if operation.missing or operation.models is not None:
        errors[404] = "No such model or document"
    if service.api_keys and operation.path.startswith(GUARDED):
        errors[401] = "No right key"
        described["security"] = [{"key": []}]
    responses |= _refusals(errors)
    return described


def _refusals(errors: Mapping[int, str]) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {str(status): {"description": why, "content": content} for status, why in sorted(errors.items())}
