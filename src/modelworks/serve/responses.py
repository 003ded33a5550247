"""`POST /v1/responses` (platform.openai.com/docs/api-reference/responses), the part that needs no storage.

Text in, text and function calls out, whole or as events. Earlier turns are given inline as items of `input`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from modelworks.engine.grammar import Grammar
from modelworks.serve.answer import Answers, Part, Token
from modelworks.serve.chat import converse, new_id, read_arguments, read_content, token_json
from modelworks.serve.errors import ApiError
from modelworks.serve.events import event
from modelworks.serve.fields import Fields
from modelworks.serve.sampling import MOST_LOGPROBS, read_format, read_sampling
from modelworks.serve.service import Service
from modelworks.serve.tools import Message, Tools, read_tools
from modelworks.text.tokenizer import Tokenizer
from modelworks.text.tool_calls import ToolCall

_LOGPROBS: Final = "message.output_text.logprobs"
_INCLUDABLE: Final = (_LOGPROBS, "reasoning.encrypted_content")  # there is no reasoning to include; agents ask for it
_NO_EFFECT: Final = (
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "prompt_cache_options", "reasoning", "stream_options", "max_tool_calls",
)  # fmt: skip
_STORED: Final = ("previous_response_id", "conversation", "prompt", "background", "context_management")


@dataclass(frozen=True, slots=True)
class ResponseRequest:
    """A request, read and checked."""

    model: str
    messages: Sequence[Message]
    instructions: str | None
    sampling: dict[str, Any]
    tools: Tools
    grammar: Grammar | None
    format: dict[str, Any]
    """`text.format` as it was sent, which the response repeats."""
    logprobs: bool
    stream: bool

    @classmethod
    def parse(cls, fields: Fields) -> ResponseRequest:
        """Raises `ApiError` (400) naming the field that is wrong."""
        instructions = fields.text("instructions")
        messages = _read_input(fields)
        if instructions is not None:
            messages.insert(0, {"role": "system", "content": instructions})
        include = fields.choices("include", _INCLUDABLE)
        top = fields.integer("top_logprobs", 0, MOST_LOGPROBS)
        grammar, stated = _read_text(fields)
        request = cls(
            model=fields.needed_text("model"),
            messages=messages,
            instructions=instructions,
            sampling=read_sampling(fields, max_tokens=("max_output_tokens",), logprobs=top or 0),
            tools=read_tools(fields, nested=False),
            grammar=grammar,
            format=stated,
            logprobs=bool(top) or _LOGPROBS in include,
            stream=fields.flag("stream"),
        )
        fields.choice("truncation", ("disabled",), "disabled")
        for name in _STORED:
            fields.refuse(name, "this server stores nothing; give earlier turns as items of input")
        fields.ignore(*_NO_EFFECT)
        fields.close()
        return request


def _read_text(fields: Fields) -> tuple[Grammar | None, dict[str, Any]]:
    def read(text: Fields) -> tuple[Grammar | None, dict[str, Any]]:
        stated = text.mapping("format") or {"type": "text"}
        grammar = read_format(text, "format", inline=True)
        text.ignore("verbosity")
        text.close()
        return grammar, dict(stated)

    return fields.object("text", read) or (None, {"type": "text"})


def _read_input(fields: Fields) -> list[Message]:
    """`input` as messages: calls that follow each other are one assistant's turn."""
    fields.need("input")
    found = fields.text_or_objects("input", _read_item, least=1)
    if found is None or isinstance(found, str):
        return [{"role": "user", "content": found}]
    messages: list[Message] = []
    for message in found:
        if message is None:
            continue
        if message.get("tool_calls") and messages and messages[-1]["role"] == "assistant":
            last = messages[-1]
            last["tool_calls"] = [*last.get("tool_calls", ()), *message["tool_calls"]]
        else:
            messages.append(message)
    fields.expect(bool(messages), "input", "at least one message")
    return messages


