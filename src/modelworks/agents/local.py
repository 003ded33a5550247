"""The local engine as a `ChatModel`: tools told through the chat template, calls held to their schemas by a grammar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from modelworks.agents.halt import Halt
from modelworks.agents.model import Choice, Halted, Message, Reply
from modelworks.agents.tool import Tool
from modelworks.core.errors import ConfigError, GrammarError
from modelworks.engine.engine import Engine
from modelworks.engine.grammar import Grammar
from modelworks.engine.row import FinishReason
from modelworks.engine.sample import Sampling
from modelworks.engine.tool_grammar import Offer, call_form
from modelworks.models.base import LanguageModel
from modelworks.text.chat import render
from modelworks.text.tokenizer import Tokenizer
from modelworks.text.tool_calls import ToolCall


class LocalModel:
    """A model behind an engine: one that is running, or one that is opened for a model or a reference and then owned.

    `sampling` is how text is chosen; its grammar and `max_tokens` are set by each reply. With `constrained` off nothing
    holds a call to its schema: what the model writes in its notation is a call, the rest is text. `adapter` is one that
    the engine has loaded by that name. Raises ConfigError for a model without a tokenizer, and what `Engine` raises.
    """

    def __init__(
        self,
        engine: Engine | LanguageModel | str | Path,
        *,
        name: str | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        adapter: str | None = None,
        parallel: bool = True,
        constrained: bool = True,
    ) -> None:
        self._owned = not isinstance(engine, Engine)
        self.engine = engine if isinstance(engine, Engine) else Engine(engine)
        if self.engine.model.tokenizer is None:
            raise ConfigError("the model has no tokenizer, so it cannot be talked to")
        self.tokenizer: Tokenizer = self.engine.model.tokenizer
        source = self.engine.model.source
        self.name = name or (str(engine) if isinstance(engine, str | Path) else source.name if source else "local")
        self.adapter = adapter
        self._sampling, self._parallel, self._constrained = sampling, parallel, constrained

    @property
    def context_length(self) -> int:
        return self.engine.model.context_length

    def count(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        """The tokens of a prompt, exactly."""
        return len(self.prompt_ids(messages, tools))

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        """The tokens that the model reads before its reply."""
        told, native = self._offer(tools, "auto").told(self.tokenizer, messages)
        return render(self.tokenizer, told, tools=native, add_generation_prompt=True).ids

    def call_form(self, name: str) -> tuple[str, str]:
        """What the model writes before and after the arguments of a call."""
        return call_form(self.tokenizer, name)

    def reply(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        *,
        choice: Choice = "auto",
        max_tokens: int = 512,
        halt: Halt | None = None,
    ) -> Reply:
        """Answer, or call tools. Raises `Halted` at the engine's next step, `ConfigError` for a tool whose schema no
        grammar can hold a model to, naming it, and what `Engine.submit` and the answer raise.
        """
        if halt is not None and halt.is_set():
            raise Halted("halted before the model wrote")
        offer = self._offer(tools, choice)
        told, native = offer.told(self.tokenizer, messages)
        grammar = self._grammar(offer)
        try:
            handle = self.engine.submit(
                told,
                replace(self._sampling, grammar=grammar, max_tokens=max_tokens),
                tools=native,
                adapter=self.adapter,
            )
        except GrammarError as error:
            raise self._named(offer, error) from error
        forget = halt.on_set(handle.cancel) if halt is not None else None
        parser = offer.parser(self.tokenizer)
        said: list[str | ToolCall] = []
        tokens, reason = 0, None
        try:
            for piece in handle:
                tokens += len(piece.ids)
                reason = piece.finish_reason
                said += parser.push(piece.text) if parser else [piece.text]
        finally:
            if forget is not None:
                forget()
        return self._told(said + (parser.flush() if parser else []), handle.prompt_tokens, tokens, reason)

    @staticmethod
    def _told(said: Sequence[str | ToolCall], prompt_tokens: int, tokens: int, reason: FinishReason | None) -> Reply:
        if reason == "cancelled":
            raise Halted(f"halted after {tokens} tokens")
        text = "".join(part for part in said if isinstance(part, str)).strip()
        calls = tuple(part for part in said if isinstance(part, ToolCall))
        return Reply(text, calls, prompt_tokens, tokens, cut=reason == "length")

    def _offer(self, tools: Sequence[Tool], choice: Choice) -> Offer:
        described = tuple(tool.described() for tool in tools)
        return Offer(described, choice if tools else "none", self._parallel)

    def _grammar(self, offer: Offer) -> Grammar | None:
        if not self._constrained:
            return None
        try:
            return offer.grammar(self.tokenizer)
        except GrammarError as error:
            raise self._named(offer, error) from error

    def _named(self, offer: Offer, error: GrammarError) -> ConfigError:
        """The same refusal, of the tool whose schema it is about."""
        for function in offer.offered:
            try:
                grammar = Grammar.json_schema(function["parameters"])
                self.engine.submit("x", Sampling(max_tokens=1, grammar=grammar)).cancel()
            except GrammarError as found:
                return ConfigError(f"tool {function['name']}: no model can be held to its schema: {found}")
        return error

    def close(self) -> None:
        """End the engine, where it was opened here; what it is writing is cut."""
        if self._owned:
            self.engine.close(drain=False)

    def __enter__(self) -> LocalModel:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.close()
