"""What an agent remembers: within a run, of earlier runs, and facts.

All that is recalled is content, as a file's words are. It names where it came from, so that a call with effects whose
arguments derive from it asks again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from modelworks.agents.limits import Usage
from modelworks.agents.memory.database import Remembered
from modelworks.agents.memory.episodic import Episode, EpisodicMemory
from modelworks.agents.memory.semantic import Embedder, Facts, FactStore
from modelworks.agents.memory.working import Count, WorkingMemory, shortened
from modelworks.agents.model import Message
from modelworks.agents.steps import Answer, End, Question
from modelworks.agents.tool import Result, Tool, tool

_RECALLED: Final = 3  # runs, and facts, that are told of at once
_LONGEST: Final = 300  # characters of each
_NOTHING: Final = "Nothing is remembered about that."


class Ended(Protocol):
    """What `record` asks of a run; the loop's runs are such."""

    @property
    def id(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def end(self) -> End | None: ...
    @property
    def origins(self) -> frozenset[str]: ...
    @property
    def usage(self) -> Usage: ...


@dataclass(frozen=True)
class Memory:
    """The three memories of an agent, any of which may be missing."""

    working: WorkingMemory = field(default_factory=WorkingMemory)
    episodic: EpisodicMemory | None = None
    semantic: FactStore | None = None

    @classmethod
    def open(cls, path: str | Path, embedder: Embedder | None = None) -> Memory:
        """A memory whose runs and facts are in one SQLite file, made where it is missing; raises StoreError."""
        return cls(episodic=EpisodicMemory(path), semantic=Facts(path, embedder))

    def close(self) -> None:
        """Close the files that `open` has opened; calling it again does nothing."""
        for each in (self.episodic, self.semantic):
            if isinstance(each, Remembered):
                each.close()

    def messages(self, messages: Sequence[Message], budget: int, count: Count) -> list[Message]:
        """A run's messages, of which `count` says at most `budget`: see `working.fit`."""
        return self.working.fit(messages, budget, count)

    def recall(self, query: str) -> Result | None:
        """What is remembered that has to do with a task or a question; None where nothing is."""
        episodes = self.episodic.search(query, _RECALLED) if self.episodic is not None else []
        facts = self.semantic.search(query, _RECALLED) if self.semantic is not None else []
        if not episodes and not facts:
            return None
        lines = [*map(_told_of_run, episodes), *(f"- Fact: {fact.text}" for fact in facts)]
        origins = {f"memory:run:{each.id}" for each in episodes} | {f"memory:fact:{each.id}" for each in facts}
        origins.update(*(run.origins for run in episodes), *(fact.origins for fact in facts))
        return Result("\n".join(lines), frozenset(origins))

    def record(self, run: Ended, lessons: Sequence[str] = ()) -> None:
        """Keep a run that has ended, with what the next try should know; nothing where runs are not remembered."""
        if self.episodic is None or run.end is None:
            return
        end = run.end
        outcome = "answer" if isinstance(end, Answer) else "question" if isinstance(end, Question) else end.why
        self.episodic.add(
            Episode(
                run=run.id,
                task=run.task,
                outcome=outcome,
                text=end.text,
                lessons=tuple(lessons),
                origins=run.origins,
                seconds=run.usage.seconds,
            )
        )

    def forget(self, what: str) -> int:
        """Forget a run or a fact by its origin ("memory:run:3"), or all that mention a text; how many those were.

        Nothing of it is left in the files. Raises StoreError where another process holds one open for reading.
        """
        kind, _, index = what.removeprefix("memory:").partition(":")
        runs, facts = list[int](), list[str]()
        if what.startswith("memory:") and kind in ("run", "fact"):
            runs = [int(index)] if kind == "run" and index.isdecimal() and len(index) < 19 else []
            facts = [index] if kind == "fact" else []
        else:
            runs = [each.id for each in self.episodic.mentioning(what)] if self.episodic is not None else []
            facts = [each.id for each in self.semantic.mentioning(what)] if self.semantic is not None else []
        gone = self.episodic.forget(runs) if self.episodic is not None and runs else 0
        return gone + (self.semantic.remove(facts) if self.semantic is not None and facts else 0)

    def tools(self) -> tuple[Tool, ...]:
        """`recall`, and `remember` where there is a place for facts, for a model to call.

        What it remembers is written, and so approved as a write is: a document that has a model remember something
        would otherwise speak in every later run.
        """

        @tool(effects=["reads"], isolated=False)
        def recall(query: str) -> Result:
            """Look up what you remember from earlier tasks.

            Args:
                query: A few words about what you want to know.
            """
            return self.recall(query) or Result(_NOTHING)

        @tool(effects=["writes"], isolated=False)
        def remember(fact: str) -> str:
            """Keep a fact for later tasks.

            Args:
                fact: One sentence that can be understood on its own.
            """
            assert self.semantic is not None
            (index,) = self.semantic.add([fact])
            return f"Remembered as memory:fact:{index}."

        return (recall, remember) if self.semantic is not None else (recall,)


def _told_of_run(episode: Episode) -> str:
    ended = {"answer": "answered", "question": "asked"}.get(episode.outcome, f"stopped ({episode.outcome})")
    lessons = "".join(f" Lesson: {_line(lesson)}" for lesson in episode.lessons)
    return f"- Earlier task: {_line(episode.task)} It {ended}: {_line(episode.text)}{lessons}"


def _line(text: str) -> str:
    return shortened(" ".join(text.split()), _LONGEST).replace("\n", " ")
