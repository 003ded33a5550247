"""`POST /v1/completions` (platform.openai.com/docs/api-reference/completions): texts or token ids, continued."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from modelworks.engine.grammar import Grammar
from modelworks.engine.row import Prompt
from modelworks.serve.answer import Answers, Part, Token, start
from modelworks.serve.chat import new_id, read_stream_options, usage
from modelworks.serve.errors import ApiError
from modelworks.serve.events import DONE, event
from modelworks.serve.fields import Fields
from modelworks.serve.sampling import MOST_LOGPROBS, read_format, read_sampling
from modelworks.serve.service import Service
from modelworks.text.tokenizer import Tokenizer

_MAX_TOKENS: Final = 16  # OpenAI's default here
_MOST_PROMPTS: Final = 2048


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """A request, read and checked."""

    model: str
    prompts: Sequence[str | list[int]]
    sampling: dict[str, Any]
    grammar: Grammar | None
    count: int
    logprobs: int | None
    echo: bool
    stream: bool
    include_usage: bool

    @classmethod
    def parse(cls, fields: Fields) -> CompletionRequest:
        """Raises `ApiError` (400) naming the field that is wrong."""
        logprobs = fields.integer("logprobs", 0, MOST_LOGPROBS)
        stream = fields.flag("stream")
        count = fields.integer("n", 1, 128) or 1
        best_of = fields.integer("best_of", 1, 128)
        fields.expect(best_of in (None, count), "best_of", "the value of n", code="unsupported_parameter")
        sampling = {"max_tokens": _MAX_TOKENS} | read_sampling(
            fields, max_tokens=("max_tokens",), logprobs=logprobs or 0
        )
        request = cls(
            model=fields.needed_text("model"),
            prompts=fields.texts_or_ids("prompt", _MOST_PROMPTS),
            sampling=sampling,
            grammar=read_format(fields, "response_format", inline=False),
            count=count,
            logprobs=logprobs,
            echo=fields.flag("echo"),
            stream=stream,
            include_usage=read_stream_options(fields, stream=stream),
        )
        holds = not request.echo or logprobs is None
        fields.expect(holds, "echo", "logprobs to be absent beside it", code="unsupported_parameter")
        fields.refuse("suffix", "the model continues text; it does not fill in")
        fields.ignore("user")
        fields.close()
        return request


async def begin(service: Service, request: CompletionRequest) -> Answers:
    """Hand a request to the engine. Raises `ApiError` and what `Engine.submit` raises."""
    adapter = service.adapter(request.model)
    sampling = replace(service.sampling, **request.sampling, grammar=request.grammar)
    prompts: list[Prompt] = [*request.prompts]
    context = service.engine.model.context_length
    longest = max((len(prompt) for prompt in request.prompts if not isinstance(prompt, str)), default=0)
    if longest > context:
        raise ApiError(
            400,
            f"prompt: {longest} token ids; the model's context is {context}",
            param="prompt",
            code="context_length_exceeded",
        )
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    longest_text = [max(texts, key=len)] if texts else []
    return await start(service, prompts, sampling, count=request.count, texts=longest_text, adapter=adapter)


async def whole(service: Service, request: CompletionRequest, answers: Answers) -> dict[str, Any]:
    """The `text_completion` object."""
    parts: list[list[Part]] = [[] for _ in range(len(request.prompts) * request.count)]
    async for part in answers:
        parts[part.index].append(part)
    choices = []
    for index, listed in enumerate(parts):
        text = "".join(part.text for part in listed)
        tokens = [token for part in listed for token in part.tokens]
        choices.append(
            {
                "index": index,
                "text": _echoed(service.tokenizer, request, index) + text,
                "logprobs": _logprobs(service.tokenizer, request, tokens, 0),
                "finish_reason": listed[-1].reason,
            }
        )
    return _head(request) | {"choices": choices, "usage": usage(answers)}


async def events(service: Service, request: CompletionRequest, answers: Answers) -> AsyncGenerator[bytes, None]:
    """The `text_completion` events, and [DONE]."""
    head = _head(request)
    if request.include_usage:
        head["usage"] = None
    offsets = [0] * (len(request.prompts) * request.count)

    def chunk(part: Part) -> bytes:
        logprobs = _logprobs(service.tokenizer, request, part.tokens, offsets[part.index])
        offsets[part.index] += len(_spelled(service.tokenizer, part.tokens))
        choice = {"index": part.index, "text": part.text, "logprobs": logprobs, "finish_reason": part.reason}
        return event(head | {"choices": [choice]})

    for index in range(len(offsets) if request.echo else 0):
        yield chunk(Part(index, _echoed(service.tokenizer, request, index)))
    async for part in answers:
        if part.text or part.reason or (request.logprobs is not None and part.tokens):
            yield chunk(part)
    if request.include_usage:
        yield event(head | {"choices": [], "usage": usage(answers)})
    yield DONE


def _head(request: CompletionRequest) -> dict[str, Any]:
    return {
        "id": new_id("cmpl"),
        "object": "text_completion",
        "created": int(time.time()),
        "model": request.model,
    }


def _echoed(tokenizer: Tokenizer, request: CompletionRequest, index: int) -> str:
    if not request.echo:
        return ""
    prompt = request.prompts[index // request.count]
    return prompt if isinstance(prompt, str) else tokenizer.decode(prompt)


def _logprobs(
    tokenizer: Tokenizer, request: CompletionRequest, tokens: Sequence[Token], offset: int
) -> dict[str, Any] | None:
    """Lists side by side; `text_offset` counts the characters that the answer's tokens spell before each."""
    if request.logprobs is None:
        return None
    spelled = [_spelled(tokenizer, [token]) for token in tokens]
    offsets = []
    for text in spelled:
        offsets.append(offset)
        offset += len(text)
    tops = [
        {_spelled(tokenizer, [Token(index, value, {})]): max(-9999.0, value) for index, value in token.top.items()}
        for token in tokens
    ]
    return {
        "tokens": spelled,
        "token_logprobs": [max(-9999.0, token.logprob) for token in tokens],
        "top_logprobs": tops if request.logprobs else None,
        "text_offset": offsets,
    }


def _spelled(tokenizer: Tokenizer, tokens: Sequence[Token]) -> str:
    return "".join(tokenizer.token_bytes(token.id).decode(errors="replace") for token in tokens)
