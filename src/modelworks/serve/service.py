"""What the endpoints work with: the models, the documents, the limits, the counts."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

from modelworks.core.errors import ConfigError, ContextLengthError
from modelworks.engine.engine import Engine
from modelworks.engine.sample import Sampling
from modelworks.retrieval.embed import Embedder, EncoderEmbedder
from modelworks.serve.documents import Documents
from modelworks.serve.errors import ApiError
from modelworks.serve.metrics import Family, Metrics
from modelworks.serve.sampling import defaults
from modelworks.text.tokenizer import Tokenizer

LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_LONG = 65_536  # bytes of a prompt from which on it is measured before anything else is done with it


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may ask for. Raises `ConfigError` for numbers that cannot work."""

    body_bytes: int = 8 << 20
    seconds: float = 600.0
    """From a request's first byte to the last of its answer."""
    choices: int = 16
    """Answers of one request: `n` times its prompts."""
    in_flight: int = 1024
    """Requests under way; more are sent away with 503."""

    def __post_init__(self) -> None:
        for name in ("body_bytes", "seconds", "choices", "in_flight"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"limits.{name} is {getattr(self, name)}, expected a number above 0")


@dataclass(frozen=True)
class Service:
    """One chat model under its name, one embedder, and a folder of documents where there is one."""

    engine: Engine
    name: str
    embedder: Embedder
    embedder_name: str = "starter-embedder"
    documents: Documents | None = None
    limits: Limits = Limits()
    api_keys: Sequence[str] = ()
    hosts: Sequence[str] = LOOPBACK
    """Names that the server answers to: what a `Host` header may say."""
    any_address: bool = False
    """Whether a `Host` header may also be any IP address: where the server is bound beyond loopback."""
    metrics: Metrics = field(default_factory=Metrics)
    started: int = field(default_factory=lambda: int(time.time()))
    replicas: Callable[[], Awaitable[Mapping[str, Sequence[Family]]]] | None = None
    """Where the server is one of several that are asked as one: what each of them counts, by its name."""
    embedding: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "modelworks-embed"))
    """One thread: an embedder uses every core, and must not keep prompts from being read."""

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The chat model's; raises `ConfigError` for a model without one, which cannot be served."""
        tokenizer = self.engine.model.tokenizer
        if tokenizer is None:
            raise ConfigError(f"{self.name} has no tokenizer, so it cannot be served")
        return tokenizer

    @cached_property
    def sampling(self) -> Sampling:
        return defaults(self.engine.model)

    def families(self) -> list[Family]:
        """What the server counts."""
        return self.metrics.families(self.engine.stats())

    @property
    def generating(self) -> tuple[str, ...]:
        """What answers prompts: the model, and its adapters."""
        return (self.name, *(name for name in self.engine.adapters() if name != self.name))

    def adapter(self, asked: str) -> str | None:
        """The adapter that a request asks for as its `model`; None for the model itself.

        Raises `ApiError` (404) for one that does not generate.
        """
        if asked not in (known := self.generating):
            raise not_found(asked, known)
        return None if asked == self.name else asked

    def check_embedder(self, asked: str) -> None:
        """Raise `ApiError` (404) for a model that is not the embedder."""
        if asked != self.embedder_name:
            raise not_found(asked, (self.embedder_name,))

    def check_length(self, texts: Sequence[str]) -> None:
        """Raise `ContextLengthError` for a prompt that is far too long, without the minutes that reading it would take.

        Tokens are at least as many as the bytes through the longest token's. A long text that may fit by that is
        tokenised on other cores, without the interpreter's lock, before the engine's own reading of it holds the lock.
        """
        size = sum(len(text) if text.isascii() else len(text.encode(errors="replace")) for text in texts)
        if size < _LONG:
            return
        context = self.engine.model.context_length
        least = size // self._longest_token
        if least <= context:
            least = sum(len(row) for row in self.tokenizer.encode_batch(list(texts), add_special=False))
        if least > context:
            raise ContextLengthError(
                f"the prompt has at least {least} tokens; the model's context is {context}: shorten the prompt"
            )

    @cached_property
    def _longest_token(self) -> int:
        tokenizer = self.tokenizer
        spelled = (index for index in range(tokenizer.vocab_size) if index not in tokenizer.control_ids)
        return max(len(tokenizer.token_bytes(index)) for index in spelled)


def not_found(asked: str, known: Sequence[str]) -> ApiError:
    """OpenAI's error for a model that is not there, or not for this."""
    named = " or ".join(map(repr, known))
    return ApiError(
        404, f"there is no model {asked[:80]!r} for this here; it is {named}", param="model", code="model_not_found"
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that it takes to make a service, in this process or in another."""

    model: str
    name: str
    embedder: str = "starter-embedder"
    weights: Literal["q8", "q4"] | None = None
    kv_bytes: int = 512 << 20
    max_running: int = 32
    max_queued: int = 256
    limits: Limits = Limits()
    api_keys: Sequence[str] = ()
    hosts: Sequence[str] = LOOPBACK
    any_address: bool = False
    adapters: Mapping[str, str] = field(default_factory=dict)
    """Paths of LoRA adapters by the names that requests ask for."""
    started: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        for taken in {self.name, model_name(self.embedder)} & self.adapters.keys():
            raise ConfigError(f"an adapter is named {taken!r}, as a model is; give the adapter another name")

    def open(
        self,
        documents: Documents | None = None,
        replicas: Callable[[], Awaitable[Mapping[str, Sequence[Family]]]] | None = None,
    ) -> Service:
        """Load the models. Raises what `Engine` raises, and `ConfigError` for a model without a tokenizer."""
        engine = Engine(
            self.model,
            kv_bytes=self.kv_bytes,
            weights=self.weights,
            max_running=self.max_running,
            max_queued=self.max_queued,
        )
        service = Service(
            engine=engine,
            name=self.name,
            embedder=EncoderEmbedder(self.embedder),
            embedder_name=model_name(self.embedder),
            documents=documents,
            limits=self.limits,
            api_keys=self.api_keys,
            hosts=self.hosts,
            any_address=self.any_address,
            started=self.started,
            replicas=replicas,
        )
        service.tokenizer  # noqa: B018 - a model without one is refused now, not at the first request
        for name, path in self.adapters.items():
            engine.add_adapter(name, path)
        return service


def texts_of(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """What messages say, as far as it may be long, for measuring."""
    found: list[str] = []
    for message in messages:
        found.append(message.get("name", ""))
        found += [call["function"]["arguments"] for call in message.get("tool_calls", ())]
        content = message.get("content")
        if isinstance(content, str):
            found.append(content)
        elif content:
            found += [part["text"] for part in content]
    return [text for text in found if text]


def model_name(ref: str) -> str:
    """The name that a model is served under: a path's last part, without what marks its kind."""
    last = re.split(r"[/\\]", ref.rstrip("/\\"))[-1]
    return last.removesuffix(".gguf").rpartition(":")[2] or ref
