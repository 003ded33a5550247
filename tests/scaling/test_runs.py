"""Reading runs: what columns mean, and what is wrong said by line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modelworks.core.errors import ConfigError
from modelworks.scaling.runs import Runs, make_runs, read_runs


def read(tmp_path: Path, text: str) -> Runs:
    (tmp_path / "runs.csv").write_text(text)
    return read_runs(tmp_path / "runs.csv")


def test_the_public_runs(points: Runs) -> None:
    assert len(points) == 245
    assert pytest.approx(points.C_R / (6 * points.N_R)) == points.D_R
    assert len(points.without_highest(5)) == 240
    assert points.without_highest(5).loss_R.max() < np.sort(points.loss_R)[-5]


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("parameters,tokens,loss", "100,20,3"),
        ("N,D,L", "100,20,3"),
        ("Model Size,Training FLOP,loss", "100,12000,3"),
        ("flops,tokens,validation_loss", "12000,20,3"),
        ("loss,params,note,training-tokens", "3,100,x,20"),
    ],
)
def test_two_of_three_give_the_third(tmp_path: Path, header: str, row: str) -> None:
    runs = read(tmp_path, f"\ufeff{header}\n{row}\n")
    assert (runs.N_R[0], runs.D_R[0], runs.C_R[0], runs.loss_R[0]) == (100, 20, 12_000, 3)
    assert runs.counting == "total"


def test_the_counting_is_stated(tmp_path: Path) -> None:
    runs = read(tmp_path, "parameters_without_embeddings,tokens,loss,run\n100,20,3,a\n")
    assert runs.counting == "without embeddings"
    assert runs.run == ("a",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "columns: none"),
        ("parameters,loss\n1,2\n", "columns: parameters, loss"),
        ("parameters,tokens,perplexity\n1,2,3\n", "columns: parameters, tokens, perplexity"),
        ("N,D,loss\n", "a header and no rows"),
        ("N,D,loss\n1,2,3\n1,0,3\n1,2,3\n-1,2,3\n", "parameters must be positive and finite; line 5"),
        ("N,D,loss\n1,2,3\n1,2,nan\n1,2,\n1,2,x\n", "loss must be positive and finite; lines 3, 4, 5"),
        ("N,D,loss\n1,inf,3\n", "tokens must be positive and finite; line 2"),
        ("N,D,loss\n1\n", "tokens must be positive and finite; line 2"),
        ("N,D,loss\n" + "0,1,1\n" * 9, "lines 2, 3, 4, 5, 6 and 4 more"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, text)
    assert said in str(error.value)
    assert "runs.csv" in str(error.value)


def test_what_is_no_csv_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_bytes(b"N,D,loss\n\xff\xfe,1,2\n")
    with pytest.raises(ConfigError, match="not a CSV in UTF-8"):
        read_runs(tmp_path / "runs.csv")
    with pytest.raises(ConfigError, match="row 2"):
        make_runs(np.array([1.0, 2]), np.array([1.0, -2]), np.array([1.0, 2]))
    with pytest.raises(ConfigError, match="2 of 2 rows cannot be dropped"):
        make_runs(np.array([1.0, 2]), np.array([1.0, 2]), np.array([1.0, 2])).without_highest(2)
