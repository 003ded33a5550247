"""What an answer must look like: a JSON schema, a regular expression or a Lark grammar, checked as far as it can be
without a tokenizer.

The checks are for what `llguidance`, which compiles grammars (see `constrain`), would not refuse itself: references
that it follows until the stack ends, promises that it does not keep, and options that loosen it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import unquote

from modelworks.core.errors import GrammarError

Kind: TypeAlias = Literal["json_schema", "regex", "lark"]

# The compiler recurses without looking at its stack: in 8 MB it ends the process at chains of 1,500 to 2,500 schemas
# (each reference and each level is one), and at 2,600 to 4,000 marks of a Lark grammar (each rule and bracket is one).
_DEEPEST_SCHEMA: Final = 250
_MOST_LARK_MARKS: Final = 800
# Its time grows faster than the length: 16,384 characters of a regex can take a second, 100,000 minutes.
_LONGEST_REGEX: Final = 16_384
_LONGEST_LARK: Final = 262_144

# Free whitespace between the tokens of JSON is a loop that small models do not leave. A schema's own "x-guidance",
# which could also make the compiler lenient, is replaced.
_OPTIONS: Final = {"x-guidance": {"whitespace_flexible": False}}

# Where a schema holds schemas. A value is one schema, a list of them, or (the first two and definitions) named ones.
_APPLICATORS: Final = (
    "properties",
    "patternProperties",
    "additionalProperties",
    "prefixItems",
    "items",
    "additionalItems",
    "allOf",
    "anyOf",
    "oneOf",
)
_DEFINITIONS: Final = ("$defs", "definitions")
_NAMED: Final = frozenset({"properties", "patternProperties", *_DEFINITIONS})

# What the checks must tell apart in a Lark grammar.
_LARK: Final = re.compile(
    r"""
      (?P<text>    " (?: \\. | [^"\\\n] )* " | (?: // | \# ) [^\n]* )
    | (?P<regex>   / (?! [/*] ) (?: \\. | [^/\\\n] )* / )
    | (?P<schema>  %json \s* (?= \{ ) )
    | (?P<special> < [^\s<>]+ > )
    | (?P<mark>    [:(\[] )
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Grammar:
    """What answers are held to; the field `grammar` of `Sampling`.

    Made by its three class methods, which raise `GrammarError` for what is wrong with the text alone. What only the
    compiler can tell, such as an unsupported keyword, `constrain` raises, before any token is generated.
    """

    kind: Kind
    source: str
    """JSON text, an expression, or rules, as the compiler gets it."""

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | bool) -> Grammar:
        """JSON that satisfies a schema (draft 2020-12), without whitespace, properties in the schema's order.

        References are followed within the schema (`#/$defs/...`); any other is refused, nothing is ever fetched.
        """
        if not isinstance(schema, Mapping | bool):
            raise GrammarError(f"JSON schema: expected an object, true or false; got {type(schema).__name__}")
        try:
            text = json.dumps(schema if isinstance(schema, bool) else dict(schema), allow_nan=False, ensure_ascii=False)
            text.encode()
            return cls("json_schema", _sealed(json.loads(text)))
        except RecursionError as error:
            raise GrammarError("JSON schema: nested too deeply") from error
        except (TypeError, ValueError) as error:
            raise GrammarError(f"JSON schema: not JSON: {error}") from error

    @classmethod
    def regex(cls, pattern: str) -> Grammar:
        r"""Text that an expression matches from its first character to its last.

        The syntax is that of Rust's `regex` crate: no look-around, no back-references, `\d` and `\w` are Unicode's.
        """
        _check_text("regex", pattern, _LONGEST_REGEX)
        return cls("regex", pattern)

    @classmethod
    def lark(cls, rules: str) -> Grammar:
        """Text that the rule `start` derives, in llguidance's dialect of Lark.

        `%json {...}` embeds a schema, treated as `json_schema` treats it. Special tokens (`<|name|>`) are refused: an
        answer is text, and control tokens are the engine's.
        """
        _check_text("Lark grammar", rules, _LONGEST_LARK)
        return cls("lark", _sealed_lark(rules))

    def compiled(self) -> str:
        """The grammar in llguidance's own form. Raises ValueError for what llguidance cannot read at all."""
        from llguidance import LLMatcher

        compilers: dict[Kind, Callable[[str], str]] = {
            "json_schema": LLMatcher.grammar_from_json_schema,
            "regex": LLMatcher.grammar_from_regex,
            "lark": LLMatcher.grammar_from_lark,
        }
        return compilers[self.kind](self.source)

    def refusal(self, said: str, compile_error: Callable[[Grammar], str] | None = None) -> GrammarError:
        """What the compiler `said`, in one line; `compile_error`, which says it of another grammar, finds the place."""
        if said.startswith("panic"):  # an assertion about sizes, with a backtrace
            return GrammarError(f"{_NAMES[self.kind]}: too large for the compiler")
        if said.startswith("NoExtension"):
            return GrammarError(f"{_NAMES[self.kind]}: no text satisfies it, or none that the model's tokens spell")
        place, reason = "", said
        if self.kind == "json_schema" and compile_error is not None:
            place = _located(json.loads(self.source), said, compile_error)
        elif found := re.match(r"(?:at )?(\d+)\((\d+)\): ", said):
            # What follows the reason shows the line. A regex is compiled as the rule `start: /.../` of a grammar.
            place = f"line {found[1]}, column {found[2]}" if self.kind == "lark" else ""
            reason = re.sub(r"\n +\d+ \| .*", "", said[found.end() :], flags=re.DOTALL)
        if error := re.search(r"^error: (.*)", reason, re.MULTILINE):  # a regex's, below the expression and a caret
            reason = f"invalid regex: {error[1]}"
        reason = re.sub(r'^(invalid regex) ".*" \(in regex\)', r"\1", " ".join(reason.split()))
        reason = re.split(r"; either increase | Enable 'coerce_one_of'", reason)[0]  # advice for llguidance's own users
        return GrammarError(f"{_NAMES[self.kind]}{place and ' at '}{place}: {reason[:300]}")


_NAMES: Final[Mapping[Kind, str]] = {"json_schema": "JSON schema", "regex": "regex", "lark": "Lark grammar"}


def _check_text(name: str, text: object, longest: int) -> None:
    if not isinstance(text, str):
        raise GrammarError(f"{name}: expected text, got {type(text).__name__}")
    if len(text) > longest:
        raise GrammarError(f"{name}: {len(text)} characters; up to {longest} are compiled")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise GrammarError(f"{name}: {error}") from error


# --- Lark -------------------------------------------------------------------------------------------------------------


def _sealed_lark(rules: str) -> str:
    """The rules with every embedded schema sealed. Raises `GrammarError` for what they must not contain."""
    decoder, parts, at, marks = json.JSONDecoder(), [], 0, 0
    while found := _LARK.search(rules, at):
        end = found.end()
        parts.append(rules[at:end])
        try:
            if found.lastgroup == "schema":
                schema, end = decoder.raw_decode(rules, end)
                parts.append(_sealed(schema))
            elif found.lastgroup == "regex":
                _check_text("regex", found[0], _LONGEST_REGEX)
            elif found.lastgroup == "special":
                raise GrammarError(f"{found[0]} is a special token, and an answer is text alone")
        except RecursionError as error:
            raise GrammarError(f"{_line(rules, found.start())}: %json is nested too deeply") from error
        except ValueError as error:
            raise GrammarError(f"{_line(rules, found.start())}: %json is not JSON: {error}") from error
        except GrammarError as error:
            raise GrammarError(f"{_line(rules, found.start())}: {error}") from error
        marks += found.lastgroup == "mark"
        at = end
    if marks > _MOST_LARK_MARKS:
        raise GrammarError(f"Lark grammar: {marks} rules and brackets; up to {_MOST_LARK_MARKS} are compiled")
    return "".join((*parts, rules[at:]))


def _line(rules: str, at: int) -> str:
    return f"Lark grammar at line {rules.count(chr(10), 0, at) + 1}"


# --- JSON schemas -----------------------------------------------------------------------------------------------------


def _sealed(schema: Any) -> str:
    """The text of a schema with our options. Raises `GrammarError` for what is refused before compiling."""
    if schema is False:
        raise GrammarError("JSON schema: no value satisfies `false`")
    schema = {} if schema is True else schema
    _check(schema)
    return json.dumps({**schema, **_OPTIONS})


def _children(schema: Mapping[str, Any], keys: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """The schemas within a schema, each with its JSON pointer from there."""
    for key in keys:
        value = schema.get(key)
        if isinstance(value, list):
            yield from ((f"/{key}/{at}", child) for at, child in enumerate(value))
        elif isinstance(value, dict) and key in _NAMED:
            for name, child in value.items():
                yield f"/{key}/{name.replace('~', '~0').replace('/', '~1')}", child
        elif isinstance(value, dict):
            yield f"/{key}", value


def _check(root: dict[str, Any]) -> None:
    """Look at every schema that the compiler would reach from the root, and at how deep it would go."""
    depths: dict[int, int] = {}  # by identity: the longest way down

    def depth(schema: Any, where: str, level: int) -> int:
        if not isinstance(schema, dict):
            return 0
        if id(schema) in depths:
            return depths[id(schema)]
        depths[id(schema)] = 0  # for as long as it takes: a cycle leads no deeper
        below = 0
        if level <= _DEEPEST_SCHEMA:
            _check_keywords(schema, where)
            for step, child in _children(schema, _APPLICATORS):
                below = max(below, depth(child, where + step, level + 1))
            if "$ref" in schema:
                target = _resolved(root, schema["$ref"], where)
                below = max(below, depth(target, schema["$ref"][1:], level + 1))
        if max(level, below) >= _DEEPEST_SCHEMA:
            raise GrammarError(f"JSON schema{_at(where)}: more than {_DEEPEST_SCHEMA} levels of schemas and references")
        depths[id(schema)] = below + 1
        return below + 1

    depth(root, "", 0)


def _check_keywords(schema: Mapping[str, Any], where: str) -> None:
    """Refuse what the compiler accepts and does not, or not safely, hold answers to."""
    least, required = schema.get("minProperties"), schema.get("required", ())
    # Additional properties may repeat a name, and then count as one. One such property is safe.
    if isinstance(least, int) and isinstance(required, list | tuple) and least > len(set(map(str, required))) + 1:
        raise GrammarError(
            f"JSON schema{_at(where)}: minProperties {least} cannot be ensured; name the properties in `required`"
        )
    for pattern in (schema.get("pattern"), *(schema.get("patternProperties") or ())):
        if isinstance(pattern, str):
            _check_text(f"JSON schema{_at(where)}: pattern", pattern, _LONGEST_REGEX)


def _resolved(root: Any, reference: Any, where: str) -> Any:
    """What a reference points to."""
    if not isinstance(reference, str) or not re.match(r"#(/|$)", reference):
        raise GrammarError(
            f"JSON schema{_at(where)}: $ref {reference!r} is no path within the schema (#/...), and nothing is fetched"
        )
    target = root
    for name in unquote(reference).split("/")[1:]:
        name = name.replace("~1", "/").replace("~0", "~")
        try:
            target = target[int(name)] if isinstance(target, list) else target[name]
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise GrammarError(f"JSON schema{_at(where)}: $ref {reference!r} points to nothing") from error
    return target


def _at(where: str) -> str:
    return f" at {where}" if where else ""


def _located(root: dict[str, Any], said: str, compile_error: Callable[[Grammar], str]) -> str:
    """The JSON pointer of the innermost schema of which the compiler says the same by itself; "" is the root."""
    definitions = {key: root[key] for key in _DEFINITIONS if key in root}
    where, schema, attempts = "", root, 500  # enough for what people write; a machine's schema may name a wider place
    while True:
        for step, child in _children(schema, (*_DEFINITIONS, *_APPLICATORS)):
            if attempts and isinstance(child, dict):
                attempts -= 1
                alone = Grammar("json_schema", json.dumps({**definitions, **child, **_OPTIONS}))
                if compile_error(alone) == said:
                    where, schema = where + step, child
                    break
        else:
            return where
