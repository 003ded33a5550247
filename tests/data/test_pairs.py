from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from modelworks.core.errors import DataError
from modelworks.data import pairs
from modelworks.data.pairs import ComparisonRows, Comparisons, comparison_batch, read_pairs, read_rated
from modelworks.data.stream import Stream
from modelworks.data.tokenize import Options


@pytest.fixture
def write(tmp_path):
    def make(*rows, name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" if isinstance(row, dict) else row + "\n" for row in rows))
        return path

    return make


def pair(chosen: str, rejected: str, prompt: str = "Say it: ", **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def said(tokenizer, ids) -> str:
    return tokenizer.decode(list(ids))


def test_a_pair_is_its_prompt_and_two_branches(write, tokenizer):
    found, report = read_pairs(write(pair("yes", "no", weight=0.5, margin=2.0)), tokenizer, Options())
    row = found[0]
    assert said(tokenizer, row.prompt) == "Say it: "
    assert [said(tokenizer, each.ids[:-1]) for each in row.completions] == ["yes", "no"]
    assert all(each.ids[-1] == tokenizer.eos_id for each in row.completions)
    assert all((each.weights == 1).all() for each in row.completions)
    assert row.columns == {"pair_weights": np.array([0.5]), "margins": np.array([2.0])}
    assert (report.rows, report.documents, report.learned) == (1, 1, 4 + 3)
    assert report.tokens == found.lengths(np.array([0]))[0] == 7 + 4 + 3


def test_turns_go_through_the_template_and_share_all_that_they_begin_with(write, tokenizer):
    user = {"role": "user", "content": "Hi"}
    sides = {side: [{"role": "assistant", "content": said}] for side, said in (("chosen", "Hello"), ("rejected", "Hm"))}
    row = read_pairs(write({"prompt": [user], **sides}), tokenizer, Options())[0][0]
    # Even what both answers begin with is theirs: every token of an answer counts.
    assert said(tokenizer, row.prompt) == "user\nHi\nassistant\n"
    learned = [each.ids[each.weights > 0] for each in row.completions]
    assert [said(tokenizer, ids) for ids in learned] == ["Hello", "Hm"]
    assert all(3 in ids for ids in learned)  # <|im_end|>


def test_what_teaches_nothing_is_counted_by_its_reason(write, tokenizer):
    file = write(
        pair("yes", "no"),
        pair("same", "same"),
        pair("", "no"),
        pair("yes", "  "),
        pair("y" * 50, "no"),
        pair("yes", "no", prompt=""),
        pair("up", "down"),
        pair("down", "up"),
    )
    found, report = read_pairs(file, tokenizer, Options(max_length=40))
    assert len(found) == 1
    assert report.dropped == {
        pairs.SAME: 1, pairs.EMPTY: 2, pairs.TOO_LONG: 1, pairs.NO_PROMPT: 1, pairs.BOTH_WAYS: 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (pair("same", "same"), pairs.SAME),
        (pair("", "no"), pairs.EMPTY),
        (pair("y" * 50, "no"), pairs.TOO_LONG),
        (pair("no", "yes"), pairs.BOTH_WAYS),
    ],
)
def test_by_choice_the_first_such_pair_is_an_error_that_names_it(row, reason, write, tokenizer):
    file = write(pair("yes", "no"), row)
    with pytest.raises(DataError, match=rf"rows\.jsonl:[12]: {reason}"):
        read_pairs(file, tokenizer, Options(max_length=40), strict=True)


def test_a_prompt_with_bos_alone_is_a_prompt(write, bos_tokenizer):
    found, _ = read_pairs(write(pair("yes", "no", prompt="")), bos_tokenizer, Options())
    assert found[0].prompt.tolist() == [bos_tokenizer.bos_id]


def test_broken_rows_and_rows_of_another_kind(write, tokenizer):
    broken = write(pair("yes", "no"), '{"prompt": "x", ')
    with pytest.raises(DataError, match=r"rows\.jsonl:2"):
        read_pairs(broken, tokenizer, Options())
    found, report = read_pairs(broken, tokenizer, Options(skip_broken=True))
    assert (len(found), len(report.broken)) == (1, 1)
    with pytest.raises(DataError, match="a text, expected a pair"):
        read_pairs(write({"text": "only words"}), tokenizer, Options())
    with pytest.raises(DataError, match=f"nothing to learn preferences from \\(1: {pairs.SAME}\\)"):
        read_pairs(write(pair("same", "same")), tokenizer, Options())


# --- rated ------------------------------------------------------------------------------------------------------------


def rated(completion: str, label: bool, prompt: str):
    return {"prompt": prompt, "completion": completion, "label": label}


def test_a_rated_completion_stands_beside_one_of_another_prompt(write, tokenizer):
    file = write(rated("a1", True, "A: "), rated("a2", False, "A: "), rated("b", True, "B: "), pair("y", "n", "C: "))
    found, report = read_rated(file, tokenizer, Options())
    prompts = [said(tokenizer, found[at].prompt) for at in range(len(found))]
    both = [[said(tokenizer, each.ids[:-1]) for each in found[at].completions] for at in range(len(found))]
    assert prompts == ["A: ", "A: ", "B: ", "C: ", "C: "]
    assert both == [["a1", "b"], ["a2", "b"], ["b", "y"], ["y", "a1"], ["n", "a1"]]
    assert [float(found[at].columns["labels"][0]) for at in range(5)] == [1, 0, 1, 1, 0]
    assert report.documents == 5


def test_without_another_prompt_there_is_no_z(write, tokenizer):
    with pytest.raises(DataError, match=pairs.OTHER_PROMPT):
        read_rated(write(rated("a1", True, "A: "), rated("a2", False, "A: ")), tokenizer, Options())


# --- streams ----------------------------------------------------------------------------------------------------------


def comparisons(write, tokenizer, count: int = 11) -> Comparisons:
    return read_pairs(write(*(pair("a" * (1 + at), "b", f"{at}: ") for at in range(count))), tokenizer, Options())[0]


@pytest.mark.parametrize("bucket", [0, 3])
def test_a_stream_has_each_pair_once_an_epoch_and_resumes(bucket, write, tokenizer):
    found = comparisons(write, tokenizer)
    found = found.with_column("reference", np.arange(22, dtype=np.float32).reshape(11, 2))

    def stream() -> Stream:
        return Stream(ComparisonRows(found, seed=1, bucket=bucket), 3, epochs=2, collate=comparison_batch)

    batches = list(stream())
    seen = [value for batch in batches for value in batch["reference"][::2].tolist()]
    assert sorted(seen[:11]) == sorted(seen[11:]) == list(range(0, 22, 2))
    assert seen[:11] != seen[11:]
    first, second = stream(), stream()
    before = next(iter(first))
    second.restore(first.state())
    assert [len(batch["margins"]) for batch in (before, *second)] == [len(batch["margins"]) for batch in batches]
    assert next(iter(second.__iter__()), None) is None


def test_ranks_share_a_last_batch_and_one_may_have_nothing(write, tokenizer):
    found = comparisons(write, tokenizer, count=3)
    ranks = [
        list(Stream(ComparisonRows(found), 2, epochs=1, rank=at, world=2, collate=comparison_batch)) for at in range(2)
    ]
    assert [[len(batch["pair_weights"]) for batch in batches] for batches in ranks] == [[2], [1]]
    one = ComparisonRows(comparisons(write, tokenizer, 1))
    alone = list(Stream(one, 1, epochs=1, rank=1, world=2, collate=comparison_batch))
    assert alone[0]["pair_weights"].tolist() == []
    assert {"margins", "labels", "reference"} <= set(alone[0])


def test_data_is_known_by_what_is_in_it(write, tokenizer):
    found = comparisons(write, tokenizer)
    assert found.digest == comparisons(write, tokenizer).digest
    assert found.digest != comparisons(write, tokenizer, 10).digest
    # What a reference says may be computed anew, with other last bits; a run still goes on with the same data.
    assert found.digest == found.with_column("reference", np.zeros((11, 2), np.float32)).digest
