"""Small-model mode: a `ChatModel` over a local model of less than about a billion weights.

Code does what it does better: it finds which tools a request is about, how many calls it wants, and which values of the
query could be arguments. The model scores the options, and writes what is plain text. So no value gets into a call that
is not the query's, an observation's, an enum's or a default; what is missing is asked for by a call of `ask_user`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from modelworks.agents.execute import shortened
from modelworks.agents.halt import Halt
from modelworks.agents.local import LocalModel
from modelworks.agents.model import ChatModel, Choice, Message, Reply
from modelworks.agents.small import fill as filling
from modelworks.agents.small import plan as planning
from modelworks.agents.small import slots
from modelworks.agents.small.plan import Ask, filled, pieces, plan
from modelworks.agents.small.rank import Embed, Ranker
from modelworks.agents.small.score import Scorer
from modelworks.agents.small.texts import Text, read
from modelworks.agents.small.words import stems
from modelworks.agents.tool import Tool
from modelworks.text.tool_calls import ToolCall

_SHORT: Final = 200  # characters of observations that are an answer as they are
_LONG: Final = 2_000
_PASSAGE: Final = re.compile(r"\[(\d+)\] .+, page \d+, characters \d+-\d+$")
_HEADING: Final = re.compile(r"^#+ .*$\n?", re.MULTILINE)
_BLOCK: Final = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*#|>`]|\d+[.)]\s|\[\d+\] ))")  # what is no wrapped line of a sentence
_SENTENCE: Final = re.compile(r"(?<=[.!?])\s+(?=[A-Z\d\"'(`])")
ASK_USER: Final = "ask_user"
"""The name of the call by which the model asks for what it lacks; its one argument is `question`."""


@dataclass(frozen=True)
class Settings:
    """How options are weighed. The numbers were fitted on the development cases of BFCL (see docs/small-models.md)."""

    plan: planning.Weights = field(default_factory=planning.Weights)
    fill: slots.Weights = field(default_factory=slots.Weights)
    similar: float = 4.2
    filled: float = 3.9
    named: float = 3.4
    needed: float = 5.3
    """A tool is called where these come to more than `needed`: the similarity of the likest part of the request, the
    share of required parameters that it has values for, and the share of the tool's name that it says."""
    kept: float = 0.6
    """What part of the best tool's rank another needs to be offered beside it."""
    scored: bool = True
    """Whether the model's log-probabilities count at all."""
    draft_tokens: int = 0
    """What the model may write freely before it scores a call."""
    shots: int = 2
    """How many examples are shown, where there are any."""
    quotes: int = 2
    """Sentences of what was observed that an answer is made of; with 0 the model words it, and may word it wrongly."""
    escalate_below: float = 0.0
    """Ask the larger model where the margin of the choice is smaller, in nats."""