def _read_item(item: Fields) -> Message | None:
    kind = item.choice("type", ("message", "function_call", "function_call_output", "reasoning"), "message")
    item.ignore("id", "status")  # of an item that an earlier response gave
    message: Message | None
    if kind == "reasoning":  # agents send back what other models thought; this one did not
        return None
    if kind == "function_call":
        function = {"name": item.needed_text("name"), "arguments": read_arguments(item)}
        call = {"id": item.needed_text("call_id"), "type": "function", "function": function}
        message = {"role": "assistant", "content": "", "tool_calls": [call]}
    elif kind == "function_call_output":
        item.need("output")
        output = read_content(item, "output", ("input_text", "output_text"))
        message = {"role": "tool", "tool_call_id": item.needed_text("call_id"), "content": output or ""}
    else:
        role = item.needed_choice("role", ("user", "assistant", "system", "developer"))
        item.need("content")
        content = read_content(item, "content", ("input_text", "output_text"))
        item.ignore("phase")
        message = {"role": "system" if role == "developer" else role, "content": content or ""}
    item.close()
    return message


async def begin(service: Service, request: ResponseRequest) -> Answers:
    """Hand a request to the engine. Raises `ApiError` and what `Engine.submit` raises."""
    adapter = service.adapter(request.model)
    return await converse(service, request.messages, request.sampling, request.tools, request.grammar, adapter=adapter)


# --- what is sent -----------------------------------------------------------------------------------------------------

Status = Literal["in_progress", "completed", "incomplete"]


@dataclass(slots=True)
class _Message:
    """An output item of text that is being written."""

    id: str = field(default_factory=lambda: new_id("msg"))
    text: str = ""
    logprobs: list[dict[str, Any]] = field(default_factory=list)

    def part(self) -> dict[str, Any]:
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": self.logprobs}

    def item(self, status: Status) -> dict[str, Any]:
        content = [] if status == "in_progress" else [self.part()]
        return {"id": self.id, "type": "message", "status": status, "role": "assistant", "content": content}


