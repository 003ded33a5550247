"""Function calls against the answers that are right: the cases of the Berkeley leaderboard, by its checker's rules.

Patil et al. 2025, "The Berkeley Function Calling Leaderboard" (ICML 2025), categories that are checked by syntax tree:
a call is right if its function is, every parameter that it gives is among the answers in type and value, and every one
that it leaves out may be left out ("" among the answers). Strings are compared without case, space and `,./-_*^`. Calls
in parallel match their answers in any order. A case without answers wants no call at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from modelworks.core.errors import ConfigError

CATEGORIES: Final = ("simple_python", "multiple", "parallel", "parallel_multiple", "irrelevance")
Call = tuple[str, Mapping[str, Any]]
"""A function's name, and its arguments."""
_TYPES: Final[Mapping[str, type]] = {
    "string": str,
    "integer": int,
    "float": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
    "any": str,
}
_SCHEMA_TYPES: Final = {"dict": "object", "float": "number", "tuple": "array"}
_STANDARD: Final = re.compile(r"[ ,./\-_*^]")


@dataclass(frozen=True)
class Case:
    """What is asked, the functions that are offered, in the set's own notation, and the calls that are right."""

    id: str
    category: str
    messages: tuple[Mapping[str, Any], ...]
    functions: tuple[Mapping[str, Any], ...]
    answers: tuple[Mapping[str, Mapping[str, Sequence[Any]]], ...]
    """For each call its function, and for each parameter the values that are right; none where no call is."""

    @property
    def query(self) -> str:
        """What the user says."""
        return "\n".join(message["content"] for message in self.messages if message["role"] == "user")

    def schemas(self) -> list[dict[str, Any]]:
        """The functions with `name`, `description` and `parameters` as JSON Schema has them."""
        return [{**function, "parameters": _schema(function["parameters"])} for function in self.functions]


def _schema(value: Any) -> Any:
    """JSON Schema of the set's notation, whose types are Python's, without its own marks."""
    if not isinstance(value, Mapping):
        return value
    made = {key: item for key, item in value.items() if key != "optional" and not isinstance(item, bool)}
    if "properties" in made:
        made["properties"] = {name: _schema(inner) for name, inner in made["properties"].items()}
    if "items" in made:
        made["items"] = _schema(made["items"])
    if "default" in value:
        made["default"] = value["default"]
    kind = made.get("type")
    if kind == "any":
        del made["type"]
    elif isinstance(kind, str):
        made["type"] = _SCHEMA_TYPES.get(kind, kind)
    return made


def load_cases(folder: str | Path, category: str) -> list[Case]:
    """The cases of `bfcl_<category>.jsonl` and its `_answers`. Raises ConfigError for files that are none."""
    if category not in CATEGORIES:
        raise ConfigError(f"{category!r} is no category; there are {', '.join(CATEGORIES)}")
    asked = _rows(Path(folder) / f"bfcl_{category}.jsonl")
    answers: dict[str, Any] = {}
    if category != "irrelevance":
        answers = {row["id"]: row["ground_truth"] for row in _rows(Path(folder) / f"bfcl_{category}_answers.jsonl")}
    try:
        return [
            Case(
                row["id"],
                category,
                tuple(message for turn in row["question"] for message in turn),
                tuple(row["function"]),
                tuple(answers[row["id"]]) if answers else (),
            )
            for row in asked
        ]
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{folder}: the cases of {category} and their answers do not belong together") from error


def development_cases(folder: str | Path, category: str) -> list[Case]:
    """Two of every five cases, on which rules and weights are fitted, and by which nothing is reported."""
    return [case for at, case in enumerate(load_cases(folder, category)) if at % 5 < 2]


def _rows(path: Path) -> list[Any]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: it is not JSON by lines: {error}") from error


def example_calls(case: Case) -> list[Call]:
    """The first answer to each call that a case wants; without parameters that a few answers have and no function."""
    found: list[Call] = []
    for answer in case.answers:
        ((name, parameters),) = answer.items()
        known = next(each for each in case.functions if each["name"] == name)["parameters"]["properties"]
        given = {key: _first(values) for key, values in parameters.items() if key in known}
        found.append((name, {key: value for key, value in given.items() if value != ""}))
    return found


