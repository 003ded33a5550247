"""A constitution: principles in words, and how a model is to be asked to live up to them.

It is one recipe, such as `recipes/constitution.toml`: the principles, the model, the judge, and how often.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from modelworks.core.config import as_dict, read_values, resolve
from modelworks.core.errors import ConfigError

Fault = Literal["too long", "empty", "cut", "echo", "unchanged", "unjudged", "flipped"]
"""What can be wrong with what came of a prompt; see `constitution.faults_of`."""


@dataclass(frozen=True, kw_only=True)
class Principle:
    """One thing to hold an answer to, said in the three ways in which it is needed."""

    name: str
    critique: str
    "Asks the model to find where its answer falls short."
    revision: str
    "Asks the model to write the answer anew without that."
    question: str
    "Asks a judge which of two answers is better in this."

    def __post_init__(self) -> None:
        for item in fields(self):
            if not getattr(self, item.name).strip():
                raise ConfigError(f"principle {self.name!r}: {item.name} is empty")


@dataclass(frozen=True, kw_only=True)
class JudgeRecipe:
    """Who chooses between two answers."""

    kind: Literal["model", "endpoint", "rule"] = "model"
    model: str = ""
    "model: a reference (the model that answers, where not given); endpoint: the name that the server knows."
    url: str = ""
    "endpoint: where its API begins, such as http://localhost:8000/v1."
    key: str = ""
    "endpoint: the environment variable that holds the key; none where not given."
    rule: str = ""
    "rule: a TOML file of patterns with weights, or what else `scores.read_reward` takes."
    labels: tuple[str, ...] = ("A", "B")
    "What the two answers are called."
    timeout: float = 60.0
    "endpoint: seconds for one answer."
    tries: int = 4
    "endpoint: how often before giving up."

    def __post_init__(self) -> None:
        needs = {"endpoint": ("url", "model"), "rule": ("rule",)}.get(self.kind, ())
        if missing := [name for name in needs if not getattr(self, name)]:
            raise ConfigError(f"a judge of kind {self.kind} needs {' and '.join(missing)}")
        if len(self.labels) != 2 or self.labels[0] == self.labels[1] or not all(map(str.strip, self.labels)):
            raise ConfigError(f"labels must be two different words, got {list(self.labels)}")
        if self.timeout <= 0 or self.tries < 1:
            raise ConfigError(f"timeout must be above 0 and tries 1 or more, got {self.timeout} and {self.tries}")


@dataclass(frozen=True, kw_only=True)
class ConstitutionRecipe:
    """Principles, and how they are put to use."""

    principles: tuple[Principle, ...]
    prompts: tuple[str, ...] = ()
    "Files of training data whose prompts are answered."
    count: int = 0
    "How many of the prompts; 0: all."
    model: str = "starter"
    revisions: int = 1
    "How often an answer is criticised and revised, each time by a principle drawn anew."
    compare: Literal["revision", "samples"] = "revision"
    "What the judge chooses between: the first answer and the last revision, or two samples of the model, none revised."
    max_tokens: int = 200
    "Of an answer, a critique and a revision."
    temperature: float = 0.7
    top_p: float = 0.95
    seed: int = 0
    judge: JudgeRecipe = JudgeRecipe()
    leave_out: tuple[Fault, ...] = ("cut", "echo", "unchanged")
    "Faults with which a row is not written for training; what is too long, empty or unjudged never is."

    def __post_init__(self) -> None:
        if not self.principles:
            raise ConfigError("a constitution without principles")
        names = Counter(principle.name for principle in self.principles)
        if twice := [name for name, count in names.items() if count > 1]:
            raise ConfigError(f"two principles are named {twice[0]!r}")
        if self.revisions < 1 or self.max_tokens < 1 or self.count < 0:
            raise ConfigError(
                f"revisions={self.revisions} and max_tokens={self.max_tokens} must be 1 or more, "
                f"and count={self.count} 0 or more"
            )

    def decisive(self) -> dict[str, Any]:
        """What decides the records: all but which prompts there are, which each record says itself, and the exports."""
        stated = as_dict(self)
        for name in ("prompts", "count", "leave_out"):
            del stated[name]
        for name in ("timeout", "tries", "key"):
            del stated["judge"][name]
        return stated


def read_constitution(path: str | Path, overrides: Iterable[str] = ()) -> ConstitutionRecipe:
    """Raise ConfigError that names every key that is unknown, missing or of the wrong kind."""
    try:
        return resolve(ConstitutionRecipe, read_values(Path(path), overrides))
    except ConfigError as error:
        raise ConfigError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def digest(value: Any) -> str:
    """The SHA-256 of a value's JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
