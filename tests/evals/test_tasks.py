from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelworks.core.errors import ConfigError, DownloadError
from modelworks.engine.engine import Engine
from modelworks.engine.sample import Sampling
from modelworks.evals.intervals import wilson
from modelworks.evals.tasks import Answer, Example, Score, exact_match, gsm8k

GSM8K = Path(__file__).parents[3] / "shared" / "data" / "reasoning" / "gsm8k_test.jsonl"


def question(text: str, reference: str) -> Example:
    return Example([{"role": "user", "content": text}], reference)


EXAMPLES = [question("2+2?", "So\n#### 4"), question("3+4?", "#### 7"), question("1000*2?", "#### 2,000")]


def score(*right: bool) -> Score:
    return Score(tuple(Answer("", "stop", each) for each in right))


def test_each_answer_is_judged_against_its_own_reference(scripted):
    engine = scripted(["The answer is 4.", "It is 8", "#### 2000"])
    found = exact_match(engine, EXAMPLES)
    assert [answer.is_right for answer in found.answers] == [True, False, True]
    assert (found.right, found.rate, found.interval) == (2, 2 / 3, wilson(2, 3))
    assert str(found) == "66.7% (2 of 3; 95%: 20.8 to 93.9)"
    assert [prompt for prompt, _ in engine.asked] == [list(example.messages) for example in EXAMPLES]


def test_shots_are_solved_before_each_question(scripted):
    engine = scripted(["7"])
    sampling = Sampling(max_tokens=9)
    exact_match(engine, EXAMPLES[1:2], shots=EXAMPLES[:1], sampling=sampling)
    assert engine.asked == [
        (
            [
                {"role": "user", "content": "2+2?"},
                {"role": "assistant", "content": "So\n#### 4"},
                {"role": "user", "content": "3+4?"},
            ],
            sampling,
        )
    ]


def test_any_judge_serves(scripted):
    found = exact_match(scripted(["Paris", "paris"]), [question("?", "Paris")] * 2, is_right=str.__eq__)
    assert [answer.is_right for answer in found.answers] == [True, False]


def test_a_difference_is_of_pairs():
    """Two scores of the same questions: what both get right says nothing, so the interval is narrower than apart."""
    before = score(*[True] * 60, *[False] * 40)
    after = score(*[True] * 60, *[True] * 10, *[False] * 30)
    gap, (low, high) = after.minus(before)
    assert gap == pytest.approx(0.1)
    assert 0.03 < low < 0.06
    assert 0.14 < high < 0.17
    with pytest.raises(ValueError, match="shorter"):
        after.minus(score(True))


def test_no_examples_is_an_error(scripted):
    with pytest.raises(ConfigError, match="no examples"):
        exact_match(scripted([]), [])


def test_gsm8k_is_read_in_plain_words(tmp_path):
    path = tmp_path / "few.jsonl"
    path.write_text(json.dumps({"question": "How many?", "answer": "He has <<1+1=2>>2.\n#### 2"}) + "\n\n")
    (example,) = gsm8k(path, instruction="End with ####.")
    assert example.messages == [{"role": "user", "content": "How many?\nEnd with ####."}]
    assert example.reference == "He has 2.\n#### 2"
    assert example.solved()[-1] == {"role": "assistant", "content": "He has 2.\n#### 2"}


@pytest.mark.parametrize("line", ["{", "[]", '{"question": "x"}'])
def test_a_broken_file_names_its_line(tmp_path, line):
    path = tmp_path / "few.jsonl"
    path.write_text('{"question": "x", "answer": "y"}\n' + line)
    with pytest.raises(ConfigError, match=r"few\.jsonl, line 2: expected an object"):
        gsm8k(path)
    with pytest.raises(ConfigError, match=r"none\.jsonl: No such file"):
        gsm8k(tmp_path / "none.jsonl")


@pytest.mark.skipif(not GSM8K.exists(), reason="shared/data is absent")
def test_the_starter_answers_through_the_engine():
    try:
        engine = Engine("starter", kv_bytes=64 << 20)
    except DownloadError as error:
        pytest.skip(f"the starter model cannot be had: {error}")
    with engine:
        found = exact_match(engine, gsm8k(GSM8K)[:3], sampling=Sampling(max_tokens=12), quiet=True)
    assert len(found.answers) == 3
    assert all(answer.text and answer.finish_reason == "length" for answer in found.answers)
