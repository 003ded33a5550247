"""Records of what happened can be kept as they are: nothing changes them, and JSON holds them."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from typing import get_args

import pytest

from modelworks.agents.steps import Answer, Call, Observation, Question, Step, Stop, Thought, Why
from modelworks.cli.agent import as_record

STEPS = [
    Thought("hm"),
    Call("call_1", "put", {"text": "a"}),
    Observation("call_1", "put", "kept", origins=frozenset({"b", "a"})),
    Question("Which?"),
    Answer("This."),
    Stop("steps", "too many"),
]


@pytest.mark.parametrize("step", STEPS)
def test_a_step_is_one_line_of_json_with_its_kind(step: Step) -> None:
    told = json.loads(json.dumps(as_record(step)))
    assert told.pop("step") == type(step).__name__.lower()
    assert set(told) == set(type(step).__slots__)
    with pytest.raises(FrozenInstanceError):
        setattr(step, type(step).__slots__[0], "else")


def test_every_kind_of_step_is_shown_above_and_every_reason_is_a_word() -> None:
    assert {type(step) for step in STEPS} == set(get_args(Step))
    assert all(why.isalpha() for why in get_args(Why))
