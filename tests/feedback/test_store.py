"""The store: nothing is lost, nobody judges twice, and what the environment does is one line."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelworks.core.errors import ConfigError, StoreError
from modelworks.feedback.store import Answer, Choice, Comparison, JudgedError, Judgement, Store, UnknownComparisonError


def compare(index: int = 0, wanted: int = 1) -> Comparison:
    return Comparison(
        prompt=({"role": "user", "content": f"Question {index}?"},),
        first=Answer(turns=({"role": "assistant", "content": f"Yes {index}."},), model="a", sampling={"seed": 1}),
        second=Answer(turns=({"role": "assistant", "content": f"No {index}."},), model="b", finish_reason="length"),
        source=f"prompts.jsonl:{index + 1}",
        wanted=wanted,
    )


def judgement(comparison: int, annotator: str = "Ann", choice: Choice = "first", **more: object) -> Judgement:
    return Judgement(comparison=comparison, annotator=annotator, choice=choice, **{"shown_first": "first"} | more)


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path / "feedback.db", create=True) as opened:
        yield opened


def test_what_is_written_is_there_after_reopening(tmp_path: Path) -> None:
    said = judgement(
        1,
        group="doctors",
        ratings={"first": {"accuracy": 5}, "second": {"safety": 1, "helpfulness": 3}},
        comment="so much 😀\n better",
        seconds=3.25,
    )
    with Store(tmp_path / "deep" / "x.db", create=True) as store:
        assert store.add([compare(), compare(1, wanted=3)]) == [1, 2]
        store.judge(said)
    with Store(tmp_path / "deep" / "x.db") as store:
        assert [each.id for each in store.comparisons()] == [1, 2]
        first = store.comparisons()[0]
        assert (first.prompt, first.first, first.second, first.source) == (
            compare().prompt,
            compare().first,
            compare().second,
            "prompts.jsonl:1",
        )
        assert store.judgements() == [said]


@settings(max_examples=40)
@given(prompt=st.text(max_size=20), answers=st.lists(st.text(max_size=20), min_size=2, max_size=2, unique=True))
def test_any_text_survives(prompt: str, answers: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    made = Comparison(prompt=prompt, first=Answer(turns=answers[0]), second=Answer(turns=answers[1]))
    with Store(tmp_path_factory.mktemp("store") / "x.db", create=True) as store:
        store.add([made])
        (kept,) = store.comparisons()
        assert (kept.prompt, kept.first.turns, kept.second.turns) == (prompt, *answers)


def test_the_same_answers_are_one_comparison_in_whichever_order(store: Store) -> None:
    swapped = Comparison(prompt=compare().prompt, first=compare().second, second=compare().first)
    assert store.add([compare(), swapped, compare(1)]) == [1, 0, 2]
    found = store.find(swapped)
    assert found is not None
    assert found.id == 1
    assert store.find(compare(7)) is None


def test_two_answers_that_say_the_same_are_no_comparison_and_nothing_of_the_lot_is_kept(store: Store) -> None:
    same = Comparison(prompt="p", first=Answer(turns="x"), second=Answer(turns="x"), source="a.jsonl:3")
    with pytest.raises(ConfigError, match=r"a\.jsonl:3: both answers say the same"):
        store.add([compare(), same])
    assert store.comparisons() == []
    with pytest.raises(ConfigError, match="wanted is 0"):
        store.add([compare(wanted=0)])


def test_each_person_sees_each_comparison_once_until_it_has_what_it_wants(store: Store) -> None:
    store.add(compare(index, wanted=2) for index in range(3))
    seen: Counter[int] = Counter()
    for annotator in ("Ann", "Bob", "Cem"):
        mine = []
        while (task := store.next(annotator)) is not None:
            mine.append(task.comparison.id)
            store.judge(judgement(task.comparison.id, annotator))
        assert len(mine) == len(set(mine))
        seen.update(mine)
    assert seen == {1: 2, 2: 2, 3: 2}
    assert (store.progress("Cem").done, store.progress("Cem").left) == (0, 0)


def test_a_skip_leaves_the_comparison_to_others(store: Store) -> None:
    store.add([compare()])
    store.judge(judgement(1, "Ann", "skip"))
    assert store.next("Ann") is None
    assert store.next("Bob") is not None
    assert (store.progress("Ann").done, store.progress("Ann").left) == (1, 0)
    assert (store.progress("Bob").done, store.progress("Bob").left) == (0, 1)


def test_what_one_has_before_them_is_held_back_from_others_for_a_while(tmp_path: Path) -> None:
    now = [0.0]
    with Store(tmp_path / "x.db", create=True, clock=lambda: now[0]) as store:
        store.add(compare(index) for index in range(2))
        ann, bob = store.next("Ann"), store.next("Bob")
        assert ann is not None
        assert bob is not None
        assert (ann.comparison.id, bob.comparison.id) == (1, 2)
        assert store.next("Ann") == ann  # asking again, as a reload does, changes nothing
        assert store.next("Cem") is None
        assert store.progress("Cem").left == 2
        now[0] += 1000
        assert store.next("Cem") is not None
        # Ann comes back late: her judgement is kept all the same.
        store.judge(judgement(1, "Cem"))
        store.judge(judgement(1, "Ann", "second"))
        assert len(store.judgements()) == 2


def test_order_is_a_coin_for_each_person_and_comparison_and_stays(store: Store) -> None:
    store.add(compare(index) for index in range(100))
    shown = {
        name: [store.task(index, name).shown_first for index in range(1, 101)] for name in ("Ann", "Bob", "Cem", "Dee")
    }
    assert len({tuple(order) for order in shown.values()}) == 4
    for name, order in shown.items():
        assert 25 < order.count("first") < 75
        assert order == [store.task(index, name).shown_first for index in range(1, 101)]


def test_the_same_judgement_again_is_no_error_and_another_is(store: Store) -> None:
    store.add([compare()])
    store.judge(judgement(1, seconds=2.0))
    store.judge(judgement(1, seconds=9.0))
    with pytest.raises(JudgedError, match="Ann has judged comparison 1 already"):
        store.judge(judgement(1, choice="second"))
    assert [(each.choice, each.seconds) for each in store.judgements()] == [("first", 2.0)]
    with pytest.raises(UnknownComparisonError, match="no comparison 7"):
        store.judge(judgement(7))


def test_undo_gives_back_the_last_one_and_then_the_one_before(store: Store) -> None:
    store.add(compare(index) for index in range(3))
    store.judge(judgement(1, choice="tie", comment="hm"))
    store.judge(judgement(2))
    store.judge(judgement(3, "Bob"))
    undone = store.undo("Ann")
    assert undone is not None
    assert undone.comparison == 2
    task = store.next("Ann")
    assert task is not None
    assert task.comparison.id == 2
    assert store.next("Bob") is None  # it is held for Ann again
    again = store.undo("Ann")
    assert again is not None
    assert (again.comparison, again.choice, again.comment) == (1, "tie", "hm")
    assert store.undo("Ann") is None
    assert [each.annotator for each in store.judgements()] == ["Bob"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"annotator": "  "}, "annotator"),
        ({"annotator": "a\nb"}, "annotator"),
        ({"group": "g" * 81}, "group"),
        ({"choice": "both"}, "choice is 'both'"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"comment": "c" * 10_001}, "10001 characters"),
        ({"ratings": {"first": {"accuracy": 6}}}, "ratings.first.accuracy is 6"),
        ({"ratings": {"third": {"accuracy": 1}}}, "ratings.third"),
        ({"ratings": {"first": {"charm": 1}}}, "ratings.first.charm"),
    ],
)
def test_what_nobody_can_have_said(change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        judgement(**{"comparison": 1} | change)  # type: ignore[arg-type]


# --- several at once, and sudden ends ---------------------------------------------------------------------------------


def test_several_people_at_once_never_get_the_same_where_one_judgement_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with Store(path, create=True) as store:
        store.add(compare(index) for index in range(40))

    def work(annotator: str) -> None:
        with Store(path) as own:  # a connection each, as processes have
            while (task := own.next(annotator)) is not None:
                own.judge(judgement(task.comparison.id, annotator))

    people = [threading.Thread(target=work, args=(name,)) for name in ("Ann", "Bob", "Cem", "Dee")]
    for each in people:
        each.start()
    for each in people:
        each.join()
    with Store(path) as store:
        assert sorted(each.comparison for each in store.judgements()) == list(range(1, 41))


def test_a_new_file_is_made_once_by_many(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        salts = pool.map(_salt, [tmp_path / "x.db"] * 8)
    assert len(set(salts)) == 1


def _salt(path: Path) -> str:
    with Store(path, create=True) as store:
        return str(store.rows("SELECT value FROM meta")[0][0])


_JUDGES = """
import sys
from modelworks.feedback.store import Judgement, Store
store = Store(sys.argv[1])
while (task := store.next("Ann")) is not None:
    store.judge(Judgement(comparison=task.comparison.id, annotator="Ann", choice="first", shown_first=task.shown_first))
    print(task.comparison.id, flush=True)