def _first(values: Sequence[Any]) -> Any:
    value = next((value for value in values if value != ""), "")
    return _plain(value)


def _plain(value: Any) -> Any:
    """A value out of an answer, in which each value of an object is a list of those that are right."""
    if isinstance(value, Mapping):
        chosen = {key: _first(inner) if isinstance(inner, list) else inner for key, inner in value.items()}
        return {key: inner for key, inner in chosen.items() if inner != ""}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def why_wrong(case: Case, calls: Sequence[Call]) -> str | None:
    """What is wrong with the calls of an answer; None where nothing is."""
    if len(calls) != len(case.answers):
        return f"{len(calls)} calls, expected {len(case.answers)}"
    left, first = list(calls), None
    for answer in case.answers:
        ((name, right),) = answer.items()
        function = next(each for each in case.functions if each["name"] == name)
        faults = [_fault(function, right, call) for call in left]
        if None not in faults:
            if first is None:
                named = [fault for fault, call in zip(faults, left) if call[0] == name]
                first = (named or faults)[0]
            return first
        del left[faults.index(None)]
    return None


def is_right(case: Case, calls: Sequence[Call]) -> bool:
    return why_wrong(case, calls) is None


def _fault(function: Mapping[str, Any], right: Mapping[str, Sequence[Any]], call: Call) -> str | None:
    name, arguments = call
    if name != function["name"]:
        return f"{name} is called, expected {function['name']}"
    properties = function["parameters"]["properties"]
    for required in function["parameters"].get("required", ()):
        if required not in arguments:
            return f"{required} is missing"
    for parameter, value in arguments.items():
        if parameter not in properties or parameter not in right:
            return f"{parameter} is no parameter that is asked for"
        if not _agrees(properties[parameter], value, right[parameter]):
            return f"{parameter} is {value!r}, expected one of {list(right[parameter])!r}"
    for parameter, values in right.items():
        if parameter not in arguments and "" not in values:
            return f"{parameter} is missing"
    return None


def _agrees(schema: Mapping[str, Any], value: Any, right: Sequence[Any]) -> bool:
    """Whether a value is of the parameter's type, or of the answers', and among them."""
    stated = schema["type"]
    wanted = _TYPES[stated]
    inner = _TYPES[schema["items"]["type"]] if stated in ("array", "tuple") else None
    if stated == "float" and type(value) is int:
        value = float(value)
    is_typed, is_variable = _typed(value, right, wanted, inner)
    if not is_typed:
        return False
    if not is_variable:
        if wanted is dict:
            return any(_same_object(value, each) for each in right if each != "")
        if wanted is list and inner is dict and isinstance(value, list):
            return any(_same_objects(value, each) for each in right if each != "")
        if wanted in (str, list):
            return _standard(value) in [_standard(each) for each in right]
    return value in right


def _typed(value: Any, right: Sequence[Any], wanted: type, inner: type | None) -> tuple[bool, bool]:
    """Whether the type is right, and whether the answers are of another than the schema's: a variable's name, say."""
    usual = next((type(each) for each in right if each != ""), None)
    is_variable = usual is not None and usual is not wanted
    if type(value) is wanted:
        if inner is None:
            return True, is_variable
        items: Any = value
        fits = (all(_typed(item, each, inner, None)[0] for item in items) for each in right if isinstance(each, list))
        return any(fits) or not all(isinstance(each, list) for each in right), is_variable
    return usual is not None and type(value) is usual, True


def _standard(value: Any) -> Any:
    if isinstance(value, list):
        return [_standard(item) if isinstance(item, str) else item for item in value]
    return _STANDARD.sub("", value).lower().replace("'", '"') if isinstance(value, str) else value


def _same_object(value: Mapping[str, Any], right: Mapping[str, Sequence[Any]]) -> bool:
    def among(key: str) -> bool:
        return _standard(value[key]) in [_standard(each) for each in right[key]]

    return all(key in right and among(key) for key in value) and all(
        key in value or "" in values for key, values in right.items()
    )


def _same_objects(values: Sequence[Any], right: Sequence[Any]) -> bool:
    return len(values) == len(right) and all(map(_same_object, values, right))
