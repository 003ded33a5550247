from __future__ import annotations

import pytest

from modelworks.core.config import resolve, to_toml
from modelworks.core.errors import ConfigError
from modelworks.feedback.principles import ConstitutionRecipe, read_constitution

ONE = {"name": "kind", "critique": "Where is it unkind?", "revision": "Be kind.", "question": "Which is kinder?"}


@pytest.fixture
def shipped(request):
    return request.config.rootpath / "recipes" / "constitution.toml"


def test_the_constitution_that_comes_with_the_project(shipped):
    recipe = read_constitution(shipped, ["count=3", "judge.kind=rule", "judge.rule=length"])
    assert len(recipe.principles) == 12
    assert (recipe.count, recipe.judge.kind) == (3, "rule")
    assert resolve(ConstitutionRecipe, __import__("tomllib").loads(to_toml(recipe))) == recipe


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"principles": []}, "without principles"),
        ({"principles": [ONE, ONE]}, "two principles are named 'kind'"),
        ({"principles": [ONE | {"question": " "}]}, "principle 'kind': question is empty"),
        ({"principles": [{"name": "kind"}]}, "principles.0.critique: missing"),
        ({"principles": [ONE | {"critiqe": "x"}]}, r"principles\.0\.critiqe: unknown"),
        ({"revision": 2}, "revision: unknown; did you mean revisions"),
        ({"revisions": 0}, "revisions=0"),
        ({"compare": "sample"}, "did you mean 'samples'"),
        ({"leave_out": ["cutt"]}, "did you mean 'cut'"),
        ({"judge": {"kind": "endpoint"}}, "a judge of kind endpoint needs url and model"),
        ({"judge": {"kind": "rule"}}, "needs rule"),
        ({"judge": {"labels": ["A", "A"]}}, "two different words"),
        ({"judge": {"tries": 0}}, "tries 1 or more"),
    ],
)
def test_faults_are_named_with_their_place(changes, said):
    with pytest.raises(ConfigError, match=said):
        resolve(ConstitutionRecipe, {"principles": [ONE], **changes})


def test_a_file_with_a_fault_is_named(tmp_path):
    (tmp_path / "c.toml").write_text("revisions = 'two'")
    with pytest.raises(ConfigError, match=r"c\.toml: .*principles: missing; revisions: must be a whole number"):
        read_constitution(tmp_path / "c.toml")


def test_what_decides_the_records_is_not_which_prompts_there_are():
    one = resolve(ConstitutionRecipe, {"principles": [ONE], "count": 3, "judge": {"tries": 9}})
    two = resolve(ConstitutionRecipe, {"principles": [ONE], "prompts": ["a.jsonl"], "leave_out": ["cut"]})
    assert one.decisive() == two.decisive()
    assert resolve(ConstitutionRecipe, {"principles": [ONE], "seed": 1}).decisive() != one.decisive()
