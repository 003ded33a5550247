"""Tools: what an agent can do. A typed Python function becomes one; so does each tool of an MCP server.

@tool(effects=["network"])
def temperature(city: str, unit: Literal["celsius", "fahrenheit"] = "celsius") -> float:
    \"\"\"The temperature in a city now.

    Args:
        city: Its name in English.
    \"\"\"
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args, overload

from modelworks.agents.arguments import described, structured
from modelworks.core.errors import ConfigError

Effect: TypeAlias = Literal["reads", "writes", "network", "money"]
EFFECTS: Final[tuple[Effect, ...]] = get_args(Effect)


@dataclass(frozen=True, slots=True)
class Result:
    """What a tool may return where text alone does not say it."""

    content: str
    origins: frozenset[str] = frozenset()
    """Where the content comes from: files, URLs, passages. It counts as theirs, not as the tool's own word."""
    error: bool = False


@dataclass(frozen=True, slots=True)
class Tool:
    """Something that can be called by name with arguments that satisfy a JSON schema."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    """A JSON schema of type "object"."""
    run: Callable[..., Any]
    """Takes the arguments by keyword, and returns a `Result`, text, or what JSON holds; what it raises is told to the
    model as an observation."""
    effects: frozenset[Effect]
    """What a call may do to the world: nothing at all where empty. Approval goes by them."""
    isolated: bool = True
    """Whether it runs in a process of its own, which a halt or the timeout kills whatever it does. One that is not must
    keep to itself what it blocks in: it is stopped by an exception in its thread, at its next step of Python."""
    timeout: float = 60.0
    """Seconds that a call may take."""
    source: str = ""
    """Where its definition comes from, such as an MCP server; "" where it is the program's own."""
    resumes: bool = False
    """Whether a call that was interrupted can be made again as it was, and then goes on instead of acting twice."""
    trusted: bool = False
    """Whether what it returns is the program's own word, such as a calculator's result, and not somebody's content."""

    def __post_init__(self) -> None:
        if not self.name or len(self.name) > 64 or not self.name.replace("-", "_").replace(".", "_").isidentifier():
            raise ConfigError(f"tool {self.name!r}: a name has at most 64 letters, digits, '_', '-' and '.'")
        if unknown := self.effects - set(EFFECTS):
            raise ConfigError(f"tool {self.name}: no effect is called {min(unknown)!r}; there are {', '.join(EFFECTS)}")
        if self.parameters.get("type") != "object":
            raise ConfigError(f"tool {self.name}: its parameters are not a schema of type 'object'")

    def described(self) -> dict[str, Any]:
        """As models are told of it: `name`, `description`, `parameters`."""
        return {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}

    @property
    def digest(self) -> str:
        """SHA-256 of all that a model and an approver are told of it: a definition that changes has another."""
        told = self.described() | {"effects": sorted(self.effects), "source": self.source}
        return hashlib.sha256(canonical(told).encode()).hexdigest()


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...
@overload
def tool(
    *,
    name: str | None = None,
    effects: Iterable[Effect] = ("writes",),
    isolated: bool = True,
    timeout: float = 60.0,
    trusted: bool = False,
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    effects: Iterable[Effect] = ("writes",),
    isolated: bool = True,
    timeout: float = 60.0,
    trusted: bool = False,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """A tool of a function: name, description and schema are those of its signature and docstring.

    A function that does not say what its effects are is taken to write. With `isolated`, as it is unless said
    otherwise, what it changes in this process's memory is lost with the process that it runs in. Raises `ConfigError`
    for a signature that no schema describes, naming the parameter.
    """

    def make(function: Callable[..., Any]) -> Tool:
        description, parameters = described(function)
        return Tool(
            name=name or function.__name__,
            description=description,
            parameters=parameters,
            run=structured(function),
            effects=frozenset(effects),
            isolated=isolated,
            timeout=timeout,
            trusted=trusted,
        )

    return make if function is None else make(function)


def canonical(value: Any) -> str:
    """The one JSON text of a value: keys sorted, no space. What a hash of arguments is a hash of."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def call_digest(tool: Tool, arguments: Mapping[str, Any]) -> str:
    """SHA-256 of a tool's definition and the exact arguments: what an approval is for."""
    return hashlib.sha256(canonical([tool.digest, arguments]).encode()).hexdigest()