class SmallModel:
    """Calls tools by code and scores, for a model too small to be left alone with them, and quotes what they return.

    `embed` makes vectors of texts, which tell better than words which tool a request is about. `larger` is asked in its
    place where the choice of a tool is close (`Settings.escalate_below`). `examples` are dialogues, each of a user's
    message and the assistant's with its calls, of which those most like the request are shown before it. `fallback` is
    the name of a tool that takes the request as it is, such as a search, and is tried where no tool is meant.
    """

    def __init__(
        self,
        model: LocalModel,
        *,
        embed: Embed | None = None,
        larger: ChatModel | None = None,
        examples: Sequence[Sequence[Message]] = (),
        fallback: str | None = None,
        settings: Settings = Settings(),
    ) -> None:
        self._model, self._larger, self._settings = model, larger, settings
        self._examples, self._fallback = examples, fallback
        self._ranker = Ranker(embed)
        self.name = model.name

    @property
    def context_length(self) -> int:
        return self._model.context_length

    def count(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        """The tokens of a prompt with all of the tools: more than are read, where some are left out."""
        return self._model.count(messages, tools)

    def reply(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        *,
        choice: Choice = "auto",
        max_tokens: int = 512,
        halt: Halt | None = None,
    ) -> Reply:
        """Answer, call tools, or ask the user; raises what the model's own `reply` does."""
        query, observations, called = _asked(messages)
        if not tools or choice == "none" or not query.strip():
            return self._model.reply(messages, (), max_tokens=max_tokens, halt=halt)
        text = read(query)
        ranked = self._ranker.rank(query, tools)
        logit = self.logit(text, ranked[0].tool)
        second = self.logit(text, ranked[1].tool) if len(ranked) > 1 else -math.inf
        margin = min(abs(logit), logit - second) if logit > 0 else -logit
        if self._larger is not None and margin < self._settings.escalate_below:
            return self._larger.reply(messages, tools, choice=choice, max_tokens=max_tokens, halt=halt)
        asks = _left(plan(text, ranked, self._ranker, self._settings.plan, self._settings.fill), called)
        if (logit <= 0 and choice != "required") or not asks:
            if (last := next((tool for tool in tools if tool.name == self._fallback), None)) and not called:
                return Reply("", (ToolCall(last.name, _whole(last, query)),), margin=margin)
            if observations and self._settings.quotes:
                return Reply(self._quoted(query, [each.text for each in observations]), margin=margin)
            reply = self._model.reply(messages, (), max_tokens=max_tokens, halt=halt)
            return replace(reply, margin=margin)
        return replace(self._call(messages, asks, [text, *observations], halt), margin=margin)

    def offered(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[Tool]:
        """The tools that a request may be about: at most five, the best first; none where it is about none."""
        query, _, _ = _asked(messages)
        ranked = self._ranker.rank(query, tools) if tools else []
        if not ranked or self.logit(read(query), ranked[0].tool) <= 0:
            return []
        return [each.tool for each in ranked if each.score >= self._settings.kept * ranked[0].score]

    def logit(self, text: Text, tool: Tool) -> float:
        """How sure it is that a request is for a tool, as the logarithm of the odds."""
        settings = self._settings
        similar = max(self._ranker.similarity(text.text[start:end], tool) for start, end in pieces(text.text))
        named = set(stems(tool.name))
        said = len(named & set(stems(text.text))) / max(1, len(named))
        share = filled(text, (0, len(text.text)), tool)
        return settings.similar * similar + settings.filled * share + settings.named * said - settings.needed

    def _call(
        self, messages: Sequence[Message], asks: Sequence[Ask], texts: Sequence[Text], halt: Halt | None
    ) -> Reply:
        scorer = None
        prompt_tokens = spent = 0
        written = ""
        if self._settings.scored:
            tools = list({ask.tool.name: ask.tool for ask in asks}.values())
            shown = [*self._shots(texts[0].text), *messages]
            if self._settings.draft_tokens:
                draft = self._model.reply(
                    shown, tools, choice="none", max_tokens=self._settings.draft_tokens, halt=halt
                )
                written, spent = f"{draft.text}\n", draft.completion_tokens
            prompt_ids = self._model.prompt_ids(shown, tools)
            prompt_tokens = len(prompt_ids)
            scorer = Scorer(self._model, prompt_ids, halt)
        calls: list[ToolCall] = []
        for ask in asks:
            head, tail = self._model.call_form(ask.tool.name)
            made = filling.fill(
                ask,
                texts,
                self._settings.fill,
                self._ranker.likeness,
                scorer.logprobs if scorer is not None else None,
                written + head,
            )
            if made.missing:
                question = _question(ask.tool, made.missing)
                calls = [ToolCall(ASK_USER, json.dumps({"question": question}, ensure_ascii=False))]
                break
            arguments = json.dumps(made.arguments, ensure_ascii=False)
            calls.append(ToolCall(ask.tool.name, arguments))
            written += head + arguments + tail
        unique = tuple(dict.fromkeys(calls))
        return Reply("", unique, prompt_tokens, spent + (scorer.tokens if scorer is not None else 0))

    def _quoted(self, query: str, observations: Sequence[str]) -> str:
        """What was observed, whole where it is short, or else its sentences that are most like the request."""
        whole = "\n".join(each.strip() for each in observations)
        sentences = list(dict.fromkeys(sentence for each in observations for sentence in _sentences(each)))
        if len(whole) <= _SHORT or not sentences:
            return shortened(whole, _LONG)
        best = self._ranker.closest(query, sentences, self._settings.quotes)
        return "\n".join(sentences[at] for at in sorted(best))

    def _shots(self, query: str) -> list[Message]:
        """The examples most like a request, the most like last."""
        if not self._examples or not self._settings.shots:
            return []
        asked = [_content(example[0]) for example in self._examples]
        chosen = self._ranker.closest(query, asked, self._settings.shots)
        return [message for at in reversed(chosen) for message in self._examples[at]]


def _asked(messages: Sequence[Message]) -> tuple[str, list[Text], list[str]]:
    """What the user wants, what was observed since, and which tools were called since."""
    at = max((index for index, message in enumerate(messages) if message["role"] == "user"), default=-1)
    if at < 0:
        return "", [], []
    observations = [
        read(_content(message), "observation") for message in messages[at + 1 :] if message["role"] == "tool"
    ]
    called = [call["function"]["name"] for message in messages[at + 1 :] for call in message.get("tool_calls") or ()]
    return _content(messages[at]), observations, called


def _sentences(observation: str) -> Iterator[str]:
    """The sentences of an observation, with the number of the passage that each stands in, as `[2]`."""
    number = ""
    for block in _BLOCK.split(_HEADING.sub("", observation)):
        head, _, rest = block.partition("\n")
        if passage := _PASSAGE.match(head):
            number, block = f" [{passage[1]}]", rest
        for sentence in _SENTENCE.split(" ".join(block.split())):
            if len(sentence.split()) > 2:
                yield f"{sentence}{number}"


def _whole(tool: Tool, query: str) -> str:
    """Arguments of a tool that takes a request as it is: its first required parameter is the request."""
    name = next(iter(tool.parameters.get("required") or tool.parameters["properties"]))
    return json.dumps({name: query.strip()}, ensure_ascii=False)


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _left(asks: Sequence[Ask], called: Sequence[str]) -> list[Ask]:
    """The calls that were not made yet."""
    done = list(called)
    left = []
    for ask in asks:
        if ask.tool.name in done:
            done.remove(ask.tool.name)
        else:
            left.append(ask)
    return left


def _question(tool: Tool, missing: Sequence[str]) -> str:
    properties = tool.parameters["properties"]
    told = [
        f"{name} ({properties[name]['description']})" if properties[name].get("description") else name
        for name in missing
    ]
    return f"To use {tool.name} I need: {'; '.join(told)}"
