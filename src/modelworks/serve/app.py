"""The routes: each reads a request, hands it on and sends what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, Protocol, TypeVar

import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from modelworks.retrieval.answer import Answer
from modelworks.serve import chat, completions, embeddings, responses
from modelworks.serve.answer import Answers
from modelworks.serve.documents import Documents, read_question
from modelworks.serve.errors import ApiError, Disconnected
from modelworks.serve.events import EventStream, Json, error_response, event, read_body, told_of, while_connected
from modelworks.serve.fields import Fields
from modelworks.serve.guard import Guard
from modelworks.serve.metrics import render
from modelworks.serve.openapi import Endpoint, Operation, document
from modelworks.serve.service import Service

Asked = TypeVar("Asked", bound="_Streamed")
Parsed = TypeVar("Parsed")

# Every path takes them all, so that a wrong one is told as such and does not fall through to the page's files.
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class _Streamed(Protocol):
    @property
    def stream(self) -> bool: ...


def create_app(service: Service) -> Starlette:
    """The ASGI application; its end closes the engine, which finishes what it has begun."""
    operations = _operations(service)
    routes: list[BaseRoute] = [
        Route(each.path, _limited(each.run, each.method), methods=_METHODS) for each in operations
    ]
    routes += [Route(f"{api}{{rest:path}}", _nothing, methods=_METHODS) for api in ("/v1/", "/api/")]
    routes += _pages()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        service.embedding.shutdown(wait=False, cancel_futures=True)
        await anyio.to_thread.run_sync(service.engine.close)
        if service.documents is not None:
            await anyio.to_thread.run_sync(service.documents.close)

    counted = [each.path.partition("{")[0] for each in operations]
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[Middleware(Guard, service=service, routes=counted)],
        exception_handlers={HTTPException: http_error},
    )
    app.state.service = service
    app.state.cut = partial(service.engine.close, drain=False)
    return app


def _operations(service: Service) -> list[Operation]:
    """What the server does, in the order that paths are looked up in."""
    chat_answer, completion = ("id", "object", "created", "model", "choices", "usage"), completions.CompletionRequest
    listed = ("id", "object", "created", "owned_by")
    streamed = ("application/json", "text/event-stream")

    def generating(service: Service) -> Sequence[str]:
        return service.generating

    found = [
        Operation("GET", "/health", _health, "Whether the server is up", gives=("status", "model")),
        Operation("GET", "/metrics", _metrics, "Counts for Prometheus", kinds=("text/plain",)),
        Operation("GET", "/openapi.json", _openapi, "This description", gives=("openapi", "info", "paths")),
        Operation("GET", "/v1/models", _models, "The models that are served", gives=("object", "data")),
        Operation("GET", "/v1/models/{model:path}", _model, "A model that is served", gives=listed, missing=True),
        Operation(
            "POST",
            "/v1/chat/completions",
            _generated(chat.ChatRequest.parse, chat.begin, chat.whole, chat.events),
            "Messages in, an answer out, whole or as server-sent events",
            gives=chat_answer,
            read=chat.ChatRequest.parse,
            models=generating,
            kinds=streamed,
        ),
        Operation(
            "POST",
            "/v1/completions",
            _generated(completion.parse, completions.begin, completions.whole, completions.events),
            "Texts or token ids, continued",
            gives=chat_answer,
            read=completion.parse,
            models=generating,
            kinds=streamed,
        ),
        Operation(
            "POST",
            "/v1/responses",
            _generated(responses.ResponseRequest.parse, responses.begin, responses.whole, responses.events),
            "Text and function calls, with earlier turns inline",
            gives=("id", "object", "created_at", "model", "status", "output"),
            read=responses.ResponseRequest.parse,
            models=generating,
            kinds=streamed,
        ),
        Operation(
            "POST",
            "/v1/embeddings",
            _embeddings,
            "Texts to vectors of length 1",
            gives=("object", "data", "model", "usage"),
            read=embeddings.EmbeddingRequest.parse,
            models=lambda service: (service.embedder_name,),
        ),
    ]
    if service.documents is not None:
        whole_document = ("name", "title", "text", "pages")
        found += [
            Operation("GET", "/api/documents", _documents, "The documents", gives=("documents", "sync", "coverage")),
            Operation("GET", "/api/documents/{name:path}", _document, "A document", gives=whole_document, missing=True),
            Operation(
                "POST",
                "/api/ask",
                _ask,
                "A question to the documents, answered as server-sent events",
                read=read_question,
                kinds=("text/event-stream",),
            ),
            Operation("POST", "/api/sync", _sync, "Bring the index up to date", gives=("state",), status=202),
        ]
    return found


def _pages() -> Sequence[BaseRoute]:
    """The web page's files, where the package has them."""
    folder = Path(str(resources.files("modelworks.serve"))) / "pages"
    return [Mount("/", StaticFiles(directory=folder, html=True))] if folder.is_dir() else []


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _limited(run: Endpoint, method: str) -> Endpoint:
    """An endpoint whose errors are answers, and that ends when its time is up or its client leaves."""
    methods = (method, "HEAD") if method == "GET" else (method,)

    async def endpoint(request: Request) -> Response:
        try:
            if request.method not in methods:
                raise HTTPException(405, headers={"allow": ", ".join(methods)})
            async with asyncio.timeout(_service(request).limits.seconds):
                return await run(request)
        except Disconnected:
            return Response(status_code=499)
        except HTTPException:
            raise
        except Exception as error:  # noqa: BLE001 - told to the client, a defect to the log
            return error_response(told_of(error))

    return endpoint


