from __future__ import annotations

import errno
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelworks.core.errors import ConfigError, ModelworksError
from modelworks.data import parts, write
from modelworks.data.prepare import Preparation, prepare
from modelworks.data.sources import File, Text, read_texts
from modelworks.data.tally import STEPS

Prose = Callable[..., str]
SCRIPT = """
import sys
from modelworks.data import parts, prepare
parts._PART_FILES = 1
prepare.prepare(sys.argv[1:2], sys.argv[2], quiet=True)
"""


@pytest.fixture
def folder(tmp_path: Path, prose: Prose) -> Path:
    """Good prose, its exact and its near duplicate, a stub, code, rows of which one is broken, a picture."""
    root = tmp_path / "in"
    root.mkdir()
    for at in range(3):
        (root / f"{at}.txt").write_text(prose(at))
    (root / "3-copy.txt").write_text(prose(0).upper())
    (root / "4-near.md").write_text(prose(1, 60).replace("Village", "Town"))
    (root / "4-nearly.md").write_text(prose(1, 60) + "\nOne more line.")
    (root / "5-stub.txt").write_text("Too short.")
    (root / "6-code.py").write_text("x = {1}\n")
    (root / "7-rows.jsonl").write_text(json.dumps({"text": prose(7), "lang": "en"}) + "\n{broken\n")
    (root / "8.png").write_bytes(b"\x89PNG\r\n\x1a\n\0")
    return root


def rows(out: Path) -> list[Text]:
    found = [item for path in sorted(out.glob("texts-*")) for item in read_texts(File(path.name, path))]
    assert all(isinstance(item, Text) for item in found)
    return found  # type: ignore[return-value]


def dropped(out: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in gzip.decompress((out / "dropped.jsonl.gz").read_bytes()).splitlines()]


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def run(folder: Path, out: Path, recipe: Preparation | None = None, **options: Any) -> dict[str, Any]:
    return prepare([folder], out, recipe, quiet=True, **options)


def test_a_corpus_is_the_good_texts_in_the_order_of_the_input(folder: Path, tmp_path: Path, prose: Prose) -> None:
    report = run(folder, tmp_path / "out")
    kept = rows(tmp_path / "out")
    names = [str(item.metadata["source"]).rpartition("/")[2] for item in kept]
    assert names == ["0.txt", "1.txt", "2.txt", "4-near.md", "6-code.py", "7-rows.jsonl:1"]
    assert kept[5].text == prose(7)
    assert kept[5].metadata["metadata"] == {"lang": "en"}
    found = {(drop["source"].rpartition("/")[2], drop["step"], drop["reason"]) for drop in dropped(tmp_path / "out")}
    assert found == {
        ("3-copy.txt", "exact duplicates", "the words of an earlier text"),
        ("4-nearly.md", "near duplicates", "like an earlier text"),
        ("5-stub.txt", "filter", "gopher/words"),
        ("7-rows.jsonl:2", "read", "not valid JSON"),
        ("8.png", "read", "PNG image"),
    }
    assert (report["texts"], report["inputs"]) == (6, 10)
    assert report == json.loads((tmp_path / "out/report.json").read_text())
    assert "near duplicates" in (tmp_path / "out/report.html").read_text()


def test_each_step_takes_what_the_one_before_let_pass(folder: Path, tmp_path: Path) -> None:
    report = run(folder, tmp_path / "out")
    steps = [report["steps"][name] for name in STEPS]
    for step, after in zip(steps, [*steps[1:], {"texts_in": report["texts"], "characters_in": report["characters"]}]):
        assert step["texts_in"] == step["texts_out"] + sum(step["dropped"].values())
        assert step["texts_out"] == after["texts_in"]
        assert step["characters_out"] == after["characters_in"]


