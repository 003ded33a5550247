from __future__ import annotations

import numpy as np
import pytest
import torch

from modelworks.data.branches import Branch, Branches, branch_batch
from modelworks.data.pairs import Comparisons
from modelworks.objectives.completions import completions
from modelworks.train import reference
from modelworks.train.reference import reference_logps


def comparisons(count: int = 7) -> Comparisons:
    draw = np.random.default_rng(0)

    def ids() -> np.ndarray:
        return draw.integers(0, 31, draw.integers(2, 6))

    def branch() -> Branch:
        found = ids()
        return Branch(found, np.ones(len(found), np.float32))

    return Comparisons([Branches(ids(), (branch(), branch())) for _ in range(count)], pad_id=0)


def test_it_is_what_the_model_says_now_and_is_asked_once(make_model, tmp_path, monkeypatch):
    model, rows = make_model(), comparisons()
    found = reference_logps(model, rows, folder=tmp_path, batch_tokens=20, quiet=True)
    with torch.no_grad():
        expected = completions(model, branch_batch([rows[at] for at in range(7)], pad_id=0), 14).logps_S
    torch.testing.assert_close(torch.from_numpy(found).flatten(), expected, atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(reference, "completions", None)  # nobody may be asked again
    assert np.array_equal(reference_logps(model, rows, folder=tmp_path, quiet=True), found)


def test_another_model_other_data_and_another_precision_are_asked_anew(make_model, tmp_path):
    for model, rows, precision in (
        (make_model(), comparisons(), "fp32"),
        (make_model(seed=1), comparisons(), "fp32"),
        (make_model(), comparisons(6), "fp32"),
        (make_model(), comparisons(), "bf16"),
    ):
        reference_logps(model, rows, folder=tmp_path, precision=precision, quiet=True)
    assert len(list(tmp_path.glob("*.npy"))) == 4


def test_it_goes_on_where_it_was_stopped(make_model, tmp_path, monkeypatch):
    model, rows = make_model(), comparisons()
    monkeypatch.setattr(reference, "_SAVE_EVERY", -1.0)
    asked = []

    def stopping(*arguments):
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append(arguments[-1])
        return completions(*arguments)

    monkeypatch.setattr(reference, "completions", stopping)
    with pytest.raises(KeyboardInterrupt):
        reference_logps(model, rows, folder=tmp_path, batch_tokens=1, quiet=True)
    asked.clear()
    monkeypatch.setattr(reference, "completions", lambda *arguments: asked.append(0) or completions(*arguments))
    found = reference_logps(model, rows, folder=tmp_path, batch_tokens=1, quiet=True)
    assert len(asked) == 4
    assert np.isfinite(found).all()
    assert [path.suffixes for path in tmp_path.iterdir()] == [[".npy"]]
