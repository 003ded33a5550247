"""The page on which people compare two answers, over a store of `feedback`; which model said what never leaves here.

What is shown first is the store's to say, and what a person chooses comes as "1" or "2", in the order of their page.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from modelworks.data.sample import Message, Turns
from modelworks.feedback.agreement import measure
from modelworks.feedback.store import (
    ASPECTS,
    LONGEST_COMMENT,
    LONGEST_NAME,
    JudgedError,
    Judgement,
    Store,
    UnknownComparisonError,
)
from modelworks.serve.app import http_error
from modelworks.serve.errors import ApiError, Disconnected
from modelworks.serve.events import Json, error_response, read_body, told_of
from modelworks.serve.fields import Fields
from modelworks.serve.guard import Guard
from modelworks.serve.metrics import Metrics
from modelworks.serve.service import LOOPBACK, Limits

_CHOICES: Final = ("1", "2", "tie", "skip")
_LIMITS: Final = Limits(body_bytes=1 << 20, seconds=60.0)
_EXCERPT: Final = 240  # characters of what is disputed, in the results


@dataclass(frozen=True)
class Comparing:
    """A store that is served, and who may come to it."""

    store: Store
    api_keys: Sequence[str] = ()
    hosts: Sequence[str] = LOOPBACK
    any_address: bool = False
    limits: Limits = _LIMITS
    metrics: Metrics = field(default_factory=Metrics)
    replicas: None = None


def create_compare_app(comparing: Comparing) -> Starlette:
    """The ASGI application; its end closes the store."""
    store = comparing.store
    body = comparing.limits.body_bytes

    async def next_(request: Request) -> Any:
        annotator = await read_body(request, body, _read_annotator)
        return await asyncio.to_thread(_state, store, annotator)

    async def judge(request: Request) -> Any:
        said = await read_body(request, body, _Said.parse)
        return await asyncio.to_thread(_judge, store, said)

    async def undo(request: Request) -> Any:
        annotator = await read_body(request, body, _read_annotator)
        return await asyncio.to_thread(_undo, store, annotator)

    async def results(_: Request) -> Any:
        return await asyncio.to_thread(_results, store)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(store.close)

    paths = {"/api/next": next_, "/api/judgements": judge, "/api/undo": undo}
    pages = Path(str(resources.files("modelworks.serve"))) / "pages"
    app = Starlette(
        routes=[
            *(Route(path, _told(run, comparing.limits.seconds), methods=["POST"]) for path, run in paths.items()),
            Route("/api/results", _told(results, comparing.limits.seconds), methods=["GET"]),
            Route("/", lambda _: RedirectResponse("compare/")),
            Mount("/", StaticFiles(directory=pages, html=True)),
        ],
        lifespan=lifespan,
        middleware=[Middleware(Guard, service=comparing, routes=[*paths, "/api/results"])],
        exception_handlers={HTTPException: http_error},
    )
    app.state.cut = lambda: None  # a request takes milliseconds: there is nothing that could be late
    return app


def _told(run: Callable[[Request], Awaitable[Any]], seconds: float) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint whose errors are answers."""

    async def endpoint(request: Request) -> Response:
        try:
            async with asyncio.timeout(seconds):
                return Json(await run(request))
        except Disconnected:
            return Response(status_code=499)
        except JudgedError as error:
            return error_response(ApiError(409, str(error), code="judged"))
        except UnknownComparisonError as error:
            return error_response(ApiError(404, str(error), code="unknown_comparison"))
        except Exception as error:  # noqa: BLE001 - told to the client, a defect to the log
            return error_response(told_of(error))

    return endpoint


# --- requests ---------------------------------------------------------------------------------------------------------


def _read_annotator(fields: Fields) -> str:
    annotator = fields.needed_text("annotator", most=LONGEST_NAME)
    fields.close()
    return annotator