async def _body(request: Request, parse: Callable[[Fields], Parsed]) -> Parsed:
    return await read_body(request, _service(request).limits.body_bytes, parse)


def _until(service: Service) -> float:
    return asyncio.get_running_loop().time() + service.limits.seconds


def _generated(
    parse: Callable[[Fields], Asked],
    begin: Callable[[Service, Asked], Awaitable[Answers]],
    whole: Callable[[Service, Asked, Answers], Awaitable[dict[str, Any]]],
    events: Callable[[Service, Asked, Answers], AsyncGenerator[bytes, None]],
) -> Endpoint:
    """The endpoint of an API that generates, whole or as a stream."""

    async def endpoint(request: Request) -> Response:
        service = _service(request)
        until = _until(service)
        asked = await _body(request, parse)
        answers = await while_connected(request.receive, begin(service, asked))
        if asked.stream:
            return EventStream(events(service, asked, answers), until=until, on_end=answers.cancel)
        return Json(await while_connected(request.receive, whole(service, asked, answers)))

    return endpoint


async def _embeddings(request: Request) -> Response:
    asked = await _body(request, embeddings.EmbeddingRequest.parse)
    return Json(await while_connected(request.receive, embeddings.embed(_service(request), asked)))


async def _nothing(_: Request) -> Response:
    raise HTTPException(404)


async def _openapi(request: Request) -> Response:
    service = _service(request)
    return Json(document(service, _operations(service)))


async def _health(request: Request) -> Response:
    return Json({"status": "ok", "model": _service(request).name})


async def _metrics(request: Request) -> Response:
    service = _service(request)
    counted = {"": service.families()} if service.replicas is None else await service.replicas()
    return PlainTextResponse(render(counted), media_type="text/plain; version=0.0.4")


def _listed(service: Service) -> list[dict[str, Any]]:
    shared = {"object": "model", "created": service.started, "owned_by": "modelworks"}
    # Neither is OpenAI's: `type` says which endpoints a model is for, so that the page offers those that chat, and
    # `parent` whose adapter it is.
    listed = [{"id": name, **shared, "type": "chat"} for name in service.generating]
    listed = [each if each["id"] == service.name else each | {"parent": service.name} for each in listed]
    if service.embedder_name not in service.generating:
        listed.append({"id": service.embedder_name, **shared, "type": "embedding"})
    return listed


async def _models(request: Request) -> Response:
    return Json({"object": "list", "data": _listed(_service(request))})


async def _model(request: Request) -> Response:
    asked = request.path_params["model"]
    for model in _listed(_service(request)):
        if model["id"] == asked:
            return Json(model)
    raise ApiError(404, f"there is no model {asked[:80]!r} here", param="model", code="model_not_found")


# --- documents --------------------------------------------------------------------------------------------------------


def _docs(request: Request) -> Documents:
    documents = _service(request).documents
    assert documents is not None
    return documents


async def _documents(request: Request) -> Response:
    return Json(await asyncio.to_thread(_docs(request).listing))


async def _document(request: Request) -> Response:
    return Json(await asyncio.to_thread(_docs(request).document, request.path_params["name"]))


async def _sync(request: Request) -> Response:
    return Json(await asyncio.to_thread(_docs(request).sync), 202)


async def _ask(request: Request) -> Response:
    until = _until(_service(request))
    question = await _body(request, read_question)
    return EventStream(_answer(_docs(request), question), until=until)


async def _answer(documents: Documents, question: str) -> AsyncGenerator[bytes, None]:
    async for found in documents.ask(question):
        if isinstance(found, Answer):
            yield event(found.to_json(), "answer")
        else:
            yield event(asdict(found), "citation")


# --- errors -----------------------------------------------------------------------------------------------------------


async def http_error(_: Request, error: Exception) -> Response:
    """What the router refuses: an unknown path, a method that the path does not have."""
    assert isinstance(error, HTTPException)
    said = {404: "there is nothing at this path", 405: "this path does not take this method"}
    response = error_response(ApiError(error.status_code, said.get(error.status_code, error.detail)))
    response.headers.update(error.headers or {})
    return response
