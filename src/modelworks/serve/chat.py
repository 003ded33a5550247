"""`POST /v1/chat/completions` (platform.openai.com/docs/api-reference/chat)."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from modelworks.core.errors import ContextLengthError
from modelworks.engine.grammar import Grammar
from modelworks.serve.answer import Answers, Part, Token, start
from modelworks.serve.events import DONE, event
from modelworks.serve.fields import Fields
from modelworks.serve.sampling import MOST_LOGPROBS, read_format, read_sampling
from modelworks.serve.service import Service, texts_of
from modelworks.serve.tools import Message, Tools, read_tools
from modelworks.text.tokenizer import Tokenizer
from modelworks.text.tool_calls import ToolCall

_ROLES: Final = ("system", "developer", "user", "assistant", "tool")
_NO_EFFECT: Final = (  # clients send these for accounting, caching and routing at OpenAI
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "prompt_cache_options", "reasoning_effort", "verbosity", "prediction",
)  # fmt: skip
_RETURNED: Final = ("refusal", "annotations", "audio", "function_call", "reasoning", "reasoning_content")
"""Fields of an answer that clients give back with it in the next request."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A request, read and checked."""

    model: str
    messages: Sequence[Message]
    sampling: dict[str, Any]
    tools: Tools
    grammar: Grammar | None
    count: int
    logprobs: bool
    stream: bool
    include_usage: bool

    @classmethod
    def parse(cls, fields: Fields) -> ChatRequest:
        """Raises `ApiError` (400) naming the field that is wrong."""
        model = fields.needed_text("model")
        fields.need("messages")
        messages = fields.objects("messages", read_message, least=1)
        logprobs = fields.flag("logprobs")
        top = fields.integer("top_logprobs", 0, MOST_LOGPROBS)
        fields.expect(top is None or logprobs, "top_logprobs", "logprobs to be true beside it")
        stream = fields.flag("stream")
        request = cls(
            model=model,
            messages=messages,
            sampling=read_sampling(fields, max_tokens=("max_completion_tokens", "max_tokens"), logprobs=top or 0),
            tools=read_tools(fields, nested=True),
            grammar=read_format(fields, "response_format", inline=False),
            count=fields.integer("n", 1, 128) or 1,
            logprobs=logprobs,
            stream=stream,
            include_usage=read_stream_options(fields, stream=stream),
        )
        fields.choices("modalities", ("text",))
        for name in ("audio", "web_search_options", "moderation"):
            fields.refuse(name, "this server reads and writes text")
        for name in ("functions", "function_call"):
            fields.refuse(name, "it is deprecated; use tools")
        fields.ignore(*_NO_EFFECT)
        fields.close()
        return request


def read_stream_options(fields: Fields, *, stream: bool) -> bool:
    """Whether the last event of a stream is to state the usage."""

    def read(options: Fields) -> bool:
        include = options.flag("include_usage")
        options.ignore("include_obfuscation")
        options.close()
        return include

    included = fields.object("stream_options", read)
    fields.expect(included is None or stream, "stream_options", "stream to be true beside it")
    return bool(included)


def read_message(fields: Fields) -> Message:
    """A message as templates know it: `developer` is `system`, parts of text are one text."""
    role = fields.needed_choice("role", _ROLES)
    message: Message = {"role": "system" if role == "developer" else role}
    if (name := fields.text("name")) is not None:
        message["name"] = name
    if role == "assistant":
        fields.need_any("content", "tool_calls")
        if calls := fields.objects("tool_calls", read_call):
            message["tool_calls"] = calls
        fields.ignore(*_RETURNED)
    else:
        fields.need("content")
    if role == "tool":
        message["tool_call_id"] = fields.needed_text("tool_call_id")
    message["content"] = read_content(fields, "content", ("text",)) or ""
    fields.close()
    return message


def read_content(fields: Fields, name: str, kinds: Sequence[str]) -> str | None:
    """A string, or parts of text put together; None where there is none."""

    def read(part: Fields) -> str:
        part.needed_choice("type", kinds, code="unsupported_parameter")
        text = part.needed_text("text")
        part.ignore("annotations", "logprobs", "prompt_cache_breakpoint")
        part.close()
        return text

    value = fields.text_or_objects(name, read)
    return value if value is None or isinstance(value, str) else "".join(value)


def read_call(call: Fields) -> dict[str, Any]:
    """A call that the model made before."""

    def read(function: Fields) -> dict[str, str]:
        named = {"name": function.needed_text("name"), "arguments": read_arguments(function)}
        function.close()
        return named

    call.choice("type", ("function",), "function")
    made = {"id": call.text("id", ""), "type": "function", "function": call.needed_object("function", read)}
    call.ignore("index")
    call.close()
    return made


def read_arguments(function: Fields) -> str:
    """`arguments` of a call: the text of a JSON object."""
    arguments = function.text("arguments") or "{}"
    try:
        holds = isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        holds = False
    function.expect(holds, "arguments", "the text of a JSON object")
    return arguments


async def begin(service: Service, request: ChatRequest) -> Answers:
    """Hand a request to the engine. Raises `ApiError` and what `Engine.submit` raises."""
    adapter = service.adapter(request.model)
    return await converse(
        service, request.messages, request.sampling, request.tools, request.grammar, request.count, adapter=adapter
    )