class _Writer:
    """Turns the parts of an answer into events, and keeps the response that they amount to."""

    def __init__(self, service: Service, request: ResponseRequest, answers: Answers) -> None:
        self._tokenizer = service.tokenizer
        self._with_logprobs = request.logprobs
        self._answers = answers
        self._number = 0
        self._open: _Message | None = None
        self._early: list[Token] = []  # tokens whose text is not known yet
        self._response = _response(service, request)
        self._output: list[dict[str, Any]] = self._response["output"]

    @property
    def response(self) -> dict[str, Any]:
        return self._response

    def begin(self) -> Iterator[dict[str, Any]]:
        yield self._event("response.created", response=self._snapshot())
        yield self._event("response.in_progress", response=self._snapshot())

    def part(self, part: Part) -> Iterator[dict[str, Any]]:
        self._early += part.tokens if self._with_logprobs else ()
        if part.text:
            yield from self._write(part.text)
        for call in part.calls:
            yield from self._close("completed")
            self._early.clear()
            yield from self._call(call)
        if part.reason is not None:
            yield from self._end(cut=part.reason == "length")

    def failed(self, error: ApiError) -> dict[str, Any]:
        code = "rate_limit_exceeded" if error.status == 429 else "server_error"
        self._response |= {"status": "failed", "error": {"code": code, "message": error.message}}
        return self._event("response.failed", response=self._snapshot())

    def _event(self, kind: str, **values: Any) -> dict[str, Any]:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **values}

    def _snapshot(self) -> dict[str, Any]:
        return self._response | {"output": list(self._output)}

    def _write(self, text: str) -> Iterator[dict[str, Any]]:
        if self._open is None:
            self._open = _Message()
            yield self._event(
                "response.output_item.added", output_index=len(self._output), item=self._open.item("in_progress")
            )
            yield self._event("response.content_part.added", **self._place(), part=self._open.part())
        logprobs = [_logprob(self._tokenizer, token) for token in self._early]
        self._early.clear()
        self._open.text += text
        self._open.logprobs += logprobs
        yield self._event("response.output_text.delta", **self._place(), delta=text, logprobs=logprobs)

    def _place(self) -> dict[str, Any]:
        assert self._open is not None
        return {"item_id": self._open.id, "output_index": len(self._output), "content_index": 0}

    def _close(self, status: Status) -> Iterator[dict[str, Any]]:
        if (message := self._open) is None:
            return
        place = self._place()
        yield self._event("response.output_text.done", **place, text=message.text, logprobs=message.logprobs)
        yield self._event("response.content_part.done", **place, part=message.part())
        yield self._event("response.output_item.done", output_index=len(self._output), item=message.item(status))
        self._output.append(message.item(status))
        self._open = None

    def _call(self, call: ToolCall) -> Iterator[dict[str, Any]]:
        item = {
            "id": new_id("fc"),
            "type": "function_call",
            "status": "in_progress",
            "call_id": new_id("call"),
            "name": call.name,
            "arguments": "",
        }
        place = {"item_id": item["id"], "output_index": len(self._output)}
        yield self._event("response.output_item.added", output_index=len(self._output), item=dict(item))
        yield self._event("response.function_call_arguments.delta", **place, delta=call.arguments)
        yield self._event("response.function_call_arguments.done", **place, name=call.name, arguments=call.arguments)
        item |= {"status": "completed", "arguments": call.arguments}
        yield self._event("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)

    def _end(self, *, cut: bool) -> Iterator[dict[str, Any]]:
        if self._open is None and not self._output:  # an empty answer is one, too
            yield from self._write("")
        status: Status = "incomplete" if cut else "completed"
        yield from self._close(status)
        answers = self._answers
        self._response |= {
            "status": status,
            "completed_at": None if cut else int(time.time()),
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "usage": {
                "input_tokens": answers.prompt_tokens,
                "input_tokens_details": {"cached_tokens": answers.cached_tokens, "cache_write_tokens": 0},
                "output_tokens": answers.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": answers.prompt_tokens + answers.completion_tokens,
            },
        }
        yield self._event(f"response.{status}", response=self._snapshot())


def _logprob(tokenizer: Tokenizer, token: Token) -> dict[str, Any]:
    top = [token_json(tokenizer, index, value) for index, value in token.top.items()]
    return token_json(tokenizer, token.id, token.logprob) | {"top_logprobs": top}


def _response(service: Service, request: ResponseRequest) -> dict[str, Any]:
    sampling = request.sampling
    tools, choice = request.tools, request.tools.choice
    return {
        "id": new_id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions,
        "max_output_tokens": sampling.get("max_tokens"),
        "model": request.model,
        "output": [],
        "parallel_tool_calls": tools.parallel,
        "previous_response_id": None,
        "background": False,
        "max_tool_calls": None,
        "presence_penalty": sampling.get("presence_penalty", 0.0),
        "frequency_penalty": sampling.get("frequency_penalty", 0.0),
        "prompt_cache_key": None,
        "reasoning": None,
        "safety_identifier": None,
        "service_tier": "default",
        "store": False,
        "temperature": sampling.get("temperature", service.sampling.temperature),
        "text": {"format": request.format},
        "tool_choice": choice if choice in ("none", "auto", "required") else {"type": "function", "name": choice},
        "tools": [{"type": "function", "strict": True, **function} for function in tools.functions],
        "top_logprobs": sampling.get("logprobs", 0),
        "top_p": sampling.get("top_p", service.sampling.top_p),
        "truncation": "disabled",
        "usage": None,
        "metadata": {},
    }


async def whole(service: Service, request: ResponseRequest, answers: Answers) -> dict[str, Any]:
    """The `response` object."""
    writer = _Writer(service, request, answers)
    async for part in answers:
        for _ in writer.part(part):
            pass
    return writer.response


async def events(service: Service, request: ResponseRequest, answers: Answers) -> AsyncGenerator[bytes, None]:
    """The `response.*` events; an error that comes in between is `response.failed`."""
    writer = _Writer(service, request, answers)
    try:
        for each in writer.begin():
            yield event(each, each["type"])
        async for part in answers:
            for each in writer.part(part):
                yield event(each, each["type"])
    except ApiError as error:
        each = writer.failed(error)
        yield event(each, each["type"])
