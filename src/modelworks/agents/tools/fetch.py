"""The web: `fetch` reads a page as text, `http_request` asks an interface. Both reach public addresses only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from modelworks.agents.net import Access, NetError, Response, request
from modelworks.agents.tool import Effect, Result, Tool, tool
from modelworks.core.errors import DocumentError
from modelworks.data import documents
from modelworks.data.documents.encoding import decode

Method: TypeAlias = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
READING: Final[tuple[Method, ...]] = ("GET", "HEAD")
EVERY: Final[tuple[Method, ...]] = (*READING, "POST", "PUT", "PATCH", "DELETE")

_SUFFIXES: Final[Mapping[str, str]] = {
    "text/html": ".html",
    "application/xhtml+xml": ".html",
    "application/pdf": ".pdf",
    "text/markdown": ".md",
    "text/csv": ".csv",
    "text/plain": ".txt",
    "application/json": ".json",
}
_SHOWN: Final = ("content-type", "location", "retry-after", "etag", "last-modified", "link")
"""Headers that a model can do something with; the others only fill its context."""


def fetch(access: Access | None = None, *, characters: int = 8000) -> Tool:
    """A tool that reads a page, a PDF or another text of the web, at most `characters` of it at a time."""
    allowed = access or Access()

    @tool(name="fetch", effects=["network"], timeout=2 * allowed.seconds)
    def read(url: str, start: int = 0) -> Result:
        """Read a web page, a PDF or a text at a URL, without its navigation, scripts and pictures.

        Args:
            url: Where it is, with http:// or https://.
            start: The character to read from; 0 for the beginning.
        """
        answer = request(url, access=allowed)
        if answer.status >= 400:
            raise NetError(f"{answer.url}: status {answer.status}")
        title, text = readable(answer)
        return Result(_part(answer.url, title, text, start, characters), frozenset({answer.url}))

    return read


def http_request(access: Access | None = None, *, methods: Sequence[Method] = READING, characters: int = 8000) -> Tool:
    """A tool that sends a request to an HTTP interface, with headers and a body of JSON, by one of the methods.

    With other methods than GET and HEAD it counts as one that writes, whichever a call chooses.
    """
    allowed = access or Access()

    def send(
        url: str, method: Method = methods[0], headers: Mapping[str, str] | None = None, body: Any = None
    ) -> Result:
        sent = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        given = dict(headers or {})
        if sent is not None and not any(name.lower() == "content-type" for name in given):
            given["Content-Type"] = "application/json"
        answer = request(url, method=method, headers=given, body=sent, access=allowed)
        return Result(_told(answer, characters), frozenset({answer.url}), error=answer.status >= 400)

    effects: set[Effect] = {"network"} if set(methods) <= set(READING) else {"network", "writes"}
    properties: dict[str, Any] = {
        "url": {"type": "string", "description": "Where to, with http:// or https://."},
        "method": {"type": "string", "enum": list(methods), "default": methods[0]},
        "headers": {"type": "object", "additionalProperties": {"type": "string"}},
    }
    if effects != {"network"}:
        properties["body"] = {"description": "What to send, as JSON."}
    return Tool(
        name="http_request",
        description="Send a request to an HTTP interface; returns its status, its headers and its body.",
        parameters={"type": "object", "properties": properties, "required": ["url"], "additionalProperties": False},
        run=send,
        effects=frozenset(effects),
        timeout=2 * allowed.seconds,
    )


def readable(answer: Response) -> tuple[str, str]:
    """The title and the text of what a server answered: HTML without what surrounds it, PDF, Office, plain text.

    Raises DocumentError for what holds no text.
    """
    suffix = _SUFFIXES.get(answer.media_type, "")
    data = answer.body
    if suffix != ".pdf" and answer.charset:  # what the server declares wins over what the page says of itself
        text, _ = decode(data, answer.charset)
        data = text.encode("utf-8-sig")
    document = documents.read(data, suffix)
    return document.title, document.text


def _part(url: str, title: str, text: str, start: int, count: int) -> str:
    start = min(max(start, 0), len(text))
    end = min(start + count, len(text))
    lines = [line for line in (title, url) if line] + ["", text[start:end]]
    if start or end < len(text):
        rest = f"; start={end} reads on" if end < len(text) else ""
        lines += ["", f"[characters {start} to {end} of {len(text)}{rest}]"]
    return "\n".join(lines)


def _told(answer: Response, characters: int) -> str:
    lines = [f"{answer.status} {answer.url}"]
    lines += [f"{name}: {answer.headers[name]}" for name in _SHOWN if name in answer.headers]
    try:
        text, _ = decode(answer.body, answer.charset)
    except DocumentError:
        text = f"[{len(answer.body)} bytes that are no text]"
    if len(text) > characters:
        text = f"{text[:characters]}\n[{len(text) - characters} more characters were left out]"
    return "\n".join([*lines, "", text]) if text else "\n".join(lines)
