"""What is refused, by which name and at which place; and what schemas mean, against the reference validator."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from modelworks.core.errors import ConfigError, GrammarError
from modelworks.engine.constrain import Constraint, constrain
from modelworks.engine.grammar import Grammar
from modelworks.engine.sample import Sampler, Sampling
from modelworks.models.base import LanguageModel
from modelworks.text.tokenizer import Tokenizer


def compiled(tokenizer: Tokenizer, grammar: Grammar) -> Constraint:
    return constrain(tokenizer, grammar, vocab_size=tokenizer.vocab_size, end_ids=tokenizer.stop_ids)


CYCLE: dict[str, Any] = {}
CYCLE["items"] = CYCLE


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ([], "expected an object, true or false; got list"),
        ("{}", "got str"),
        (None, "got NoneType"),
        (False, "no value satisfies `false`"),
        ({"const": float("nan")}, "not JSON"),
        ({"const": {1}}, "not JSON"),
        ({"const": "\ud800"}, "not JSON"),
        (CYCLE, "not JSON: Circular"),
        ({"$ref": "https://example.com/schema.json"}, r"\$ref 'https://example.com/schema.json' is no path within"),
        ({"items": {"$ref": "other.json#/a"}}, r"at /items: \$ref 'other.json#/a'"),
        ({"$ref": "file:///etc/passwd"}, "nothing is fetched"),
        (
            {"properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {}},
            r"at /properties/a: \$ref '#/\$defs/b' points to n",
        ),
        ({"anyOf": [True, {"$ref": 5}]}, r"at /anyOf/1: \$ref 5"),
        ({"properties": {"x": {"minProperties": 3, "required": ["a"]}}}, "at /properties/x: minProperties 3"),
        ({"pattern": "a?" * 9000}, "pattern: 18000 characters"),
    ],
)
def test_schemas_that_are_refused_by_themselves(schema: Any, message: str) -> None:
    with pytest.raises(GrammarError, match=f"^JSON schema.*{message}"):
        Grammar.json_schema(schema)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "objekt"}, "^JSON schema: Invalid type: objekt"),
        ({"properties": {"a": 5}}, "schema must be an object or boolean"),
        ({"properties": {"a": {"type": 5}}}, "^JSON schema at /properties/a: type must be"),
        ({"properties": {"a/b": {"items": {"not": {}}}}}, r'^JSON schema at /properties/a~1b/items: .*\["not"\]'),
        ({"$defs": {"x": {"uniqueItems": True}}, "items": {"$ref": "#/$defs/x"}}, r"at /\$defs/x: .*uniqueItems"),
        ({"prefixItems": [{}, {"format": "nonsense"}]}, "at /prefixItems/1: Unknown format: nonsense"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf constraints are not supported.$"),
        ({"properties": {"a": {"pattern": "("}}}, "at /properties/a: invalid regex: unclosed group"),
        ({"pattern": "(?=a)b"}, "invalid regex: look-around"),
        ({"required": "a"}, "Expected array for 'required'"),
        ({"maxLength": "ten"}, "Expected positive integer for 'maxLength'"),
        ({"enum": []}, "Unsatisfiable"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, r"minimum \(5\) is greater than maximum \(4\)"),
        ({"$ref": "#"}, "no text satisfies it"),
        ({"if": {}, "then": {"type": "string"}}, r'\["if", "then"\]'),
    ],
)
def test_schemas_that_the_compiler_refuses(schema: Any, message: str, bytes_only: Tokenizer) -> None:
    """agents.md 4; llama.cpp#19051: never a constraint that does not constrain."""
    grammar = Grammar.json_schema(schema)
    with pytest.raises(GrammarError, match=message) as raised:
        compiled(bytes_only, grammar)
    assert isinstance(raised.value, ConfigError)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("[", "unclosed character class"),
        ("(a|b)\\1", "backreferences are not supported"),
        ("(?<!a)b", "look-around"),
        ("\\bword", "lookarounds not supported"),
        ("a{2,1}", "invalid repetition count range"),
        ("(" * 10_000, "unclosed group$"),
        ("(" * 5_000 + "a" + ")" * 5_000, "maximum number of nested"),
        ("x\n(y", "unclosed group"),
    ],
)
def test_regexes_that_are_refused(pattern: str, message: str, bytes_only: Tokenizer) -> None:
    grammar = Grammar.regex(pattern)
    with pytest.raises(GrammarError, match=f"^regex: .*{message}") as raised:
        compiled(bytes_only, grammar)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 350


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("", "Empty grammar"),
        ('other: "a"', "no start rule"),
        ('start: "a"\n  | foo', 'at line 1, column 8: unknown name: "foo"'),
        ('start: "a', "at line 1, column 10: lexer error"),
        ("start: A\nA: /[/", "at line 2, column 4: invalid regex: unclosed character class"),
        ("start: start", "no text satisfies it"),
        ("start: @elsewhere", "unknown grammar @elsewhere"),
        ('start: %json {"not": {}}', r'at line 1, column 8: failed to compile JSON schema: .*\["not"\]'),
    ],
)
def test_lark_grammars_that_the_compiler_refuses(rules: str, message: str, bytes_only: Tokenizer) -> None:
    grammar = Grammar.lark(rules)
    with pytest.raises(GrammarError, match=f"^Lark grammar.*{message}") as raised:
        compiled(bytes_only, grammar)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (5, ": expected text, got int"),
        ("start: <|im_end|>", r" at line 1: <\|im_end\|> is a special token"),
        ('start: "a"\n\nb: <[256]>', r" at line 3: <\[256\]> is a special token"),
        ("start: <[*]>", r" at line 1: <\[\*\]> is a special token"),
        ('start: %json {"$ref": "http://x"}', " at line 1: JSON schema: .*nothing is fetched"),
        ('start: %json {"a": }', " at line 1: %json is not JSON"),
        ("start: %json {" + '"a":{' * 5000, " at line 1: %json is nested too deeply"),
        ("start: /" + "a?" * 9000 + "/", " at line 1: regex: 18002 characters"),
        ('start: "\ud800"', ": .*surrogates not allowed"),
        ('start: "a"' + " " * 300_000, ": 300010 characters; up to 262144"),
    ],
)
def test_lark_grammars_that_are_refused_by_themselves(rules: Any, message: str) -> None:
    with pytest.raises(GrammarError, match=f"^Lark grammar{message}"):
        Grammar.lark(rules)


