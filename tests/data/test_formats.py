"""Every format of `reference/training.md` becomes the sample that its authors mean."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.core.errors import DataError
from modelworks.data.files import FileRow, read_rows
from modelworks.data.formats import FORMATS, to_sample
from modelworks.data.sample import Completion, Dialogue, Pair, Prompt, Rated, Sample, Stepwise, Text, Tokens

SHARED = Path(__file__).parents[3] / "shared" / "data"


def sample(value: dict[str, Any], **how: Any) -> Sample:
    return to_sample(FileRow("f:7", value), **how)


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


COMMON: dict[str, Any] = {"place": "f:7", "extra": {}}
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
CASES: list[tuple[dict[str, Any], Sample]] = [
    ({"text": "a"}, Text(text="a", **COMMON)),
    ({"text": "a", "label": 3, "weight": 0.5}, Text(text="a", weight=0.5, place="f:7", extra={"label": 3})),
    ({"messages": [user("a"), assistant("b")]}, Dialogue(messages=(user("a"), assistant("b")), **COMMON)),
    (
        {
            "messages": [
                {"role": "developer", "content": "d"},
                user("a"),
                {"role": "thinking", "content": "hm", "name": None},
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "content": "1"},
                assistant("b", train=False, weight=2.5),
            ],
            "tools": [TOOL],
        },
        Dialogue(
            messages=(
                {"role": "developer", "content": "d"},
                user("a"),
                {"role": "thinking", "content": "hm"},
                {"role": "assistant", "tool_calls": [CALL]},
                {"role": "tool", "content": "1"},
                assistant("b", train=False, weight=2.5),
            ),
            tools=(TOOL,),
            **COMMON,
        ),
    ),
    (
        {
            "conversations": [
                {"from": "human", "value": "a"},
                {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
                {"from": "observation", "value": "1"},
                {"from": "gpt", "value": "b", "weight": 0},
            ],
            "system": "s",
            "tools": '[{"name": "f", "parameters": {}}]',
        },
        Dialogue(
            messages=(
                {"role": "system", "content": "s"},
                user("a"),
                assistant("", tool_calls=[CALL]),
                {"role": "tool", "content": "1"},
                assistant("b", weight=0),
            ),
            tools=(TOOL,),
            **COMMON,
        ),
    ),
    (
        {
            "conversations": [
                {"from": "human", "value": "a"},
                {"from": "function_call", "value": '[{"name": "f"}, {"name": "g"}]'},
            ]
        },
        Dialogue(
            messages=(
                user("a"),
                assistant(
                    "", tool_calls=[{"type": "function", "function": {"name": n, "arguments": {}}} for n in "fg"]
                ),
            ),
            **COMMON,
        ),
    ),
    (
        {
            "messages": [
                user("a"),
                {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"x": 1}'}},
                {"role": "function", "name": "f", "content": "1"},
            ]
        },
        Dialogue(
            messages=(user("a"), assistant("", tool_calls=[CALL]), {"role": "tool", "name": "f", "content": "1"}),
            **COMMON,
        ),
    ),
    (
        {"instruction": "i", "input": "in", "output": "o", "system": "s", "history": [["q", "a"]]},
        Dialogue(
            messages=({"role": "system", "content": "s"}, user("q"), assistant("a"), user("i\n\nin"), assistant("o")),
            **COMMON,
        ),
    ),
    ({"instruction": "i", "input": "", "output": "o"}, Dialogue(messages=(user("i"), assistant("o")), **COMMON)),
    ({"prompt": "p"}, Prompt(prompt="p", **COMMON)),
    ({"prompt": [user("p")], "answer": 4}, Prompt(prompt=(user("p"),), place="f:7", extra={"answer": 4})),
    ({"instruction": "i", "input": "in"}, Prompt(prompt=(user("i\n\nin"),), **COMMON)),
    ({"prompt": "p", "completion": "c"}, Completion(prompt="p", completion="c", **COMMON)),
    (
        {"prompt": [user("p")], "completion": [assistant("c")]},
        Completion(prompt=(user("p"),), completion=(assistant("c"),), **COMMON),
    ),
    (
        {"prompt": [user("p")], "completion": "c"},
        Completion(prompt=(user("p"),), completion=(assistant("c"),), **COMMON),
    ),
    (
        {"prompt": "p", "chosen": "c", "rejected": "r", "margin": 2},
        Pair(prompt="p", chosen="c", rejected="r", margin=2.0, **COMMON),
    ),
    (
        {"prompt": "p", "chosen": [user("p"), assistant("c")], "rejected": [user("p"), assistant("r")]},
        Pair(prompt=(user("p"),), chosen=(assistant("c"),), rejected=(assistant("r"),), **COMMON),
    ),
    (
        {"chosen": [user("p"), assistant("c")], "rejected": [user("p"), assistant("r")]},
        Pair(prompt=(user("p"),), chosen=(assistant("c"),), rejected=(assistant("r"),), **COMMON),
    ),
    (
        {"chosen": "The sky is blue.", "rejected": "The sky is bleak."},
        Pair(prompt="The sky is", chosen=" blue.", rejected=" bleak.", **COMMON),
    ),
    (
        {"chosen": "\n\nHuman: p\n\nAssistant: c", "rejected": "\n\nHuman: p\n\nAssistant: r"},
        Pair(prompt=(user("p"),), chosen=(assistant("c"),), rejected=(assistant("r"),), **COMMON),
    ),
    (
        {
            "conversations": [{"from": "human", "value": "p"}],
            "chosen": {"from": "gpt", "value": "c"},
            "rejected": {"from": "gpt", "value": "r"},
        },
        Pair(prompt=(user("p"),), chosen=(assistant("c"),), rejected=(assistant("r"),), **COMMON),
    ),
    (
        {"instruction": "i", "chosen": "c", "rejected": "r"},
        Pair(prompt=(user("i"),), chosen=(assistant("c"),), rejected=(assistant("r"),), **COMMON),
    ),
    ({"prompt": "p", "completion": "c", "label": True}, Rated(prompt="p", completion="c", label=True, **COMMON)),
    (
        {"messages": [user("p"), assistant("c")], "label": 0},
        Rated(prompt=(user("p"),), completion=(assistant("c"),), label=False, **COMMON),
    ),
    (
        {"prompt": "p", "completions": ["a", "b"], "labels": [True, False]},
        Stepwise(prompt="p", steps=("a", "b"), labels=(True, False), **COMMON),
    ),
    ({"input_ids": [5, 6, 7]}, Tokens(ids=(5, 6, 7), weights=(1, 1, 1), **COMMON)),
    ({"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, Tokens(ids=(5, 6, 7), weights=(0, 1, 1), **COMMON)),
    (
        {"input_ids": [5, 6, 0], "labels": [-100, 6, -100], "attention_mask": [1, 1, 0]},
        Tokens(ids=(5, 6), weights=(0, 1), **COMMON),
    ),
    ({"input_ids": [5, 6], "weights": [0, 0.25]}, Tokens(ids=(5, 6), weights=(0, 0.25), **COMMON)),
]


@pytest.mark.parametrize(("value", "expected"), CASES, ids=range(len(CASES)))
def test_a_format_becomes_its_sample(value: dict[str, Any], expected: Sample) -> None:
    assert sample(value) == expected
    assert sample({**value, "unused": None}) == expected


def test_every_format_is_among_the_cases() -> None:
    reached = {type(expected) for _, expected in CASES}
    assert reached == {Text, Dialogue, Prompt, Completion, Pair, Rated, Stepwise, Tokens}


def test_columns_are_renamed_and_texts_become_chat() -> None:
    value = {"question": "q", "answer": "a", "id": 3}
    made = sample(value, columns={"question": "prompt", "answer": "completion"}, as_chat=True)
    assert made == Completion(prompt=(user("q"),), completion=(assistant("a"),), place="f:7", extra={"id": 3})
    pair = sample({"prompt": "p", "chosen": "c", "rejected": "r"}, as_chat=True)
    assert isinstance(pair, Pair)
    assert pair.completions[1].completion == (assistant("r"),)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({}, "f:7: no known format: its columns are none"),
        ({"body": 1, "id": 2}, r"f:7: no known format: its columns are body, id. Known are .*alpaca .*text \(text\)"),
        ({"text": 5}, "f:7: text: text is a number, expected a text"),
        ({"text": "a", "weight": -1}, "weight is -1.0, less than 0"),
        ({"text": "a", "weight": float("nan")}, "weight is nan"),
        ({"messages": []}, "messages is empty"),
        ({"messages": "hello"}, "messages is a text, expected a list"),
        ({"messages": ["hello"]}, r"messages\[0\] is a text"),
        ({"messages": [user("a"), {"role": "asistant", "content": "b"}]}, r"messages\[1\]: its role is 'asistant'; kn"),
        ({"messages": [{"content": "b"}]}, "its role is None"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\]: no content"),
        ({"messages": [assistant("b", train="no")]}, "train is 'no'"),
        ({"messages": [assistant("b", weight=-2)]}, r"messages\[0\]: weight is -2.0, less than 0"),
        ({"messages": [user("a")], "tools": "{"}, "tools is a text that is not JSON"),
        ({"messages": [user("a")], "tools": [3]}, r"tools\[0\] is a number"),
        ({"conversations": [{"from": "function_call", "value": "f(x)"}]}, "its call is a text that is not JSON"),
        ({"conversations": [{"from": "function_call", "value": "{}"}]}, "its call has no function name"),
        ({"instruction": "i", "output": "o", "history": [["q"]]}, r"history\[0\] has 1 texts"),
        ({"prompt": "p", "completion": "c", "label": "good"}, "label is 'good', expected true or false"),
        ({"messages": [user("a")], "label": True}, "the last turn, which was rated, is not the assistant's"),
        ({"prompt": "p", "chosen": "c", "rejected": [assistant("r")]}, "one of chosen and rejected is a text"),
        ({"chosen": "same", "rejected": "same"}, None),
        ({"chosen": [user("p")], "rejected": []}, "rejected is empty"),
        ({"prompt": "p", "chosen": "c", "rejected": "r", "margin": "big"}, "margin is 'big'"),
        ({"prompt": "p", "completions": ["a"], "labels": []}, "1 completions and 0 labels"),
        ({"input_ids": [1, -2]}, "input_ids holds -2"),
        ({"input_ids": [1, 2], "labels": [1, 3]}, r"labels\[1\] is 3, expected 2 as in input_ids, or -100"),
        ({"input_ids": [1, 2], "labels": [1]}, "2 input_ids and 1 labels"),
    ],
)
def test_what_a_format_does_not_allow_is_named(value: dict[str, Any], said: str | None) -> None:
    if said is None:
        assert isinstance(sample(value), Pair)
        return
    with pytest.raises(DataError, match=said):
        sample(value)


keys = st.sampled_from(
    "text messages conversations tools system prompt completion chosen rejected margin label labels completions "
    "instruction input output history input_ids attention_mask weights weight".split()
)
turn = st.dictionaries(
    st.sampled_from(["role", "from", "content", "value", "tool_calls", "train", "weight"]),
    st.sampled_from(["user", "gpt", "assistant", "function_call", "x", '{"name": "f"}', None, 1, True, []]),
    max_size=4,
)
leaves = st.none() | st.booleans() | st.sampled_from([-2, -1, 0, 1, 2, 10**400]) | st.floats() | st.text(max_size=5)
values = leaves | st.lists(leaves | turn | st.lists(st.text(max_size=2), max_size=2), max_size=4) | turn


@given(st.dictionaries(keys, values, max_size=6), st.booleans())
def test_whatever_a_row_holds_it_is_a_sample_or_a_named_error(value: dict[str, Any], as_chat: bool) -> None:
    before = repr(value)
    try:
        made = sample(value, as_chat=as_chat)
    except DataError as error:
        assert str(error).startswith("f:7: ")  # noqa: PT017 - either outcome is right
    else:
        assert isinstance(made, Text | Dialogue | Prompt | Completion | Pair | Stepwise | Tokens)
        assert made.weight >= 0
    assert repr(value) == before


words = st.text("ab \n", min_size=1, max_size=8)


@given(st.lists(words, min_size=1, max_size=5), words | st.none())
def test_sharegpt_and_openai_say_the_same(turns: list[str], system: str | None) -> None:
    shared = [{"from": ("human", "gpt")[at % 2], "value": turn} for at, turn in enumerate(turns)]
    openai = [{"role": ("user", "assistant")[at % 2], "content": turn} for at, turn in enumerate(turns)]
    head = [{"role": "system", "content": system}] if system is not None else []
    assert sample({"conversations": shared, "system": system}) == sample({"messages": [*head, *openai]})


@given(words, words, words)
def test_an_implicit_prompt_loses_nothing(prompt: str, chosen: str, rejected: str) -> None:
    try:
        made = sample({"chosen": prompt + chosen, "rejected": prompt + rejected})
    except DataError:
        assert chosen.startswith(rejected) or rejected.startswith(chosen)
        return
    assert isinstance(made, Pair)
    assert (made.prompt + made.chosen, made.prompt + made.rejected) == (prompt + chosen, prompt + rejected)  # type: ignore[operator]


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data sets are not here")
@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("instruct/alpaca_en_demo.json", Dialogue, 999),
        ("instruct/glaive_toolcall_en_demo.json", Dialogue, 300),
        ("preference/dpo_en_demo.json", Pair, 300),
        ("preference/kto_en_demo.json", Rated, 300),
        ("preference/hh_harmless_test.jsonl.gz", Pair, 2312),
    ],
)
def test_public_data_sets_are_read(name: str, kind: type, count: int) -> None:
    broken: list[Any] = []
    made = []
    for row in read_rows(SHARED / name, broken):
        try:
            made.append(to_sample(row))
        except DataError as error:
            broken.append(error)
    assert Counter(map(type, made)) == {kind: count - len(broken)}
    assert len(broken) <= count / 500  # HH holds a few pairs of the same answer


def test_names_of_formats_are_unique() -> None:
    assert len({form.name for form in FORMATS}) == len(FORMATS)