async def converse(
    service: Service,
    messages: Sequence[Message],
    sampling: dict[str, Any],
    tools: Tools,
    grammar: Grammar | None,
    count: int = 1,
    *,
    adapter: str | None,
) -> Answers:
    """Answer messages, with tools and within a grammar."""
    tokenizer = service.tokenizer
    context = service.engine.model.context_length
    if len(messages) > context:
        raise ContextLengthError(f"there are {len(messages)} messages; the model's context is {context} tokens")
    held = tools.grammar(tokenizer, grammar)
    told, template_tools = tools.told(tokenizer, messages)
    chosen = replace(service.sampling, **sampling, grammar=held)
    return await start(
        service,
        [told],
        chosen,
        count=count,
        tools=tools,
        template_tools=template_tools,
        texts=texts_of(told),
        adapter=adapter,
    )


# --- what is sent -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Choice:
    text: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    reason: str | None = None


async def whole(service: Service, request: ChatRequest, answers: Answers) -> dict[str, Any]:
    """The `chat.completion` object."""
    choices = [_Choice() for _ in range(request.count)]
    async for part in answers:
        choice = choices[part.index]
        choice.text.append(part.text)
        choice.calls += part.calls
        choice.tokens += part.tokens
        choice.reason = part.reason
    return _head(request, "chat.completion", new_id("chatcmpl")) | {
        "choices": [_choice(service.tokenizer, request, *each) for each in enumerate(choices)],
        "usage": usage(answers),
    }


def _choice(tokenizer: Tokenizer, request: ChatRequest, index: int, choice: _Choice) -> dict[str, Any]:
    text = "".join(choice.text)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": text if text or not choice.calls else None,
        "refusal": None,
        "annotations": [],
    }
    if choice.calls:
        message["tool_calls"] = [call_json(call) for call in choice.calls]
    return {
        "index": index,
        "message": message,
        "logprobs": _logprobs(tokenizer, choice.tokens) if request.logprobs else None,
        "finish_reason": choice.reason,
    }


async def events(service: Service, request: ChatRequest, answers: Answers) -> AsyncGenerator[bytes, None]:
    """The `chat.completion.chunk` events, and [DONE]."""
    head = _head(request, "chat.completion.chunk", new_id("chatcmpl"))
    if request.include_usage:
        head["usage"] = None
    called = [0] * request.count

    def chunk(part: Part, delta: dict[str, Any]) -> bytes:
        logprobs = _logprobs(service.tokenizer, part.tokens) if request.logprobs and part.tokens else None
        choice = {"index": part.index, "delta": delta, "logprobs": logprobs, "finish_reason": part.reason}
        return event(head | {"choices": [choice]})

    for index in range(request.count):
        yield chunk(Part(index), {"role": "assistant", "content": "", "refusal": None})
    async for part in answers:
        delta: dict[str, Any] = {}
        if part.text:
            delta["content"] = part.text
        if part.calls:
            first = called[part.index]
            called[part.index] += len(part.calls)
            delta["tool_calls"] = [{"index": at, **call_json(call)} for at, call in enumerate(part.calls, first)]
        if part.reason is None:
            if delta or (request.logprobs and part.tokens):
                yield chunk(part, delta)
            continue
        if delta or (request.logprobs and part.tokens):
            yield chunk(replace(part, reason=None), delta)
        yield chunk(replace(part, tokens=()), {})
    if request.include_usage:
        yield event(head | {"choices": [], "usage": usage(answers)})
    yield DONE


def call_json(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": new_id("call"), "type": "function", "function": function}


def usage(answers: Answers) -> dict[str, Any]:
    """Tokens read and written; those that end an answer are counted, as the model had to produce them."""
    return {
        "prompt_tokens": answers.prompt_tokens,
        "completion_tokens": answers.completion_tokens,
        "total_tokens": answers.prompt_tokens + answers.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": answers.cached_tokens},
    }


def new_id(prefix: str) -> str:
    return f"{prefix}{'_' if prefix in ('call', 'resp', 'msg', 'fc') else '-'}{secrets.token_hex(12)}"


def _head(request: ChatRequest, kind: str, identifier: str) -> dict[str, Any]:
    return {"id": identifier, "object": kind, "created": int(time.time()), "model": request.model}


def _logprobs(tokenizer: Tokenizer, tokens: Sequence[Token]) -> dict[str, Any]:
    return {"content": [_logprob(tokenizer, token) for token in tokens], "refusal": None}


def _logprob(tokenizer: Tokenizer, token: Token) -> dict[str, Any]:
    top = [token_json(tokenizer, index, value) for index, value in token.top.items()]
    return token_json(tokenizer, token.id, token.logprob) | {"top_logprobs": top}


def token_json(tokenizer: Tokenizer, index: int, logprob: float) -> dict[str, Any]:
    """A token's text, its exact bytes where that is but a part of a character, and its log-probability."""
    spelled = tokenizer.token_bytes(index)
    # JSON has neither infinities nor NaN; OpenAI writes -9999 for what is all but impossible.
    return {
        "token": spelled.decode(errors="replace"),
        "logprob": max(-9999.0, logprob),
        "bytes": list(spelled),
    }
