"""Recipes: strict reading, faults by path, and a round trip through TOML and JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.core.config import as_dict, differences, read_values, resolve, to_toml
from modelworks.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Optim:
    name: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 3e-4
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ConfigError(f"learning_rate must be above 0, got {self.learning_rate}")


@dataclass(frozen=True, kw_only=True)
class Source:
    path: str
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    steps: int
    resume: bool = False
    optim: Optim = field(default_factory=Optim)
    data: tuple[Source, ...] = ()
    words: tuple[str, ...] = ()
    model: dict[str, Any] = field(default_factory=dict)


def test_a_file_states_what_differs_and_overrides_win(tmp_path):
    file = tmp_path / "r.toml"
    file.write_text('steps = 3\n[optim]\nlearning_rate = 1\n[[data]]\npath = "a"\n')
    overrides = ["optim.name=muon", "steps=7", "resume=true", "model.hidden_size=8", 'words=["x"]']
    recipe = resolve(Recipe, read_values(file, overrides))
    assert recipe == Recipe(
        steps=7,
        resume=True,
        optim=Optim(name="muon", learning_rate=1.0),
        data=(Source(path="a"),),
        words=("x",),
        model={"hidden_size": 8},
    )
    assert type(recipe.optim.learning_rate) is float


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"steps": 1, "optim": {"learning_rat": 1}}, "optim.learning_rat: unknown; did you mean learning_rate?"),
        ({"steps": 1, "zzz": 1}, "zzz: unknown; there are data, model, optim, resume, steps, words"),
        ({}, "steps: missing"),
        ({"steps": "3"}, "steps: must be a whole number, got '3'"),
        ({"steps": 3.5}, "steps: must be a whole number, got 3.5"),
        ({"steps": True}, "steps: must be a whole number, got True"),
        ({"steps": 1, "resume": "no"}, "resume: must be true or false, got 'no'"),
        ({"steps": 1, "optim": 3}, "optim: must be a table, got 3"),
        ({"steps": 1, "optim": {"name": "adamv"}}, "optim.name: must be one of 'adamw', 'muon', got 'adamv'; did you"),
        ({"steps": 1, "optim": {"learning_rate": -1.0}}, "optim: learning_rate must be above 0, got -1.0"),
        ({"steps": 1, "optim": {"clip": "x"}}, "optim.clip: must be a number, got 'x'"),
        ({"steps": 1, "words": "abc"}, "words: must be a list, got 'abc'"),
        ({"steps": 1, "data": [{"path": "a"}, {"path": 2}]}, "data.1.path: must be a text, got 2"),
        ({"steps": 1, "data": [{"pat": "a"}]}, "data.0.path: missing; data.0.pat: unknown; did you mean path?"),
        ({"steps": 1, "model": []}, r"model: must be a table, got \[\]"),
    ],
)
def test_a_fault_is_named_by_its_path(values, says):
    with pytest.raises(ConfigError, match=f"^{says.replace('?', '[?]')}"):
        resolve(Recipe, values)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("steps", "no override"),
        ("=3", "no override"),
        ("optim..lr=3", "no override"),
        ("steps.x=3", "steps is a value"),
    ],
)
def test_an_override_of_another_form_is_refused(tmp_path, override, says):
    file = tmp_path / "r.toml"
    file.write_text("steps = 3\n")
    with pytest.raises(ConfigError, match=says):
        read_values(file, [override])


def test_a_file_that_is_not_there_or_no_toml_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"gone.toml: No such file"):
        read_values(tmp_path / "gone.toml")
    (tmp_path / "bad.toml").write_text("steps = = 3")
    with pytest.raises(ConfigError, match=r"bad.toml: not valid TOML: .*line 1"):
        read_values(tmp_path / "bad.toml")


numbers = st.floats(min_value=1e-300, allow_infinity=False)
anything = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
recipes = st.builds(
    Recipe,
    steps=st.integers(-(2**63), 2**63 - 1),
    resume=st.booleans(),
    optim=st.builds(Optim, name=st.sampled_from(["adamw", "muon"]), learning_rate=numbers, clip=st.none() | numbers),
    data=st.lists(st.builds(Source, path=st.text(), weight=numbers), max_size=3).map(tuple),
    words=st.lists(st.text(), max_size=3).map(tuple),
    model=st.dictionaries(st.text(), anything, max_size=3),
)


@given(recipes)
def test_toml_and_json_read_back_equal(tmp_path_factory, recipe):
    file = tmp_path_factory.mktemp("toml") / "r.toml"
    file.write_text(to_toml(recipe), encoding="utf-8", newline="")
    assert resolve(Recipe, read_values(file)) == recipe
    assert resolve(Recipe, json.loads(json.dumps(as_dict(recipe)))) == recipe


def test_none_that_toml_cannot_say_is_a_defect_of_the_class():
    @dataclass(frozen=True)
    class Odd:
        clip: float | None = 1.0

    with pytest.raises(ValueError, match=r"Odd.clip is None"):
        to_toml(Odd(clip=None))


def test_differences_are_named_by_path():
    one, other = as_dict(Recipe(steps=1)), as_dict(Recipe(steps=2, optim=Optim(learning_rate=1.0)))
    assert list(differences(one, other)) == [("optim.learning_rate", 3e-4, 1.0), ("steps", 1, 2)]


def test_it_costs_no_torch():
    code = "import sys, modelworks.core.config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