@pytest.mark.parametrize(
    "rules",
    [
        'start: "<|im_end|>"',
        r"start: /<\|im_end\|>/",
        'start: "x"  // <|im_end|>\n',
        'start: "x"  # <|im_end|>\n',
        r'start: "\"<a>"',
    ],
)
def test_what_only_looks_like_a_special_token_is_text(rules: str, bytes_only: Tokenizer) -> None:
    assert compiled(bytes_only, Grammar.lark(rules)).forced()


def test_only_its_own_types() -> None:
    for given_ in (5, None, b"a"):
        with pytest.raises(GrammarError, match=r"^regex: expected text"):
            Grammar.regex(given_)  # type: ignore[arg-type]
    with pytest.raises(GrammarError, match="surrogates not allowed"):
        Grammar.regex("\ud800")
    with pytest.raises(GrammarError, match="20000 characters; up to 16384"):
        Grammar.regex("a" * 20_000)


def chain(links: int, link: Any) -> dict[str, Any]:
    """A schema whose references lead through `links` definitions."""
    named = {f"a{n}": link({"$ref": f"#/$defs/a{n + 1}"}) for n in range(links)}
    return {"$defs": {**named, f"a{links}": {"type": "string"}}, "$ref": "#/$defs/a0"}


LINKS = {
    "alone": lambda reference: reference,
    "items": lambda reference: {"items": reference},
    "allOf": lambda reference: {"allOf": [reference, {"type": "string"}]},
    "properties": lambda reference: {"properties": {"a": {"properties": {"b": reference}}}},
}


