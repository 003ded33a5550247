"""Tool dialogues for `recipes/tool_sft.toml`, made by code of the tools in `catalogue.py`: one JSON object a line.

    python recipes/tools/dialogues.py --out tool_dialogues.jsonl [--count 2000] [--seed 0]

A dialogue is a request and the right call among one to three tools; or one call for each of several things that are
listed; or two requests in one; or a request that none of the tools serves (`no_tool`); or one that leaves out what its
tool needs (`ask_user`). What a sentence does not say and need not is left out of the call. Tools, sentences and values
are our own; `tests/recipes` checks that they have no function and no query of BFCL.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from catalogue import TOOLS, VAGUE, VALUES

from modelworks.agents.talk import ASK_USER, NO_TOOL, question
from modelworks.agents.tool import Tool

_PARAMETER = re.compile(r"(?P<name>\w+): (?P<type>\w+)(?P<optional>\?)?(?: = (?P<values>[^|]+?))? \| (?P<told>.+)")
_IMPLIED = re.compile(r"\s*\[(\w+)=(\w+)\]$")
_NUMERIC = ("integer", "number", "decimal", "percent")
_TOGETHER = ("Also, {}", "And {}", "Then {}", "After that, {}")


@dataclass(frozen=True)
class Parameter:
    name: str
    type: str
    values: str
    told: str
    required: bool

    def schema(self) -> dict[str, Any]:
        kinds = {"integer": "integer", "number": "number", "decimal": "number", "percent": "number"}
        kinds |= {"boolean": "boolean", "numbers": "array", "integers": "array"}
        made: dict[str, Any] = {"type": kinds.get(self.type, "string"), "description": self.told}
        if self.type in ("numbers", "integers"):
            made["items"] = {"type": self.type.removesuffix("s")}
        if self.type == "enum":
            made["enum"] = self.values.split(", ")
        return made

    def draw(self, random: random.Random) -> tuple[Any, str]:
        """A value, and how a person writes it."""
        if self.type == "enum":
            value = random.choice(self.values.split(", "))
            return value, value
        if self.type in ("numbers", "integers"):
            numbers = [random.randint(1, 99) for _ in range(random.randint(3, 6))]
            made = [float(each) for each in numbers] if self.type == "numbers" else numbers
            return made, _written_list(numbers, random)
        if self.type in _NUMERIC:
            return self._number(random)
        if self.type == "date":
            day = date(2021, 1, 1) + timedelta(days=random.randrange(1800))
            forms = ("%Y-%m-%d", "%B %d, %Y", "%d %B %Y", "%m/%d/%Y")
            return day.isoformat(), day.strftime(random.choice(forms))
        if self.type == "clock":
            hour, minute = random.randint(7, 21), random.choice((0, 15, 30, 45))
            twelve = f"{(hour - 1) % 12 + 1}:{minute:02} {'AM' if hour < 12 else 'PM'}"
            return f"{hour:02}:{minute:02}", random.choice((f"{hour:02}:{minute:02}", twelve))
        value = random.choice(VALUES[self.type].split(", "))
        return value, value

    def _number(self, random: random.Random) -> tuple[Any, str]:
        low, high = (float(end) for end in self.values.split("-"))
        if self.type == "integer":
            value = random.randint(int(low), int(high))
            is_year = "year" in self.told.lower() and low > 1900
            return value, f"{value:,}" if value > 9999 and not is_year and random.random() < 0.5 else str(value)
        if self.type == "percent":
            shown = random.choice((random.randint(int(low), int(high)), round(random.uniform(low, high), 1)))
            return round(shown / 100, 6), f"{shown}%"
        if self.type == "decimal" or random.random() < 0.2:
            part = round(random.uniform(low, high), 2 if self.type == "decimal" else 1)
            return part, str(part)
        whole = random.randint(int(low), int(high))
        return float(whole), str(whole)


@dataclass(frozen=True)
class Catalogued:
    name: str
    told: str
    parameters: tuple[Parameter, ...]
    sentences: tuple[str, ...]

    def described(self) -> dict[str, Any]:
        parameters: dict[str, Any] = {
            "type": "object",
            "properties": {each.name: each.schema() for each in self.parameters},
            "required": [each.name for each in self.parameters if each.required],
        }
        return {"name": self.name, "description": self.told, "parameters": parameters}


Call = tuple[str, dict[str, Any]]


def catalogue() -> list[Catalogued]:
    """The tools of `catalogue.py`."""
    made = []
    for block in TOOLS.strip().split("\n\n"):
        head, *lines = block.split("\n")
        name, told = head.split(" :: ")
        found = [_PARAMETER.fullmatch(line) for line in lines if not line.startswith("- ")]
        parameters = tuple(
            Parameter(each["name"], each["type"], each["values"] or "", each["told"], not each["optional"])
            for each in found
            if each is not None
        )
        assert len(parameters) == len(found), block
        made.append(Catalogued(name, told, parameters, tuple(line[2:] for line in lines if line.startswith("- "))))
    return made


def dialogues(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Rows of `messages` and `tools`, the same for a seed."""
    tools, draw = catalogue(), random.Random(seed)
    makers = {"one": _request, "listed": _listed, "lacking": _lacking}
    for _ in range(count):
        calls: list[Call]
        kind = draw.choices(("one", "listed", "two", "none", "lacking"), (46, 16, 12, 16, 10))[0]
        offered = draw.sample(tools, draw.choices((1, 2, 3), (5, 3, 2))[0])
        if kind == "none":
            asked = draw.choice([tool for tool in tools if tool not in offered])
            said, calls = _request(asked, draw)[0], [(NO_TOOL.name, {})]
        elif kind == "two":
            if len(offered) == 1:
                offered += draw.sample([tool for tool in tools if tool not in offered], 1)
            (first, calls), (second, more) = (_request(tool, draw) for tool in offered[:2])
            lower = second[0].lower() + second[1:] if not second.startswith("I ") else second
            said, calls = f"{first} {draw.choice(_TOGETHER).format(lower)}", [*calls, *more]
        else:
            said, calls = makers[kind](offered[0], draw)
        draw.shuffle(offered)
        made = [
            {"type": "function", "function": {"name": name, "arguments": json.dumps(given, ensure_ascii=False)}}
            for name, given in calls
        ]
        told = [*(tool.described() for tool in offered), NO_TOOL.described(), ASK_USER.described()]
        yield {
            "messages": [
                {"role": "user", "content": said},
                {"role": "assistant", "content": "", "tool_calls": made},
            ],
            "tools": [{"type": "function", "function": each} for each in told],
        }