def test_the_number_of_workers_makes_no_difference(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_PART_FILES", 2)
    run(folder, tmp_path / "one")
    run(folder, tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_blocks_and_parts_make_no_difference_to_the_texts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(folder, tmp_path / "one")
    monkeypatch.setattr(parts, "BLOCK", 2)
    monkeypatch.setattr(parts, "_PART_FILES", 5)
    run(folder, tmp_path / "two")
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one.keys() == two.keys()
    for name in one.keys() - {"report.json"}:  # the key tells the parts
        assert one[name] == two[name], name


def test_finished_files_are_not_done_again_after_a_failure(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_PART_FILES", 1)
    done: list[str] = []
    read = parts.read_texts

    def reading(file: File, **options: str) -> Any:
        done.append(file.name.rpartition("/")[2])
        if len(done) == 4:
            raise OSError(errno.ENOSPC, "No space left on device", str(file.path))
        return read(file, **options)

    monkeypatch.setattr(parts, "read_texts", reading)
    with pytest.raises(ModelworksError, match="No space left on device; what is done so far is kept"):
        run(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    report = run(folder, tmp_path / "out")
    assert len(done) == 10 + 1
    assert done.count("3-copy.txt") == 2
    assert not (tmp_path / ".out.parts").exists()
    # All of it is there: nothing is done, and the report is the same.
    assert run(folder, tmp_path / "out") == report
    assert len(done) == 11


def test_a_full_disk_leaves_no_half_of_a_corpus(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents_after(folder, tmp_path)
    (folder / "9.txt").write_text("Some words. " * 3)
    monkeypatch.setitem(write._OPEN, "jsonl.zst", full)  # type: ignore[index]
    with pytest.raises(ModelworksError, match=r"texts-00000\.jsonl\.zst: No space left on device"):
        run(folder, tmp_path / "out")
    assert contents(tmp_path / "out") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.parts", "in", "out"]


def contents_after(folder: Path, tmp_path: Path) -> dict[str, bytes]:
    run(folder, tmp_path / "out")
    return contents(tmp_path / "out")


def full(path: Path) -> Any:
    class Full:
        def write(self, line: bytes) -> None:
            path.write_bytes(line[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        def close(self) -> None: ...

    return Full()


def test_killed_and_run_again_equals_uninterrupted(
    folder: Path, tmp_path: Path, prose: Prose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_PART_FILES", 1)
    for at in range(10):
        texts = "".join(json.dumps({"text": prose(1000 * at + n)}) + "\n" for n in range(10))
        (folder / f"part-{at}.jsonl").write_text(texts)
    run(folder, tmp_path / "whole")
    work, command = tmp_path / ".out.parts", [sys.executable, "-c", SCRIPT, str(folder), str(tmp_path / "out")]
    process = subprocess.Popen(command)
    while process.poll() is None and not any(work.glob("[0-9a-f]*/tally.json")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(command, check=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not work.exists()


def test_texts_of_evaluation_sets_are_dropped_and_the_row_is_named(folder: Path, tmp_path: Path, prose: Prose) -> None:
    questions = tmp_path / "eval.jsonl"
    question = prose(2).split("\n")[3]
    questions.write_text('{"q": "unrelated"}\n' + json.dumps({"q": f"{question} And then some more?"}))
    (folder / "2.txt").write_text(prose(2).replace(question, f"{question[:-1]} and then some more."))
    recipe = Preparation(evaluations=(str(questions),))
    report = run(folder, tmp_path / "out", recipe)
    hits = [drop for drop in dropped(tmp_path / "out") if drop["step"] == "decontaminate"]
    assert [(hit["source"].rpartition("/")[2], hit["reason"]) for hit in hits] == [("2.txt", "eval.jsonl")]
    assert hits[0]["detail"].startswith("eval.jsonl:2: ")
    assert len(hits[0]["detail"].split()) == 1 + 13
    assert report["evaluation_rows"] == 1
    with pytest.raises(ConfigError, match=r"missing\.jsonl: the evaluation set cannot be read"):
        run(folder, tmp_path / "out", Preparation(evaluations=(str(tmp_path / "missing.jsonl"),)))


def test_a_mixture_has_the_weights_and_repeats_what_it_must(tmp_path: Path, prose: Prose) -> None:
    for name, first, count in (("big", 0, 30), ("small", 100, 5)):
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps({"text": prose(first + at)}) + "\n" for at in range(count))
        )
    paths = [tmp_path / "big.jsonl", tmp_path / "small.jsonl"]
    weights = {path.as_posix(): 1.0 for path in paths}
    size = sum(len(prose(at)) for at in range(30))
    reports = [
        prepare(paths, tmp_path / f"out{seed}", Preparation(weights=weights, characters=size, seed=seed), quiet=True)
        for seed in (0, 1)
    ]
    sources = reports[0]["sources"]
    for path in paths:
        assert sources[path.as_posix()]["characters"] / reports[0]["characters"] == pytest.approx(0.5, abs=0.03)
    assert sources[paths[1].as_posix()]["epochs"] == pytest.approx(3.0, abs=0.1)
    orders = [[item.text for item in rows(tmp_path / f"out{seed}")] for seed in (0, 1)]
    assert orders[0] != orders[1]
    with pytest.raises(ConfigError, match="would be read"):
        prepare(paths, tmp_path / "out", Preparation(weights=weights, characters=2 * size), quiet=True)
    with pytest.raises(ConfigError, match="paths and weights do not match"):
        prepare(paths[:1], tmp_path / "out", Preparation(weights=weights), quiet=True)


def test_without_any_text_it_says_why(tmp_path: Path) -> None:
    empty = tmp_path / "in"
    empty.mkdir()
    with pytest.raises(ModelworksError, match="no text is left: the paths hold no file"):
        run(empty, tmp_path / "out")
    (empty / "a.txt").write_text("")
    (empty / "b.txt").write_text("Short.")
    (empty / "c.txt").write_text("Shorter.")
    with pytest.raises(ModelworksError, match=r"no text is left: gopher/words \(2\); empty file \(1\)"):
        run(empty, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_a_corpus_is_written_over(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="holds something else than a corpus"):
        run(folder, tmp_path / "out")
    with pytest.raises(ConfigError, match="is a file"):
        run(folder, tmp_path / "out/thesis.txt")


def test_a_corpus_within_its_input_is_no_input(folder: Path) -> None:
    first = run(folder, folder / "out")
    assert run(folder, folder / "out", Preparation(seed=1))["inputs"] == first["inputs"]


def test_two_runs_into_one_folder_are_one_too_many(folder: Path, tmp_path: Path) -> None:
    from filelock import FileLock

    (tmp_path / ".out.parts").mkdir()
    with FileLock(tmp_path / ".out.parts/lock"), pytest.raises(ConfigError, match="another run is preparing"):
        run(folder, tmp_path / "out")


def test_changed_input_or_recipe_makes_another_corpus(folder: Path, tmp_path: Path) -> None:
    first = run(folder, tmp_path / "out")
    assert run(folder, tmp_path / "out", Preparation(filters=()))["texts"] == first["texts"] + 1
    (folder / "0.txt").unlink()
    assert run(folder, tmp_path / "out")["texts"] == first["texts"]  # its copy is now the first
    (tmp_path / "out/texts-00000.jsonl.zst").write_bytes(b"cut")
    run(folder, tmp_path / "out")
    assert len(rows(tmp_path / "out")) == first["texts"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"cleaners": ("soap",)}, "no cleaner 'soap'"),
        ({"filters": ("gofer",)}, "no filter 'gofer'"),
        ({"near_duplicates": 0.0}, "similarity above 0"),
        ({"shingle": 0}, "shingle is at least 1"),
        ({"characters": 5}, "there are no weights"),
        ({"format": "csv"}, "no format 'csv'"),
    ],
)
def test_recipes_that_cannot_be_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Preparation(**wrong)


def test_languages_are_filtered(tmp_path: Path, prose: Prose) -> None:
    pytest.importorskip("py3langid")
    german = "Der Ausschuss der Stadt traf sich im alten Saal, um über die Brücke zu sprechen, die jeder kannte. " * 2
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in (prose(0), german)))
    recipe = Preparation(filters=(), languages=("de", "fr"), near_duplicates=None)
    report = run(tmp_path / "in.jsonl", tmp_path / "out", recipe)
    assert [item.text for item in rows(tmp_path / "out")] == [german.strip()]
    assert list(report["steps"]["filter"]["dropped"]) == ["language/en"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(st.lists(st.text(alphabet=st.characters(), max_size=60) | st.sampled_from(["a b c", "A, b c!"]), max_size=25))
def test_any_texts_are_kept_once_or_accounted_for(tmp_path: Path, texts: list[str]) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    if not any(map(str.strip, texts)):
        with pytest.raises(ModelworksError, match="no text is left"):
            run(source, tmp_path / "out", Preparation(filters=(), format="jsonl"))
        return
    report = run(source, tmp_path / "out", Preparation(filters=(), cleaners=("nfc",), format="jsonl"))
    kept = rows(tmp_path / "out")
    assert len(kept) + len(dropped(tmp_path / "out")) == len(texts)
    assert report["texts"] == len(kept)
    assert sum(len(item.text) for item in kept) == report["characters"]