@pytest.mark.parametrize("link", LINKS)
def test_chains_of_references_end_in_an_error_and_not_the_process(link: str, bytes_only: Tokenizer) -> None:
    """The compiler recurses through references; a chain of some 2,000 overruns the stack and kills a server."""
    with pytest.raises(GrammarError, match="more than 250 levels"):
        Grammar.json_schema(chain(20_000, LINKS[link]))
    compiled(bytes_only, Grammar.json_schema(chain(60, LINKS[link])))


def test_the_order_of_a_schema_hides_no_chain() -> None:
    """A chain that was looked at from its end has no step that is long by itself."""
    schema = chain(400, LINKS["items"])
    schema["anyOf"] = [{"$ref": f"#/$defs/a{n}"} for n in range(400, -1, -1)]
    with pytest.raises(GrammarError, match="more than 250 levels"):
        Grammar.json_schema({"anyOf": schema["anyOf"], **schema})


@pytest.mark.parametrize(
    "rules",
    [
        "start: r0\n" + "".join(f"r{n}: r{n + 1}\n" for n in range(9_000)) + 'r9000: "a"',
        "start: A0\n" + "".join(f'A{n}: "a" A{n + 1}\n' for n in range(9_000)) + 'A9000: "a"',
        "start: " + "(" * 5_000 + '"a"' + ")" * 5_000,
    ],
)
def test_chains_of_rules_end_in_an_error_and_not_the_process(rules: str) -> None:
    with pytest.raises(GrammarError, match="rules and brackets; up to 800"):
        Grammar.lark(rules)


KEYWORDS = (
    "type properties items required enum const anyOf allOf $ref pattern minLength maximum additionalProperties "
    "minProperties $defs format prefixItems"
).split()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(KEYWORDS) | st.text(max_size=2),
                inner | st.sampled_from(["string", "object", "#", "#/$defs/a", "#/properties/b"]),
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
@settings(max_examples=300)
def test_whatever_is_no_schema_is_a_grammar_error(bytes_only: Tokenizer, schema: Any) -> None:
    with suppress(GrammarError):
        assert compiled(bytes_only, Grammar.json_schema(schema)).mask().any()
        assert isinstance(schema, dict | bool)


@given(st.text(alphabet='start:/"ab|()[]{}<>%json\\\n~*+?#@ 0_', max_size=40))
@settings(max_examples=150)
def test_whatever_is_no_lark_is_a_grammar_error(bytes_only: Tokenizer, text: str) -> None:
    for make in (Grammar.lark, lambda rest: Grammar.lark(f"start: {rest}"), Grammar.regex):
        with suppress(GrammarError):
            assert compiled(bytes_only, make(text)).mask().any()


def test_a_schema_cannot_loosen_itself(bytes_only: Tokenizer) -> None:
    """llguidance reads options from "x-guidance"; a tool's schema from the network must not set them."""
    loose = {"lenient": True, "whitespace_flexible": True, "whitespace_pattern": " *", "item_separator": ";"}
    with pytest.raises(GrammarError, match="not"):
        compiled(bytes_only, Grammar.json_schema({"not": {}, "x-guidance": loose}))
    with pytest.raises(GrammarError, match="not"):
        compiled(bytes_only, Grammar.lark("start: %json " + json.dumps({"not": {}, "x-guidance": loose})))
    schema = {"type": "array", "minItems": 2, "items": {"const": 1}, "x-guidance": loose}
    for grammar in (Grammar.json_schema(schema), Grammar.lark("start: %json " + json.dumps(schema))):
        assert bytes(compiled(bytes_only, grammar).forced()) == b"[1,1"


def test_grammars_are_values() -> None:
    assert Grammar.regex("a") == Grammar.regex("a") != Grammar.lark("a")
    assert len({Grammar.json_schema({"type": "null"}), Grammar.json_schema({"type": "null"})}) == 1
    in_order, reversed_ = ({"properties": {name: {} for name in names}} for names in ("ab", "ba"))
    assert Grammar.json_schema(in_order) != Grammar.json_schema(reversed_)  # it decides the order of the answer


# --- what schemas mean ------------------------------------------------------------------------------------------------