"""


def test_what_was_said_before_a_kill_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with Store(path, create=True) as store:
        store.add(compare(index) for index in range(2000))
    with subprocess.Popen([sys.executable, "-c", _JUDGES, str(path)], stdout=subprocess.PIPE, text=True) as judging:
        assert judging.stdout is not None
        told = [int(judging.stdout.readline()) for _ in range(20)]
        os.kill(judging.pid, signal.SIGKILL)
        told += [int(line) for line in judging.stdout.read().split("\n")[:-1]]
    with Store(path) as store:
        kept = [each.comparison for each in store.judgements()]
        assert kept[: len(told)] == told
        assert len(kept) - len(told) in (0, 1)  # the last may have been kept and not told


# --- bad files --------------------------------------------------------------------------------------------------------


def only_line(error: pytest.ExceptionInfo[StoreError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as error:
        Store(tmp_path / "none.db")
    assert "there is no such store" in only_line(error)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_others_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("my thesis")
    for path in (other, thesis):
        before = path.read_bytes()
        with pytest.raises(StoreError) as error:
            Store(path, create=True)
        assert "is not a store of comparisons: choose another file" in only_line(error)
        assert path.read_bytes() == before


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as error:
        Store(tmp_path, create=True)
    assert "Is a directory" in only_line(error)


def test_a_newer_store(tmp_path: Path) -> None:
    with Store(tmp_path / "x.db", create=True) as store:
        store.rows("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="newer modelworks"):
        Store(tmp_path / "x.db")


def test_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with Store(path, create=True) as store:
        store.add(compare(index) for index in range(500))
    data = bytearray(path.read_bytes())
    data[4096 : len(data) // 2] = os.urandom(len(data) // 2 - 4096)
    path.write_bytes(data)
    with pytest.raises(StoreError) as error, Store(path) as store:
        store.comparisons()
    assert "it is damaged: bring back a copy" in only_line(error)


def test_a_full_disk_loses_nothing(store: Store) -> None:
    store.add([compare()])
    store.judge(judgement(1))
    pages = store.rows("PRAGMA page_count")[0][0]
    store.rows(f"PRAGMA max_page_count = {pages + 2}")  # SQLite's own SQLITE_FULL
    with pytest.raises(StoreError) as error:
        store.add(compare(index) for index in range(1, 500))
    assert "the disk is full: free some space and run again" in only_line(error)
    assert (len(store.comparisons()), len(store.judgements())) == (1, 1)
    store.rows("PRAGMA max_page_count = 1000000")
    assert len(store.add(compare(index) for index in range(1, 500))) == 499


def test_a_writer_that_never_ends_is_reported(tmp_path: Path) -> None:
    with Store(tmp_path / "x.db", create=True) as store:
        store.add([compare()])
    holder = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError) as error, Store(tmp_path / "x.db", busy_timeout_s=0.01) as store:
        store.judge(judgement(1))
    assert "another process has been writing for too long" in only_line(error)
    holder.close()