@dataclass(frozen=True, slots=True)
class _Said:
    """A judgement in the order of the page."""

    annotator: str
    group: str
    comparison: int
    choice: str
    ratings: Sequence[Mapping[str, int]]
    comment: str
    seconds: float | None

    @classmethod
    def parse(cls, fields: Fields) -> _Said:
        fields.need("comparison")
        said = cls(
            annotator=fields.needed_text("annotator", most=LONGEST_NAME),
            group=fields.text("group", "", most=LONGEST_NAME) or "",
            comparison=fields.integer("comparison", 1, 2**63 - 1) or 0,
            choice=fields.needed_choice("choice", _CHOICES),
            ratings=fields.objects("ratings", _read_ratings, most=2),
            comment=fields.text("comment", "", most=LONGEST_COMMENT) or "",
            seconds=fields.number("seconds", 0, 1e8),
        )
        fields.close()
        return said


def _read_ratings(fields: Fields) -> dict[str, int]:
    found = {aspect: fields.integer(aspect, 1, 5) for aspect in ASPECTS}
    fields.close()
    return {aspect: rating for aspect, rating in found.items() if rating is not None}


# --- answers ----------------------------------------------------------------------------------------------------------


def _state(store: Store, annotator: str) -> dict[str, Any]:
    """What one person has before them, and how far they are."""
    task = store.next(annotator)
    return {
        "comparison": None if task is None else _shown(store, task.comparison.id, annotator),
        "progress": asdict(store.progress(annotator)),
        "judgement": None,
    }


def _shown(store: Store, index: int, annotator: str) -> dict[str, Any]:
    task = store.task(index, annotator)
    by_name = {"first": task.comparison.first, "second": task.comparison.second}
    return {
        "id": index,
        "prompt": _turns(task.comparison.prompt, "user"),
        "answers": [_turns(by_name[side].turns, "assistant") for side in _order(task.shown_first)],
    }


def _order(shown_first: str) -> tuple[str, str]:
    return ("first", "second") if shown_first == "first" else ("second", "first")


def _judge(store: Store, said: _Said) -> dict[str, Any]:
    shown_first = store.task(said.comparison, said.annotator).shown_first
    order = _order(shown_first)
    store.judge(
        Judgement(
            comparison=said.comparison,
            annotator=said.annotator,
            group=said.group,
            choice=order[int(said.choice) - 1] if said.choice in "12" else said.choice,  # type: ignore[arg-type]
            ratings={side: rated for side, rated in zip(order, said.ratings) if rated},
            comment=said.comment,
            seconds=said.seconds,
            shown_first=shown_first,
        )
    )
    return _state(store, said.annotator)


def _undo(store: Store, annotator: str) -> dict[str, Any]:
    """The comparison that was judged last, with what was said of it, to be judged again."""
    undone = store.undo(annotator)
    if undone is None:
        return _state(store, annotator)
    order = _order(undone.shown_first or "first")
    choice = str(order.index(undone.choice) + 1) if undone.choice in order else undone.choice
    return {
        "comparison": _shown(store, undone.comparison, annotator),
        "progress": asdict(store.progress(annotator)),
        "judgement": {
            "choice": choice,
            "ratings": [undone.ratings.get(side, {}) for side in order],
            "comment": undone.comment,
        },
    }


def _results(store: Store) -> dict[str, Any]:
    """Agreement, without anything that says which model an answer is of."""
    comparisons = {each.id: each for each in store.comparisons()}
    found = measure(store.judgements()).to_json()
    disputed = [
        each
        | {
            "prompt": _excerpt(comparisons[each["comparison"]].prompt),
            "first": _excerpt(comparisons[each["comparison"]].first.turns),
            "second": _excerpt(comparisons[each["comparison"]].second.turns),
        }
        for each in found["disputed"]
    ]
    return found | {"total": len(comparisons), "disputed": disputed}


def _turns(turns: Turns, role: str) -> list[dict[str, str]]:
    if isinstance(turns, str):
        return [{"role": role, "text": turns}]
    return [{"role": turn["role"], "text": _text(turn)} for turn in turns]


def _text(message: Message) -> str:
    """What a message says; what is no text, such as calls of tools, as JSON."""
    content = message.get("content") or ""
    parts = [content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, indent=1)]
    if calls := message.get("tool_calls"):
        parts.append(json.dumps(calls, ensure_ascii=False, indent=1))
    return "\n\n".join(filter(None, parts))


def _excerpt(turns: Turns) -> str:
    text = " ".join(_turns(turns, "")[-1]["text"].split())
    return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}…"