def numbers(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    bounds = st.tuples(st.integers(-99, 99), st.integers(0, 200)).map(
        lambda pair: {"minimum": pair[0], "maximum": pair[0] + pair[1]}
    )
    exclusive = st.integers(-9, 9).map(lambda least: {"exclusiveMinimum": least, "exclusiveMaximum": least + 3})
    return (bounds | exclusive).map(lambda limits: {"type": kind, **limits})


TEXTS = st.builds(
    lambda least, more: {"type": "string", "minLength": least, "maxLength": least + more},
    st.integers(0, 3),
    st.integers(0, 4),
) | st.sampled_from(
    [
        {"type": "string", "pattern": "^[a-z]{2,4}$"},
        {"type": "string", "pattern": "^(\\d{2}|x)-\\w$"},
        {"type": "string", "format": "date"},
        {"type": "string", "format": "ipv4"},
    ]
)
VALUES = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=4)
LEAVES = (
    st.sampled_from([{"type": "null"}, {"type": "boolean"}, {"$ref": "#/$defs/leaf"}])
    | numbers("integer")
    | numbers("number")
    | TEXTS
    | VALUES.map(lambda value: {"const": value})
    | st.lists(VALUES, min_size=1, max_size=3).map(lambda values: {"enum": values})
)


def composites(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    def an_object(fields: dict[str, Any], wanted: list[bool], rest: Any) -> dict[str, Any]:
        required = [name for name, is_required in zip(fields, wanted) if is_required]
        limits = {"maxProperties": len(fields) + 1} if rest is not False and set(required) == set(fields) else {}
        return {
            "type": "object",
            "properties": fields,
            "required": required,
            "additionalProperties": rest,
            **limits,
        }

    names = st.text(string.ascii_letters + '/~é"\\ ', min_size=1, max_size=5)
    objects = st.builds(
        an_object,
        st.dictionaries(names, inner, max_size=3),
        st.lists(st.booleans(), min_size=3, max_size=3),
        st.just(False) | inner,
    )
    arrays = st.builds(
        lambda items, first, least, more: {
            "type": "array",
            **({"prefixItems": first} if first else {}),
            "items": items,
            "minItems": least,
            "maxItems": max(least, len(first)) + more,
        },
        inner,
        st.lists(inner, max_size=2),
        st.integers(0, 2),
        st.integers(0, 2),
    )
    return objects | arrays | st.lists(inner, min_size=1, max_size=3).map(lambda schemas: {"anyOf": schemas})


SCHEMAS = st.builds(
    lambda schema, leaf: {**schema, "$defs": {"leaf": leaf}},
    st.recursive(LEAVES, composites, max_leaves=5),
    LEAVES.filter(lambda leaf: "$ref" not in leaf),
)


def accepts(tokenizer: Tokenizer, grammar: Grammar, ids: Sequence[int]) -> bool:
    """Whether the masks let every token through, and then an end."""
    constraint = compiled(tokenizer, grammar)
    for index in ids:
        if not constraint.mask()[index]:
            return False
        constraint.accept(index)
    return constraint.finished or bool(constraint.mask()[list(tokenizer.stop_ids)].any())


def answer(tokenizer: Tokenizer, grammar: Grammar, seed: int, most: int = 400) -> str | None:
    """A text drawn at random under the grammar, by the sampler; None if it does not end."""
    sampler = Sampler(Sampling(temperature=1.5, seed=seed), [], tokenizer.vocab_size)
    noise = torch.Generator().manual_seed(seed)
    constraint, ids = compiled(tokenizer, grammar), []
    while not constraint.finished and len(ids) < most:
        for token in constraint.forced() or [
            sampler.choose(2 * torch.randn(tokenizer.vocab_size, generator=noise), constraint.mask())
        ]:
            constraint.accept(token)
            ids.append(token)
    if not constraint.finished:
        return None
    return b"".join(tokenizer.token_bytes(index) for index in ids if index not in tokenizer.stop_ids).decode()


@given(schema=SCHEMAS, seed=st.integers(0, 2**32))
@settings(max_examples=150)
def test_what_is_drawn_under_a_schema_satisfies_it(merged: Tokenizer, schema: dict[str, Any], seed: int) -> None:
    text = answer(merged, Grammar.json_schema(schema), seed)
    assume(text is not None)  # additional properties and digits may go on
    assert text is not None
    jsonschema.validate(json.loads(text), schema, jsonschema.Draft202012Validator)


@given(schema=SCHEMAS, value=SCHEMAS.map(lambda schema: schema["$defs"]) | VALUES | st.lists(VALUES, max_size=3))
@settings(max_examples=150)
def test_what_a_schema_forbids_is_not_let_through(bytes_only: Tokenizer, schema: dict[str, Any], value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if accepts(bytes_only, Grammar.json_schema(schema), list(text.encode())):
        jsonschema.validate(value, schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        ({"properties": {}}, '{"x":[1]}', "{"),
        ({"type": "object", "properties": {}, "additionalProperties": False}, "{}", '{"a":1}'),
        ({"type": "string", "maxLength": 10_000}, json.dumps("x" * 10_000), json.dumps("x" * 10_001)),
        (True, '{"a":[1,"b",null]}', "nope"),
        ({}, "[]", "[,]"),
        ({"$defs": {"a": {"type": "integer"}}, "items": {"$ref": "#/$defs/a"}, "type": "array"}, "[1,2]", "[true]"),
        ({"definitions": {"a/b": {"const": 1}}, "$ref": "#/definitions/a~1b"}, "1", "2"),
        (
            {"type": "object", "properties": {"t": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}},
            '{"t":{"t":null}}',
            "1",
        ),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, "7", "null"),
        ({"type": "integer", "minimum": 5, "maximum": 30}, "17", "31"),
        ({"minProperties": 1, "type": "object"}, '{"a":1}', "{}"),
    ],
)
def test_schemas_that_others_stumble_over(schema: Any, valid: str, invalid: str, bytes_only: Tokenizer) -> None:
    """agents.md 6; llama.cpp#25923."""
    grammar = Grammar.json_schema(schema)
    assert accepts(bytes_only, grammar, list(valid.encode()))
    assert not accepts(bytes_only, grammar, list(invalid.encode()))


