"""Small-model mode: a `ChatModel` over a local model of less than about a billion weights.

Code does what it does better: it finds which tools a request may be about, how many calls it wants, and which values of
the query could be arguments. The model scores the options: the tools, `no_tool` and `ask_user`, then the values. It
writes only what is plain text. So no value gets into a call that is not the query's, an observation's, an enum's or a
default; what is missing is asked for by a call of `ask_user`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from modelworks.agents.execute import shortened
from modelworks.agents.halt import Halt
from modelworks.agents.local import LocalModel
from modelworks.agents.model import ChatModel, Choice, Message, Reply, Wrapper
from modelworks.agents.small import plan as planning
from modelworks.agents.small import slots
from modelworks.agents.small.decide import Decision, decide
from modelworks.agents.small.evidence import Evidence, Read
from modelworks.agents.small.fill import Filled, fill
from modelworks.agents.small.plan import Ask, filled, pieces, plan
from modelworks.agents.small.rank import Embed, Ranked, Ranker
from modelworks.agents.small.score import Opinion, Scorer
from modelworks.agents.small.slots import Judges
from modelworks.agents.small.texts import Text
from modelworks.agents.small.texts import read as text_of
from modelworks.agents.small.words import stems
from modelworks.agents.talk import ASK_USER, NO_TOOL, question
from modelworks.agents.tool import Tool
from modelworks.text.tool_calls import ToolCall

_SHORT: Final = 200  # characters of observations that are an answer as they are
_LONG: Final = 2_000
_PASSAGE: Final = re.compile(r"\[(\d+)\] .+, page \d+, characters \d+-\d+$")
_HEADING: Final = re.compile(r"^#+ .*$\n?", re.MULTILINE)
_BLOCK: Final = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*#|>`]|\d+[.)]\s|\[\d+\] ))")  # what is no wrapped line of a sentence
_SENTENCE: Final = re.compile(r"(?<=[.!?])\s+(?=[A-Z\d\"'(`])")


@dataclass(frozen=True)
class Settings:
    """How options are weighed. The numbers were fitted on the development cases of BFCL (see docs/small-models.md)."""

    plan: planning.Weights = field(default_factory=planning.Weights)
    fill: slots.Weights = field(default_factory=slots.Weights)
    similar: float = 4.2
    filled: float = 3.9
    named: float = 3.4
    needed: float = 5.3
    """Code's points for a tool are these less `needed`: the similarity of the likest part of the request, the share of
    required parameters that it has values for, and the share of the tool's name that it says. `no_tool` has none."""
    unplanned: float = 1.5
    """What it costs a tool that no part of the request is like the most."""
    opinion: float = 0.1
    """What a nat of the model's opinion counts beside these points."""
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
    """Ask the larger model where the choice's margin over the next best, in points, is smaller."""


