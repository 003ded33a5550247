from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modelworks.core.errors import ConfigError, TrainingError
from modelworks.models.llama import Llama, LlamaConfig
from modelworks.models.load import load_tokenizer
from modelworks.models.reward import RewardModel
from modelworks.models.save import save
from modelworks.train.rewards import (
    Answered,
    NamedReward,
    RewardRecipe,
    evaluate,
    exact,
    game_of_24,
    is_solution,
    length,
    number,
    read_game_of_24,
    regex,
    reward_model,
    score_answers,
    tags,
)

PUZZLES = Path(__file__).parents[3] / "shared" / "data" / "reasoning" / "game_of_24.csv"


def answered(*answers: str, **extra) -> list[Answered]:
    return [Answered("prompt", answer, extra) for answer in answers]


# --- checkers ---------------------------------------------------------------------------------------------------------


def test_a_final_number_is_held_against_the_rows_solution():
    asked = answered("so 4 + 3 = 7. The answer is 7", "#### 7.0", "8", "", completion="3 + 4 = <<3+4=7>>7\n#### 7")
    assert number()(asked) == [1, 1, 0, 0]
    assert number("result")(answered("it is 1,000", result="$1000")) == [1]
    with pytest.raises(ConfigError, match="no column other"):
        number("other")(asked)
    chat = Answered("?", "7", {"completion": ({"role": "assistant", "content": "it is 7"},)})
    assert number()([chat]) == [1]


def test_texts():
    assert exact()(answered(" yes ", "yes!", completion="yes")) == [1, 0]
    assert regex("b+")(answered("abba", "aa")) == [1, 0]
    assert regex("b+", whole=True)(answered("abba", "bb")) == [0, 1]
    assert length()(answered("one two", "")) == [2, 0]
    assert length("characters")(answered("one two")) == [7]
    good = "<think>so\nit is</think>\n<answer>7</answer>"
    bad = ["<answer>7</answer>", good + " and more", good + good, "<think></think><answer>7</answer>"]
    assert tags()(answered(good, *bad)) == [1, 0, 0, 0, 0]
    for make, options in ((regex, {"pattern": "("}), (length, {"unit": "lines"})):
        with pytest.raises(ConfigError):
            make(**options)


def test_the_game_of_24_is_exact():
    right = ["(8 - 4) * 6 * (4 / 4)", "8 × 4 − 4 × (6 − 4) = 24", "Steps:\n4 - 4 = 0\n(4 + 4 - 8 + 4) * 6 = 24"]
    assert is_solution("8 / (3 - 8 / 3) = 24", [3, 3, 8, 8])  # with floats 23.999999999999989
    assert is_solution("so (10 - 4) * (4 * 1) = 24", [10, 4, 4, 1])
    numbers = [4, 4, 6, 8]
    assert is_solution("(6 - 4 + 4) * 8 / 2", [2, 4, 4, 6, 8])
    assert not is_solution(right[0], numbers)  # three more fours
    for wrong in (
        "4 * 6",
        "24",
        "",
        "4 + 4 + 6 + 8 = 24",
        "4 4 6 8",
        "4 // 4 + 6 * 8",
        "__import__('os')",
        "4 / (4 - 4) + 6 + 8",
    ):
        assert not is_solution(wrong, numbers)
    assert not is_solution("4 + 8 + 6 + 6 = 25", [4, 8, 6, 6])
    assert game_of_24()(answered("4 * 6 * 1 * 1", "4 * 6", numbers="1 1 4 6")) == [1, 0]


@given(st.text("0123456789+-*/() =\n[]×", max_size=40))
def test_any_answer_is_judged(text):
    is_solution(text, [1, 2, 3, 4])


@given(st.text(max_size=60))
def test_any_expression_is_a_number_or_none(text):
    found = evaluate(text)
    assert found is None or found[0].denominator > 0


def test_deep_nesting_is_no_solution():
    assert not is_solution("(" * 50_000 + "1", [1])
    assert not is_solution("9**9**9**9", [9, 9, 9, 9])


