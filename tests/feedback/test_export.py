"""What is exported is what `data.formats` reads back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelworks.core.errors import ConfigError, DataError
from modelworks.data.sample import Pair, Rated
from modelworks.data.tokenize import Options, read_samples
from modelworks.feedback.export import export_pairs, export_ratings
from modelworks.feedback.sample import import_pairs
from modelworks.feedback.store import Answer, Choice, Comparison, Judgement, Store

PROMPT = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why is the sky blue? 😀\n"})
YES, NO = ({"role": "assistant", "content": "Rayleigh."},), ({"role": "assistant", "content": "Who knows\u2028."},)


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path / "x.db", create=True) as opened:
        first, second = Answer(turns=YES, model="a"), Answer(turns=NO, model="b")
        opened.add([Comparison(prompt=PROMPT, first=first, second=second, source="p.jsonl:1", wanted=9)])
        opened.add([Comparison(prompt="2+2=", first=Answer(turns="4"), second=Answer(turns="5"), wanted=9)])
        yield opened


def say(store: Store, comparison: int, annotator: str, choice: Choice, group: str = "", **more: Any) -> None:
    store.judge(Judgement(comparison=comparison, annotator=annotator, choice=choice, group=group, **more))


def read(path: Path) -> list[Any]:
    return list(read_samples([path], Options(), []))


def test_pairs_come_back_as_they_were_judged(store: Store, tmp_path: Path) -> None:
    say(store, 1, "Ann", "first", "doctors")
    say(store, 2, "Ann", "second", "doctors")
    report = export_pairs(store, tmp_path / "out.jsonl")
    assert (report.rows, report.judgements) == (2, 2)
    turns, text = read(tmp_path / "out.jsonl")
    assert isinstance(turns, Pair)
    assert (turns.prompt, turns.chosen, turns.rejected) == (PROMPT, YES, NO)
    assert (text.prompt, text.chosen, text.rejected, text.weight) == ("2+2=", "5", "4", 1.0)
    assert turns.extra == {
        "votes": {"chosen": 1, "rejected": 0, "tie": 0},
        "chosen_model": "a",
        "rejected_model": "b",
        "annotator": "Ann",
        "group": "doctors",
        "comparison": 1,
        "source": "p.jsonl:1",
    }


def test_most_votes_win_and_their_lead_is_the_weight(store: Store, tmp_path: Path) -> None:
    votes: dict[str, Choice] = {"A": "second", "B": "second", "C": "second", "D": "first", "E": "tie", "F": "skip"}
    for annotator, choice in votes.items():
        say(store, 1, annotator, choice, "x" if annotator < "C" else "y")
    report = export_pairs(store, tmp_path / "out.jsonl")
    assert (report.rows, report.judgements, report.skips) == (1, 6, 1)
    (row,) = read(tmp_path / "out.jsonl")
    assert (row.chosen, row.weight) == (NO, pytest.approx(2 / 5))
    assert row.extra["votes"] == {"chosen": 3, "rejected": 1, "tie": 1}
    assert "annotator" not in row.extra
    assert "group" not in row.extra


def test_what_is_not_decided_is_left_out_and_counted(store: Store, tmp_path: Path) -> None:
    for annotator, first, second in (("A", "first", "tie"), ("B", "second", "tie"), ("C", "skip", "first")):
        say(store, 1, annotator, first)  # type: ignore[arg-type]
        say(store, 2, annotator, second)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"nothing to export \(6 judgements, 1 skips, 1 ties, 1 undecided\)"):
        export_pairs(store, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
    report = export_pairs(store, tmp_path / "out.jsonl", by="judgement")
    assert (report.rows, report.ties, report.skips, report.undecided) == (3, 2, 1, 0)
    assert [(row.extra["annotator"], row.extra["comparison"]) for row in read(tmp_path / "out.jsonl")] == [
        ("A", 1), ("B", 1), ("C", 2)
    ]  # fmt: skip


def test_each_group_has_a_vote_of_its_own_or_the_others_none(store: Store, tmp_path: Path) -> None:
    for annotator, choice, group in (
        ("A", "first", "old"), ("B", "first", "old"), ("C", "second", "old"), ("D", "second", "young")
    ):  # fmt: skip
        say(store, 1, annotator, choice, group)  # type: ignore[arg-type]
    export_pairs(store, tmp_path / "out.jsonl", by="group")
    old, young = read(tmp_path / "out.jsonl")
    assert (old.extra["group"], old.chosen, old.weight) == ("old", YES, pytest.approx(1 / 3))
    assert (young.extra["group"], young.chosen, young.weight, young.extra["annotator"]) == ("young", NO, 1.0, "D")
    report = export_pairs(store, tmp_path / "out.jsonl", groups=["young"])
    assert (report.rows, report.judgements) == (1, 1)
    with pytest.raises(ConfigError, match=r"nobody is of the group 'middle'; there are: old, young"):
        export_pairs(store, tmp_path / "out.jsonl", groups=["old", "middle"])


def test_ratings_become_labels_above_and_below_the_middle(store: Store, tmp_path: Path) -> None:
    say(store, 1, "A", "first", "g", ratings={"first": {"helpfulness": 5, "safety": 3}, "second": {"accuracy": 1}})
    say(store, 1, "B", "skip", "g", ratings={"first": {"helpfulness": 1}})
    say(store, 2, "A", "tie", "g", ratings={"first": {"helpfulness": 4, "accuracy": 2}})
    say(store, 2, "C", "first", "g")
    report = export_ratings(store, tmp_path / "out.jsonl")
    assert (report.rows, report.judgements, report.skips, report.ties, report.unrated) == (2, 4, 1, 1, 1)
    good, bad = read(tmp_path / "out.jsonl")
    assert isinstance(good, Rated)
    assert (good.prompt, good.completion, good.label, good.extra["score"]) == (PROMPT, YES, True, 4.0)
    assert (bad.completion, bad.label, bad.extra["model"]) == (NO, False, "b")
    report = export_ratings(store, tmp_path / "out.jsonl", aspects=["accuracy"])
    assert [(row.completion, row.label) for row in read(tmp_path / "out.jsonl")] == [(NO, False), ("4", False)]
    with pytest.raises(ConfigError, match="'charm' is not what answers are rated for"):
        export_ratings(store, tmp_path / "out.jsonl", aspects=["charm"])


def test_nothing_to_export(store: Store, tmp_path: Path) -> None:
    for export in (export_pairs, export_ratings):
        with pytest.raises(DataError, match="nothing was judged yet"):
            export(store, tmp_path / "out.jsonl")


def test_public_pairs_survive_the_way_through_the_store(preference: Path, tmp_path: Path) -> None:
    rows = [json.loads(json.dumps(row)) for row in json.loads((preference / "dpo_en_demo.json").read_text())[:50]]
    (tmp_path / "in.json").write_text(json.dumps(rows))
    before = read(tmp_path / "in.json")
    with Store(tmp_path / "y.db", create=True) as store:
        import_pairs(store, before, judged_by="published")
        export_pairs(store, tmp_path / "out.jsonl")
    after = read(tmp_path / "out.jsonl")
    assert [(each.prompt, each.chosen, each.rejected) for each in after] == [
        (each.prompt, each.chosen, each.rejected) for each in before
    ]