class SmallModel(Wrapper):
    """Calls tools by code and scores, for a model too small to be left alone with them, and quotes what they return.

    `embed` makes vectors of texts, which tell better than words which tool a request is about. `read` tells whether a
    text says a parameter's value; without it more is called with what is another's. `larger` is asked in its
    place where the choice of a tool is close (`Settings.escalate_below`). `examples` are dialogues, each of a user's
    message and the assistant's with its calls, of which those most like the request are shown before it. `fallback` is
    the name of a tool that takes the request as it is, such as a search, and is tried where no tool is meant.
    """

    def __init__(
        self,
        model: LocalModel,
        *,
        embed: Embed | None = None,
        read: Read | None = None,
        larger: ChatModel | None = None,
        examples: Sequence[Sequence[Message]] = (),
        fallback: str | None = None,
        settings: Settings = Settings(),
    ) -> None:
        super().__init__(model)
        self._local, self._larger, self._settings = model, larger, settings
        self._examples, self._fallback = examples, fallback
        self._ranker = Ranker(embed)
        self._judges = Judges(self._ranker.likeness, Evidence(read) if read is not None else None)

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
        own = [tool for tool in tools if tool.name not in (ASK_USER.name, NO_TOOL.name)]
        may_ask = any(tool.name == ASK_USER.name for tool in tools)
        if not own or choice == "none" or not query.strip():
            return self._local.reply(messages, (), max_tokens=max_tokens, halt=halt)
        texts = [text_of(query), *observations]
        ranked = self._ranker.rank(query, own)
        if not (asks := self._plan(texts[0], ranked, called)):
            return self._answer(messages, query, observations, max_tokens, halt)
        close = [tool for tool in self._close(ranked) if tool.name not in called]
        offered = list({tool.name: tool for tool in [*close, *(ask.tool for ask in asks)]}.values())
        opinion = self._opinion(messages, offered, halt)
        decision = self._decide(texts, offered, asks, opinion, choice)
        margin = decision.margin
        if self._larger is not None and margin is not None and margin < self._settings.escalate_below:
            reply = self._larger.reply(messages, tools, choice=choice, max_tokens=max_tokens, halt=halt)
            return _paid(reply, opinion)
        if decision.name == NO_TOOL.name:
            if (last := next((tool for tool in own if tool.name == self._fallback), None)) and not called:
                reply = Reply("", (ToolCall(last.name, json.dumps(_whole(last, query), ensure_ascii=False)),))
            else:
                reply = self._answer(messages, query, observations, max_tokens, halt)
        else:
            if decision.name not in {ASK_USER.name, *(ask.tool.name for ask in asks)}:  # not as code had it
                asks = self._plan(texts[0], [each for each in ranked if each.tool.name == decision.name], called)
            reply = self._call(asks, texts, opinion, may_ask=may_ask)
        return replace(_paid(reply, opinion), margin=margin)

    def offered(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[Tool]:
        """The tools that a request may be about: at most five, the best first; none where it is about none."""
        query, _, _ = _asked(messages)
        ranked = self._ranker.rank(query, tools) if tools else []
        if not ranked or self.logit(text_of(query), ranked[0].tool) <= 0:
            return []
        return self._close(ranked)

    def logit(self, text: Text, tool: Tool) -> float:
        """How sure it is that a request is for a tool, as the logarithm of the odds."""
        settings = self._settings
        similar = max(self._ranker.similarity(text.text[start:end], tool) for start, end in pieces(text.text))
        named = set(stems(tool.name))
        said = len(named & set(stems(text.text))) / max(1, len(named))
        share = filled(text, (0, len(text.text)), tool)
        return settings.similar * similar + settings.filled * share + settings.named * said - settings.needed

    def _close(self, ranked: Sequence[Ranked]) -> list[Tool]:
        return [each.tool for each in ranked if each.score >= self._settings.kept * ranked[0].score]

    def _plan(self, text: Text, ranked: Sequence[Ranked], called: Sequence[str]) -> list[Ask]:
        """The calls that are wanted and were not made yet."""
        done, left = list(called), []
        for ask in plan(text, ranked, self._ranker, self._settings.plan, self._settings.fill, self._judges):
            if ask.tool.name in done:
                done.remove(ask.tool.name)
            else:
                left.append(ask)
        return left

    def _decide(
        self,
        texts: Sequence[Text],
        offered: Sequence[Tool],
        asks: Sequence[Ask],
        opinion: Opinion | None,
        choice: Choice,
    ) -> Decision:
        planned = {ask.tool.name for ask in asks}
        points = {
            tool.name: self.logit(texts[0], tool) - self._settings.unplanned * (tool.name not in planned)
            for tool in offered
        }
        lacking = {ask.tool.name for ask in asks if self._filled(ask, texts).missing}
        nats = opinion.names([*points, NO_TOOL.name, ASK_USER.name]) if opinion is not None else {}
        return decide(points, lacking, nats, self._settings.opinion, required=choice == "required")

    def _opinion(self, messages: Sequence[Message], offered: Sequence[Tool], halt: Halt | None) -> Opinion | None:
        """The model's, told of the tools that may be called; None where it is not to be asked."""
        if not self._settings.scored:
            return None
        shown = [*self._shots(_content(messages[_last_request(messages)])), *messages]
        told = [*offered, NO_TOOL, ASK_USER]
        draft = None
        if most := self._settings.draft_tokens:
            draft = self._local.reply(shown, told, choice="none", max_tokens=most, halt=halt)
        return Opinion(self._local, Scorer(self._local, self._local.prompt_ids(shown, told), halt), draft)

    def _call(self, asks: Sequence[Ask], texts: Sequence[Text], opinion: Opinion | None, *, may_ask: bool) -> Reply:
        """The calls; or a question where one lacks a value, which is the answer where the user cannot be asked."""
        calls: list[ToolCall] = []
        written = opinion.written if opinion is not None else ""
        for ask in asks:
            head, tail = self._local.call_form(ask.tool.name)
            made = self._filled(ask, texts, opinion, written + head)
            if made.missing:
                asked = question(ask.tool, made.missing)
                if not may_ask:
                    return Reply(asked)
                return Reply("", (ToolCall(ASK_USER.name, json.dumps({"question": asked}, ensure_ascii=False)),))
            arguments = json.dumps(made.arguments, ensure_ascii=False)
            calls.append(ToolCall(ask.tool.name, arguments))
            written += head + arguments + tail
        return Reply("", tuple(dict.fromkeys(calls)))

    def _filled(self, ask: Ask, texts: Sequence[Text], opinion: Opinion | None = None, head: str = "") -> Filled:
        score = opinion.values if opinion is not None else None
        made = fill(ask, texts, self._settings.fill, self._judges, score, head)
        if made.missing and ask.tool.name == self._fallback:
            return Filled(_whole(ask.tool, texts[0].text), {})
        return made

    def _answer(
        self, messages: Sequence[Message], query: str, observations: Sequence[Text], max_tokens: int, halt: Halt | None
    ) -> Reply:
        """What was observed, or else the model's own words."""
        if observations and self._settings.quotes:
            return Reply(self._quoted(query, [each.text for each in observations]))
        return self._local.reply(messages, (), max_tokens=max_tokens, halt=halt)

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


def _paid(reply: Reply, opinion: Opinion | None) -> Reply:
    """The reply with the tokens that the opinion cost, too."""
    if opinion is None:
        return reply
    return replace(
        reply,
        prompt_tokens=reply.prompt_tokens + opinion.prompt_tokens,
        completion_tokens=reply.completion_tokens + opinion.completion_tokens,
    )


def _last_request(messages: Sequence[Message]) -> int:
    """The place of the user's latest message; -1 where there is none."""
    return max((at for at, message in enumerate(messages) if message["role"] == "user"), default=-1)


def _asked(messages: Sequence[Message]) -> tuple[str, list[Text], list[str]]:
    """What the user wants, what was observed since, and which tools were called since."""
    at = _last_request(messages)
    if at < 0:
        return "", [], []
    observations = [
        text_of(_content(message), "observation") for message in messages[at + 1 :] if message["role"] == "tool"
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


def _whole(tool: Tool, query: str) -> dict[str, str]:
    """Arguments of a tool that takes a request as it is: its first required parameter is the request."""
    name = next(iter(tool.parameters.get("required") or tool.parameters["properties"]))
    return {name: query.strip()}


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
