"""Shards: what is written is read, wherever it is cut; what is damaged is refused by name."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelworks.core.errors import ConfigError, DataError
from modelworks.data.shards import MANIFEST, MemoryDocuments, Shards, write_shards
from modelworks.text.tokenizer import Tokenizer

Make = Callable[..., Shards]
reuses_fixtures = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)


@reuses_fixtures
@given(
    documents=st.lists(
        st.lists(st.tuples(st.integers(0, 259), st.sampled_from([1.0, 1.0, 0.0, 0.25])), min_size=1, max_size=12),
        min_size=1,
        max_size=12,
    ),
    shard_tokens=st.integers(1, 40),
)
def test_documents_are_read_as_they_were_written(
    documents: list[list[tuple[int, float]]],
    shard_tokens: int,
    tokenizer: Tokenizer,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("written") / "shards"
    with write_shards(folder, tokenizer, shard_tokens=shard_tokens) as writer:
        for document in documents:
            writer.add(*zip(*document))
    shards = Shards(folder)
    assert len(shards) == len(documents)
    assert [list(zip(*(part.tolist() for part in shards[at]))) for at in range(len(shards))] == documents
    assert shards.lengths(np.arange(len(documents))[::-1]).tolist() == [len(document) for document in documents[::-1]]
    # The same tokens as one ring, from any place.
    ring = [pair for document in documents for pair in document]
    begins = [at == 0 for document in documents for at in range(len(document))]
    assert shards.tokens == len(ring)
    for start in (0, 1, len(ring) - 1, len(ring) + 2):
        (ids, weights), begin = shards.span(start, 2 * len(ring) + 1)
        places = [(start + at) % len(ring) for at in range(2 * len(ring) + 1)]
        assert list(zip(ids.tolist(), weights.tolist())) == [ring[place] for place in places]
        assert begin.tolist() == [begins[place] for place in places]


def test_ids_take_two_bytes_where_they_can(make_shards: Make) -> None:
    shards = make_shards([1000])
    assert (shards.folder / "00000.tokens").stat().st_size == 2000
    assert not (shards.folder / "00000.weights").exists()


@pytest.mark.parametrize("part", ["tokens", "offsets"])
@pytest.mark.parametrize("damage", ["cut", "grown", "changed", "missing"])
def test_a_damaged_shard_is_refused_by_name(part: str, damage: str, make_shards: Make) -> None:
    shards = make_shards([50, 60, 70], shard_tokens=60)
    path = shards.folder / f"00001.{part}"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        changed = bytes([content[0] ^ 1]) + content[1:]
        path.write_bytes({"cut": content[:-2], "grown": content + b"xx", "changed": changed}[damage])
    said = {"cut": "cut", "grown": "cut", "changed": "damaged", "missing": "missing"}[damage]
    with pytest.raises(DataError, match=f"00001.{part}: the shard is {said}"):
        Shards(shards.folder)


@pytest.mark.parametrize(
    "manifest",
    [
        "",
        "[]",
        "{}",
        '{"format": 2, "shards": [1]}',
        '{"format": 1, "shards": [1]}',
        '{"format": 1, "pad_id": 1, "dtype": "x", "shards": [{}]}',
    ],
)
def test_a_bad_manifest_is_refused(manifest: str, make_shards: Make) -> None:
    shards = make_shards([5])
    (shards.folder / MANIFEST).write_text(manifest)
    with pytest.raises(DataError, match=MANIFEST):
        Shards(shards.folder)


def test_counts_that_contradict_the_files_are_refused(make_shards: Make) -> None:
    shards = make_shards([5])
    manifest = json.loads((shards.folder / MANIFEST).read_text())
    manifest["shards"][0]["documents"] = 2
    (shards.folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="its counts are not those of 00000"):
        Shards(shards.folder)


def test_no_folder_of_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no tokenised data"):
        Shards(tmp_path / "none")


def test_writing_is_all_or_nothing(make_shards: Make, tokenizer: Tokenizer) -> None:
    shards = make_shards([5, 6])
    with pytest.raises(ValueError, match="no tokens"), write_shards(shards.folder, tokenizer) as writer:
        deque(map(writer.add, ([1, 2, 3], [])))
    assert Shards(shards.folder).digest == shards.digest
    assert [path.name for path in shards.folder.parent.iterdir()] == [shards.folder.name]


def test_a_folder_of_something_else_is_not_overwritten(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds no shards"), write_shards(tmp_path, tokenizer) as writer:
        writer.add([1])
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_no_documents_are_an_error(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="nothing to train on"), write_shards(tmp_path / "out", tokenizer):
        pass
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ids", [[-1], [260]])
def test_ids_out_of_range_are_refused(ids: list[int], tmp_path: Path, tokenizer: Tokenizer) -> None:
    with (
        pytest.raises(ValueError, match="not all in the vocabulary"),
        write_shards(tmp_path / "out", tokenizer) as writer,
    ):
        writer.add(ids)


def test_the_digest_is_of_the_content(make_shards: Make) -> None:
    assert make_shards([3, 4]).digest == make_shards([3, 4]).digest
    assert make_shards([3, 4]).digest != make_shards([4, 3]).digest  # the same tokens, other documents
    one, other = ([(np.arange(3), np.array([1, 1, w]))] for w in (1, 0.5))
    assert MemoryDocuments(one).digest != MemoryDocuments(other).digest


def test_tokens_of_another_vocabulary_are_refused(
    make_shards: Make, tokenizer: Tokenizer, bos_tokenizer: Tokenizer
) -> None:
    shards = make_shards([3])
    shards.require(tokenizer)
    shards.require(bos_tokenizer)  # it writes BOS, but its ids are the same
    tokenizer.backend.add_tokens(["more"])
    with pytest.raises(ConfigError, match="another tokenizer"):
        shards.require(tokenizer)
