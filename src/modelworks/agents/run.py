"""One task that an agent works on, from its first step to its last.

Everything that happens goes through the journal, and what a run knows is made of its entries alone (`state`): so a run
that was killed goes on as it would have.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, Protocol

from modelworks.agents import approval
from modelworks.agents.approval import ACTING, Decision, Request, why_asked
from modelworks.agents.arguments import ArgumentError, checked, parsed
from modelworks.agents.execute import execute
from modelworks.agents.halt import Halt
from modelworks.agents.journal import Entry
from modelworks.agents.limits import Meter, Usage
from modelworks.agents.memory.working import WorkingMemory
from modelworks.agents.model import Halted, Message, ModelError
from modelworks.agents.state import State, Wanted, names
from modelworks.agents.steps import Answer, Call, End, Observation, Question, Step, Stop, Thought, Why
from modelworks.agents.taint import Taint
from modelworks.agents.talk import ASK_USER
from modelworks.agents.tool import Result, Tool, call_digest, canonical
from modelworks.core.errors import ConfigError, ContextLengthError

if TYPE_CHECKING:
    from modelworks.agents.loop import Agent

_POLL: Final = 0.2  # seconds between looks at the clock, and for a halt from elsewhere
_MOST_EMPTY: Final = 2  # replies without a word in a row


class Memory(Protocol):
    """What the loop needs of a memory."""

    def messages(self, messages: Sequence[Message], budget: int, count: Any) -> Sequence[Message]:
        """As much of a dialogue as fits a budget of tokens, which `count` counts."""

    def recall(self, task: str) -> Result | None:
        """What may help with a task, and whose word it is."""

    def record(self, run: Run) -> None:
        """Keep what came of a run."""


_current: ContextVar[tuple[Run, str] | None] = ContextVar("current", default=None)


def current() -> tuple[Run, str]:
    """The run in which the tool that asks is at work, and its call's id; for tools that are not isolated.

    Raises LookupError outside of a run.
    """
    found = _current.get()
    if found is None:
        raise LookupError("no agent's loop has called this")
    return found


class Run:
    """One task that an agent works on: iterate over it for its steps. The last one is also `end`.

    A `Call` is given out before it is made: until the next step is asked for, `edit` and `skip` decide what becomes of
    it.
    """

    def __init__(
        self,
        agent: Agent,
        *,
        id: str,
        task: str = "",
        parent: Run | None = None,
        entries: Sequence[Entry] = (),
        reply: str | None = None,
    ) -> None:
        self.agent, self.id, self.task = agent, id, task or (entries[0].body["task"] if entries else "")
        self.halted = Halt()
        self.end: End | None = None
        self._parent, self._entries, self._reply = parent, entries, reply
        self._tools = {tool.name: tool for tool in agent.tools}
        self._digests = {name: tool.digest for name, tool in self._tools.items()}
        above: State | None = None if parent is None else parent._state
        taint = Taint() if above is None else above.taint.copy()
        self._state: State = State(self._tools, Meter(agent.limits, None if above is None else above.meter), taint)
        self._working = WorkingMemory()
        self._why: Why = "halted"
        self._edits: dict[str, Mapping[str, Any] | str] = {}
        self._steps = self._work()

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        return next(self._steps)

    def halt(self) -> None:
        """Stop all that the run has under way, from any thread: the model, a tool, an approval that is waited for."""
        self.halted.set()

    def edit(self, call: str, arguments: Mapping[str, Any]) -> None:
        """Have the call that was just given out made with other arguments; they are checked as the model's are."""
        self._edits[call] = dict(arguments)

    def skip(self, call: str, reason: str = "the user does not want this call") -> None:
        """Have the call that was just given out not made; the model is told the reason."""
        self._edits[call] = reason

    def close(self) -> None:
        """Leave a run that is not at its end; `Agent.resume` can go on with it."""
        self._steps.close()

    @property
    def usage(self) -> Usage:
        return self._state.meter.usage

    @property
    def origins(self) -> frozenset[str]:
        """Whose content the run has read, beside the user's."""
        return self._state.taint.origins

    def messages(self) -> list[dict[str, Any]]:
        """The dialogue so far, in OpenAI's form."""
        return self._state.messages()

    # --- the loop -----------------------------------------------------------------------------------------------------

    def _work(self) -> Generator[Step, None, None]:
        with self._watched():
            try:
                self._begin()
                while self.end is None:
                    yield from self._carry_out()
                    if self.end is None:
                        yield from self._ask()
            except GeneratorExit:
                if self.end is None:
                    self._finish(Stop("halted", "the caller left the run; it can be resumed"))
                raise
        yield self.end
        if self.agent.memory is not None:
            self.agent.memory.record(self)

    def _begin(self) -> None:
        journal, parent = self.agent.journal, self._parent
        if self._entries:
            self._state.replay(self._entries)
            self._add("resume", {})
            if self._reply is None:
                if self._state.answered is not None:  # its answer was there, and nobody got it
                    self._finish(Answer(self._state.answered))
            else:
                waiting = [call.id for call in self._state.waiting if call.raw.name == ASK_USER.name]
                self._add("said", {"call": waiting[0] if waiting else None, "text": self._reply})
            return
        clean = parent is None or parent._state.taint.clean
        body = {
            "instructions": self.agent.instructions,
            "model": self.agent.model.name,
            "tools": self._digests,
            "policy": asdict(self.agent.policy),
            "origins": [] if clean or parent is None else sorted(parent.origins),
        }
        journal.begin(self.id, self.agent.name, self.task, body, parent=None if parent is None else parent.id)
        for entry in journal.entries(self.id):
            self._state.apply(entry)
        if self.agent.memory is not None and (recalled := self.agent.memory.recall(self.task)) is not None:
            self._add("recall", {"content": recalled.content, "origins": sorted(recalled.origins) or ["memory"]})

    def _ask(self) -> Iterator[Step]:
        """One reply of the model, or the end."""
        if self.halted.is_set():
            self._finish(self._halted())
            return
        if (stop := self._state.meter.stop()) is not None:
            self._finish(stop)
            return
        limits, model, tools = self.agent.limits, self.agent.model, self._offered()
        try:
            reply = model.reply(self._fitted(tools), tools, max_tokens=limits.reply_tokens, halt=self.halted)
        except Halted:
            self._finish(self._halted())
            return
        except (ModelError, ContextLengthError) as error:
            self._finish(Stop("failed", str(error)))
            return
        first = self._state.next_call() + 1
        calls = [
            {"id": f"call_{first + index}", "name": call.name, "arguments": call.arguments}
            for index, call in enumerate(reply.calls)
        ]
        self._add(
            "reply",
            {
                "text": reply.text,
                "calls": calls,
                "prompt_tokens": reply.prompt_tokens,
                "completion_tokens": reply.completion_tokens,
                "cut": reply.cut,
                "margin": reply.margin,
            },
        )
        text = reply.text.strip()
        if calls:
            if text:
                yield Thought(text)
        elif text:
            self._finish(Answer(text))
        elif self._state.empty_replies > _MOST_EMPTY:
            self._finish(Stop("failed", f"{model.name} wrote nothing, {self._state.empty_replies} times"))

    def _fitted(self, tools: Sequence[Tool]) -> Sequence[Message]:
        """The dialogue, as much of it as the model has room for."""
        messages, model = self._state.messages(), self.agent.model
        budget = model.context_length - self.agent.limits.reply_tokens
        fit = self._working.fit if self.agent.memory is None else self.agent.memory.messages
        return fit(messages, budget, lambda some: model.count(some, tools))

    def _offered(self) -> list[Tool]:
        """The tools as they were when the run began: one that was changed since is not offered any more."""
        current = {tool.name: tool.digest for tool in self.agent.tools}
        return [tool for name, tool in self._tools.items() if current.get(name) == self._digests[name]]

    # --- calls --------------------------------------------------------------------------------------------------------

    def _carry_out(self) -> Iterator[Step]:
        """The calls of the latest reply that wait: checked, given out, decided on, and made."""
        ready: list[Wanted] = []
        again: Counter[str] = Counter()
        told = set(self._state.repeated)  # what the model was told of, before this reply
        for call in self._state.waiting:
            if (problem := self._check(call)) is not None:
                yield self._result(call, problem, error=True)
                continue
            assert call.tool is not None
            if call.tool is ASK_USER:
                self._finish(Question(str(call.arguments["question"])))
                return
            yield Call(call.id, call.tool.name, call.arguments)
            refused = self._change(call) or self._decide(call)
            digest = call_digest(call.tool, call.arguments)
            made = 0 if call.begun else self._state.made[digest] + again[digest]
            if refused is None and made >= self.agent.limits.repeats - 1:
                if digest in told:
                    said = f"{call.tool.name} was called with the same arguments again and again (limits.repeats)"
                    self._finish(Stop("repeated", said))
                    return
                said = "not run: this very call was made before, with the result above; do something else, or answer"
                yield self._result(call, said, error=True, repeated=digest)
                continue
            refused = refused or (None if self.halted.is_set() else self._state.meter.admit(call.tool.name))
            if refused is not None:
                yield self._result(call, refused, error=True)
                continue
            again[digest] += 1
            ready.append(call)
        for group in _groups(ready):
            yield from self._make(group)
        if self.halted.is_set():
            self._finish(self._halted())

    def _check(self, call: Wanted) -> str | None:
        """Find the call's tool and repair its arguments; what is wrong with it where that cannot be."""
        tool = self._tools.get(call.raw.name)
        offered = self._offered()
        if tool is None:
            return f"there is no tool {call.raw.name[:80]!r}; there are: {names(offered)}"
        if tool not in offered:
            return f"{tool.name} was changed or taken away since this run began, and is not used any more"
        if call.tool is not None:  # before an interruption
            return None
        try:
            arguments = checked(tool.parameters, parsed(call.raw.arguments))
        except ArgumentError as error:
            return f"{tool.name} was not called: {error}. Its parameters: {canonical(tool.parameters)}"
        except ConfigError as error:
            return f"{tool.name} cannot be called: {error}"
        tainted = self._state.taint.of(tool, arguments)
        body = {
            "call": call.id,
            "tool": tool.name,
            "arguments": arguments,
            "digest": call_digest(tool, arguments),
            "effects": sorted(tool.effects),
            "rule": self.agent.policy.rule(tool, bool(tainted)),
            "tainted": [each.record() for each in tainted],
        }
        self._add("call", body)
        return None

    def _change(self, call: Wanted) -> str | None:
        """Apply what the caller said to a call as it was given out; why it is not made, where that is so."""
        said = self._edits.pop(call.id, None)
        if said is None or isinstance(said, str):
            return None if said is None else f"not run: {said}"
        assert call.tool is not None
        try:
            arguments = checked(call.tool.parameters, said)
        except ArgumentError as error:
            return f"not run: the user changed its arguments, and these do not satisfy its schema: {error}"
        self._add("edit", {"call": call.id, "arguments": arguments, "digest": call_digest(call.tool, arguments)})
        return None

    def _decide(self, call: Wanted) -> str | None:
        """By policy, or by whoever is asked: why a call is not made, or None where it may be."""
        tool, policy = call.tool, self.agent.policy
        assert tool is not None
        if call.begun and not (tool.effects & ACTING and not tool.resumes):
            return None  # it was interrupted, and may be made again
        tainted = self._state.taint.of(tool, call.arguments)
        rule = policy.rule(tool, bool(tainted))
        if rule == "never":
            return f"not run: the policy never allows {tool.name} here"
        if call.begun:
            why = "it was interrupted while it ran: it may have taken effect already"
        elif call.decided is not None:
            return None if call.decided else "not run: the user refused it"
        elif rule == "always":
            return None
        else:
            why = why_asked(tool, tainted)
        request = Request(
            run=self.id,
            call=call.id,
            agent=self.agent.name,
            tool=tool,
            arguments=call.arguments,
            digest=call_digest(tool, call.arguments),
            why=why,
            tainted=tainted,
            halt=self.halted,
        )
        return self._asked(call, request)

    def _asked(self, call: Wanted, request: Request) -> str | None:
        tool, approve = request.tool, self.agent.approve
        decision = approval.deny(request, "nobody is there to allow it") if approve is None else approve(request)
        if decision.allow and decision.digest != request.digest:
            decision = approval.deny(request, "what was allowed is another call", by=decision.by)
        body = {"call": call.id, "allow": decision.allow, "reason": decision.reason, "by": decision.by}
        if decision.allow and decision.arguments is not None:
            try:
                arguments = checked(tool.parameters, decision.arguments)
            except ArgumentError as error:
                decision = Decision(False, request.digest, f"the changed arguments are wrong: {error}", by=decision.by)
                body |= {"allow": False, "reason": decision.reason}
            else:
                body |= {"arguments": arguments, "digest": call_digest(tool, arguments)}
        if self.halted.is_set() and not decision.allow:
            return "not run: the run was halted"
        self._add("decision", {**body, "seen": request.digest})
        if decision.allow:
            return None
        return f"not run: refused{f' ({decision.reason})' if decision.reason else ''}"

    def _make(self, calls: Sequence[Wanted]) -> Iterator[Step]:
        """Make calls that may run at the same time; what came of each, in their order."""
        if len(calls) == 1:
            self._make_one(calls[0])
        else:
            with ThreadPoolExecutor(self.agent.limits.parallel, "modelworks-call") as pool:
                for done in [pool.submit(copy_context().run, self._make_one, call) for call in calls]:
                    done.result()
        for call in calls:
            assert call.result is not None
            yield call.result

    def _make_one(self, call: Wanted) -> None:
        tool = call.tool
        assert tool is not None
        if self.halted.is_set():
            self._result(call, "not run: the run was halted", error=True)
            return
        digest = call_digest(tool, call.arguments)
        self._add("intent", {"call": call.id, "tool": tool.name, "digest": digest})
        token = _current.set((self, call.id))
        try:
            outcome = execute(tool, call.arguments, self.halted, timeout=self._state.meter.seconds_left)
        finally:
            _current.reset(token)
        self._result(
            call,
            outcome.content,
            error=outcome.error,
            seconds=outcome.seconds,
            origins=outcome.origins,
            unknown=outcome.unknown,
        )

    # --- records ------------------------------------------------------------------------------------------------------

    def _result(
        self,
        call: Wanted,
        content: str,
        *,
        error: bool,
        seconds: float = 0.0,
        origins: frozenset[str] = frozenset(),
        unknown: bool = False,
        repeated: str = "",
    ) -> Observation:
        body = {
            "call": call.id,
            "content": content,
            "error": error,
            "seconds": round(seconds, 4),
            "origins": sorted(origins),
            "unknown": unknown,
            "repeated": repeated,
        }
        self._add("result", body)
        assert call.result is not None
        return call.result

    def _finish(self, end: End) -> None:
        self.end = end
        kind = {Answer: "answer", Question: "question", Stop: "stop"}[type(end)]
        self._add("end", {"kind": kind, **asdict(end)})

    def _halted(self) -> Stop:
        if self._why == "seconds":
            return Stop("seconds", f"{self.agent.limits.seconds:g} seconds are over (limits.seconds)")
        return Stop("halted", "the run was halted; it can be resumed")

    def _add(self, kind: Any, body: Mapping[str, Any]) -> None:
        self._state.apply(self.agent.journal.add(self.id, kind, body))

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Halt with the parent, at the deadline, and where somebody asked for it through the journal."""
        unhook = None if self._parent is None else self._parent.halted.on_set(self.halted.set)
        over = threading.Event()

        def watch() -> None:
            while not over.wait(_POLL):
                late = self._state.meter.seconds_left <= 0
                if late or self.agent.journal.asked_to_halt(self.id):
                    self._why = "seconds" if late else "halted"
                    self.halted.set()
                    return

        watcher = threading.Thread(target=watch, name=f"watch {self.id}", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
            if unhook is not None:
                unhook()


def _groups(calls: Sequence[Wanted]) -> Iterator[list[Wanted]]:
    """Calls in their order: neighbours that change nothing run together, one that acts runs alone."""
    together: list[Wanted] = []
    for call in calls:
        assert call.tool is not None
        if call.tool.effects & ACTING:
            if together:
                yield together
            yield [call]
            together = []
        else:
            together.append(call)
    if together:
        yield together
