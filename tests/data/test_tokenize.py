"""Files to shards: everything is accounted for, and what is cached is what would be made."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from modelworks.core.errors import DataError
from modelworks.data.shards import Shards
from modelworks.data.tokenize import Options, cached, find_files, tokenize
from modelworks.text.tokenizer import Tokenizer


def write(path: Path, *rows: dict[str, Any] | str) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def texts(shards: Shards, tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.decode(shards[at].ids.tolist()) for at in range(len(shards))]


def test_every_row_is_accounted_for(tmp_path: Path, tokenizer: Tokenizer) -> None:
    mixed = write(
        tmp_path / "mixed.jsonl",
        {"text": "one"},
        "{broken",
        {"prompt": "p" * 20, "completion": "c"},
        {"body": "?"},
        {"text": ""},
        {"text": "x" * 40},
        {"prompt": "only"},
        {"prompt": "p", "completion": "c"},
    )
    report = tokenize([mixed], tokenizer, tmp_path / "out", Options(max_length=16, skip_broken=True))
    shards = Shards(tmp_path / "out")
    assert texts(shards, tokenizer) == ["one", "x" * 16, "pc"]
    assert (report.rows, report.documents, report.truncated) == (5, 3, 1)
    assert dict(report.dropped) == {"answer beyond max_length": 1, "nothing to learn": 1}
    assert [each.place for each in report.broken] == [f"{mixed}:{line}" for line in (2, 4, 7)]
    assert report.tokens == shards.tokens == 4 + 16 + 3
    assert report.learned == 3 + 15 + 2  # a first token is nobody's to predict
    assert shards.manifest["report"]["dropped"] == dict(report.dropped)
    assert shards.manifest["report"]["first_broken"][1]["reason"].startswith("no known format")
    assert list(shards.manifest["data"]) == [str(mixed)]
    for line, said in ((2, "not valid JSON"), (4, "no known format"), (7, "a prompt without")):
        rows = mixed.read_text().splitlines()
        alone = write(tmp_path / "alone.jsonl", rows[0], rows[line - 1])
        with pytest.raises(DataError, match=f"alone.jsonl:2: {said}"):
            tokenize([alone], tokenizer, tmp_path / "none")
        assert not (tmp_path / "none").exists()


def test_order_is_kept_among_kinds(tmp_path: Path, tokenizer: Tokenizer) -> None:
    file = write(tmp_path / "a.jsonl", {"text": "1"}, {"text": "2"}, {"prompt": "3", "completion": "3"}, {"text": "4"})
    tokenize([file], tokenizer, tmp_path / "out")
    assert texts(Shards(tmp_path / "out"), tokenizer) == ["1", "2", "33", "4"]


def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    file = write(tmp_path / "a.jsonl", {"text": "a"})
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device"):
        tokenize([file], tokenizer, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], r"nothing to train on \(it holds no rows\)"),
        ([{"text": ""}, {"text": ""}], r"nothing to train on \(2 rows: nothing to learn\)"),
        (["{"], r"nothing to train on \(1 rows are broken, the first: not valid JSON"),
    ],
)
def test_empty_data_is_an_error(rows: list[Any], said: str, tmp_path: Path, tokenizer: Tokenizer) -> None:
    file = write(tmp_path / "empty.jsonl", *rows)
    with pytest.raises(DataError, match=f"empty.jsonl: {said}"):
        tokenize([file], tokenizer, tmp_path / "out", Options(skip_broken=True))
    assert not (tmp_path / "out").exists()


def test_folders_are_searched(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.json.gz", "c/d.parquet", "c/e.txt.zst", "readme.md", ".hidden.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find_files([tmp_path])]
    assert found == ["a.json.gz", "b.jsonl", "c/d.parquet", "c/e.txt.zst"]
    assert find_files(str(tmp_path / "b.jsonl")) == find_files([tmp_path / "b.jsonl"]) == [tmp_path / "b.jsonl"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no training data in it"):
        find_files([tmp_path / "empty"])
    with pytest.raises(DataError, match="none: no such file"):
        find_files([tmp_path / "none"])


def test_what_a_corpus_says_of_itself_is_no_training_data(tmp_path: Path) -> None:
    """The folder of a prepared corpus is what one trains on; its list of dropped texts stopped the run."""
    for name in ("corpus/texts-00000.jsonl.zst", "corpus/dropped.jsonl.gz", "corpus/report.json", "own/report.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find_files([tmp_path])]
    assert found == ["corpus/texts-00000.jsonl.zst", "own/report.json"]


def test_the_cache_is_hit_by_the_same_and_missed_by_another(
    tmp_path: Path, tokenizer: Tokenizer, bos_tokenizer: Tokenizer
) -> None:
    """training.md 15 (axolotl#1265): another template or tokenizer is a miss, and so are other data and options."""
    file, home = write(tmp_path / "a.jsonl", chat("q", "a")), tmp_path / "cache"

    def entries() -> int:
        return sum(path.is_dir() for path in home.iterdir())

    first = cached([file], tokenizer, folder=home)
    assert cached([file], tokenizer, folder=home).folder == first.folder
    moved = write(tmp_path / "moved.jsonl", chat("q", "a"))
    assert cached([moved], tokenizer, folder=home).folder == first.folder
    assert entries() == 1
    cached([file], bos_tokenizer, folder=home)
    cached([file], tokenizer, Options(max_length=10_000), folder=home)
    assert entries() == 3
    assert tokenizer.chat_template is not None
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant", "bot")
    changed = cached([file], tokenizer, folder=home)
    assert entries() == 4
    assert changed.manifest["template"] != first.manifest["template"]
    write(file, chat("q", "another"))
    assert "another" in texts(cached([file], tokenizer, folder=home), tokenizer)[0]
    assert entries() == 5


def test_the_cache_is_where_caches_are(tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELWORKS_CACHE", str(tmp_path / "cache"))
    shards = cached([write(tmp_path / "a.jsonl", {"text": "a"})], tokenizer)
    assert shards.folder.parent == tmp_path / "cache" / "tokens"


def test_what_is_damaged_in_the_cache_is_made_again(tmp_path: Path, tokenizer: Tokenizer) -> None:
    file = write(tmp_path / "a.jsonl", {"text": "abc"})
    first = cached([file], tokenizer, folder=tmp_path / "cache")
    damaged = first.folder / "00000.tokens"
    damaged.write_bytes(damaged.read_bytes()[:-2])
    again = cached([file], tokenizer, folder=tmp_path / "cache")
    assert (again.folder, again.digest) == (first.folder, first.digest)
