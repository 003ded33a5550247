from __future__ import annotations

import hashlib
import json

import pytest

from modelworks.core.errors import ModelFileError
from modelworks.core.lineage import FILE, Lineage, installed_versions, sha256


def test_a_record_reads_back_as_it_was(tmp_path):
    record = Lineage(
        parents=("hf:org/base", "runs/sft"),
        recipe={"optim": {"lr": 1e-5}},
        data={"tiny.jsonl": "ab12"},
        seed=7,
        metrics={"loss": 1.25},
    )
    record.write(tmp_path)
    assert Lineage.read(tmp_path) == record
    written = json.loads((tmp_path / FILE).read_text())
    assert written["seed"] == 7
    assert written["created"].endswith("+00:00")


def test_versions_are_those_installed():
    import numpy

    assert installed_versions()["numpy"] == numpy.__version__
    assert {"python", "modelworks", "torch"} <= installed_versions().keys()


def test_no_record_is_none(tmp_path):
    assert Lineage.read(tmp_path) is None


@pytest.mark.parametrize("text", ["{", "[]", '{"parents": [], "shoe_size": 43}', "\xff"])
def test_a_damaged_record_is_named(tmp_path, text):
    (tmp_path / FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelFileError, match=FILE):
        Lineage.read(tmp_path)


def test_sha256_of_a_file(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(b"abc" * 100_000)
    assert sha256(path) == hashlib.sha256(b"abc" * 100_000).hexdigest()