@pytest.mark.skipif(not PUZZLES.exists(), reason="the shared data is absent")
def test_the_public_puzzles_are_read():
    puzzles = read_game_of_24(PUZZLES)
    assert len(puzzles) == 1362
    assert puzzles[0] == (1, 1, 4, 6)
    assert is_solution("1 * 1 * 4 * 6", puzzles[0])
    with pytest.raises(ConfigError, match="no puzzles"):
        read_game_of_24(PUZZLES.with_name("nothing.csv"))


# --- several, and what fails ------------------------------------------------------------------------------------------


def fussy(answers):
    if any(each.answer == "bad" for each in answers):
        raise RuntimeError("bad one")
    return [math.nan if each.answer == "nan" else 1.0 for each in answers]


def test_weighted_rewards_add_up_and_gold_is_only_measured():
    rewards = [
        NamedReward("right", exact()),
        NamedReward("short", length(), -0.1),
        NamedReward("truth", length("characters"), gold=True),
    ]
    found = score_answers(rewards, answered("yes", "no no", completion="yes"))
    assert found.totals == pytest.approx((0.9, -0.2))
    assert found.gold == (3, 5)
    assert found.parts["short"] == (1, 2)
    assert not found.failures


def test_a_reward_that_fails_costs_that_sample_and_is_counted():
    found = score_answers(
        [NamedReward("fussy", fussy), NamedReward("words", length())], answered("a", "bad", "nan", "c")
    )
    assert [math.isnan(value) for value in found.totals] == [False, True, True, False]
    assert found.totals[0] == 2
    assert found.failures == {"fussy: RuntimeError: bad one": 1, "fussy: no number": 1}


def test_or_ends_the_run():
    for answer, message in (("bad", "reward fussy: RuntimeError: bad one"), ("nan", "reward fussy: no number")):
        with pytest.raises(TrainingError, match=message):
            score_answers([NamedReward("fussy", fussy)], answered("a", answer), fatal=True)
    with pytest.raises(TrainingError, match="gave 1 numbers for 2 answers"):
        score_answers([NamedReward("one", lambda answers: [1.0])], answered("a", "b"))


def test_recipes_name_rewards():
    made = RewardRecipe(kind="regex", weight=2.0, options={"pattern": "x"}).build("has_x")
    assert (made.name, made.weight, made.reward(answered("axb"))) == ("has_x", 2.0, [1.0])
    assert RewardRecipe().build("number").name == "number"
    for recipe, message in (
        (RewardRecipe(), "there is no reward 'beauty'"),
        (RewardRecipe(kind="regex", options={"patern": "x"}), "rewards.beauty: .*patern"),
        (RewardRecipe(kind="regex", options={"pattern": "("}), "rewards.beauty: pattern"),
    ):
        with pytest.raises(ConfigError, match=message):
            recipe.build("beauty")


def test_a_reward_model_scores_prompt_and_answer(tmp_path, workshop):
    torch.manual_seed(0)
    config = {
        "model_type": "llama", "vocab_size": 258, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
        "num_attention_heads": 2, "initializer_range": 0.3, "max_position_embeddings": 32,
    }  # fmt: skip
    model = RewardModel.from_language_model(Llama(LlamaConfig.from_hf(config)))
    torch.nn.init.normal_(model.score.weight)
    with pytest.raises(ConfigError, match="no tokenizer"):
        reward_model(str(save(model, tmp_path / "mute")))
    model.tokenizer = load_tokenizer(workshop / "tokenizer")
    recipe = RewardRecipe(kind="model", options={"ref": str(save(model, tmp_path / "reward"))})
    answers = [
        Answered("2+2=", "4", {}),
        Answered("2+2=", "five", {}),
        Answered("", "", {}),
        Answered("x" * 50, "y", {}),
    ]
    found = recipe.build("liked").reward(answers)
    encode = model.tokenizer.encode
    assert found[:2] == pytest.approx(
        model.rewards([[*encode("2+2=4"), 0], [*encode("2+2=five"), 0]]).tolist(), abs=1e-5
    )
    assert all(math.isfinite(value) for value in found)