def test_json_has_no_whitespace_to_loop_in(bytes_only: Tokenizer) -> None:
    """agents.md 5; omlx#2990: a model that would write blanks for ever writes none."""
    blanks = torch.full((bytes_only.vocab_size,), -9.0)
    blanks[list(b" \t\r\n")] = 9.0
    blanks[ord("}")] = 1.0
    for grammar in (
        Grammar.json_schema({"type": "object", "properties": {"a": {"type": "integer"}}}),
        Grammar.lark('start: %json {"type": "object", "properties": {"a": {"type": "integer"}}}'),
    ):
        constraint, ids = compiled(bytes_only, grammar), []
        sampler = Sampler(Sampling(), [], bytes_only.vocab_size)
        while not constraint.finished:
            token = sampler.choose(blanks, constraint.mask())
            constraint.accept(token)
            ids.append(token)
        assert bytes(ids) == b"{}"


def test_lark(bytes_only: Tokenizer) -> None:
    grammar = Grammar.lark('start: call | "no_tool"\ncall: NAME "(" %json {"type": "integer"} ")"\nNAME: /[a-z]+/')
    for text, holds in [("f(12)", True), ("no_tool", True), ("f(x)", False), ("f( 1)", False), ("f(1", False)]:
        assert accepts(bytes_only, grammar, list(text.encode())) == holds


def test_length_is_counted_in_characters(merged: Tokenizer) -> None:
    text = '"é😀日"'
    assert accepts(merged, Grammar.json_schema({"type": "string", "maxLength": 3}), merged.encode(text))
    assert not accepts(merged, Grammar.json_schema({"type": "string", "maxLength": 2}), merged.encode(text))


def test_the_tokens_of_a_real_vocabulary(smollm: LanguageModel) -> None:
    assert smollm.tokenizer is not None
    grammar = Grammar.json_schema({"type": "array", "items": {"type": "string"}})
    for value, holds in [(["naïve", "日本語 😀\n", "<|im_end|>"], True), (["a", 1], False)]:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        assert accepts(smollm.tokenizer, grammar, smollm.tokenizer.encode(text, add_special=False)) == holds