def _request(
    tool: Catalogued, draw: random.Random, listed: str = "", vague: Mapping[str, str] | None = None
) -> tuple[str, list[Call]]:
    """A sentence and the call that it asks for; `listed` is a parameter that has several values, one a call.

    Of what is `vague` the sentence says no value, and the call has none.
    """
    needed = [listed] if listed else list(vague or ())
    fitting = [sentence for sentence in tool.sentences if all(f"{{{name}}}" in sentence for name in needed)]
    sentence, implied = draw.choice(fitting), {}
    for name, said in (vague or {}).items():
        sentence = sentence.replace(f"'{{{name}}}'", said).replace(f"{{{name}}}", said)  # a quotation is a value
    if found := _IMPLIED.search(sentence):
        implied = {found[1]: found[2] == "true"}
        sentence = sentence[: found.start()]
    values: dict[str, list[Any]] = {}
    for parameter in tool.parameters:
        if f"{{{parameter.name}}}" not in sentence:
            continue
        drawn: dict[str, Any] = {}
        while len(drawn) < (draw.choice((2, 2, 2, 3)) if parameter.name == listed else 1):
            value, said = parameter.draw(draw)
            drawn[said] = value
        values[parameter.name] = list(drawn.values())
        sentence = sentence.replace(f"{{{parameter.name}}}", _joined(list(drawn)))
    count = max((len(each) for each in values.values()), default=1)
    calls = [
        _call(tool, {name: each[at] if len(each) > 1 else each[0] for name, each in values.items()} | implied)
        for at in range(count)
    ]
    return sentence, calls


def _call(tool: Catalogued, given: Mapping[str, Any]) -> Call:
    return tool.name, {each.name: given[each.name] for each in tool.parameters if each.name in given}


def _listed(tool: Catalogued, draw: random.Random) -> tuple[str, list[Call]]:
    """A sentence with several values for one of its required parameters, where it has one that can be listed."""
    alone = [each for each in tool.parameters if each.required and each.type not in ("numbers", "integers")]
    if sum(each.type == alone[0].type for each in alone) > 1 or len(alone) == 0:
        return _request(tool, draw)
    return _request(tool, draw, alone[0].name)


def _lacking(tool: Catalogued, draw: random.Random) -> tuple[str, list[Call]]:
    """A sentence that is vague about one of its required parameters, which has to be asked for, where it has one."""
    needed = [each for each in tool.parameters if each.required and each.type not in ("boolean", "numbers", "integers")]
    if not needed:
        return _request(tool, draw)
    missing = draw.choice(needed)
    kind = "number" if missing.type in _NUMERIC else "date" if missing.type in ("date", "clock") else "text"
    said, _ = _request(tool, draw, vague={missing.name: draw.choice(VAGUE[kind].split(", "))})
    described = Tool(tool.name, tool.told, tool.described()["parameters"], print, frozenset())
    return said, [(ASK_USER.name, {"question": question(described, [missing.name])})]


def _joined(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _written_list(numbers: Sequence[int], draw: random.Random) -> str:
    plain = ", ".join(map(str, numbers))
    return draw.choice((plain, f"[{plain}]", _joined([str(number) for number in numbers])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with options.out.open("w", encoding="utf-8") as file:
        for row in dialogues(options.count, options.seed):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
