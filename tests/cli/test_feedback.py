"""`feedback`: from prompts to judgements to training data, and what users get wrong in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelworks.data.sample import Pair
from modelworks.data.tokenize import Options, read_samples
from modelworks.feedback.store import Answer, Comparison, Judgement, Store

Run = Callable[..., Any]
PAIRS = [{"prompt": f"p{at}", "chosen": f"good {at}", "rejected": f"bad {at}"} for at in range(4)]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.fixture
def store(run: Run, tmp_path: Path) -> Path:
    """Four comparisons that want two judgements each."""
    result = run("feedback", "import", tmp_path / "x.db", write(tmp_path / "in.jsonl", PAIRS), "--judgements", "2")
    assert (result.status, result.out) == (0, f"{tmp_path / 'x.db'}: 4 pairs added\n4 pairs\n")
    return tmp_path / "x.db"


def judge(store: Path, annotator: str, choices: str, group: str = "") -> None:
    names = {"1": "first", "2": "second", "t": "tie", "s": "skip"}
    with Store(store) as opened:
        for at, choice in enumerate(choices, 1):
            ratings = {"first": {"helpfulness": 5}, "second": {"helpfulness": 2}}
            opened.judge(
                Judgement(comparison=at, annotator=annotator, group=group, choice=names[choice],  # type: ignore[arg-type]
                          ratings=ratings, seconds=2.0, shown_first="first")
            )  # fmt: skip


def test_prompts_are_answered_and_not_again(run: Run, starters: None, tmp_path: Path) -> None:
    prompts = write(tmp_path / "p.jsonl", [{"prompt": "Name a colour."}, "{", {"text": "no prompt"}])
    sample = ("feedback", "sample", tmp_path / "x.db", prompts, "--chat", "--max-tokens", "6", "--skip-broken")
    counts = {"prompts": 1, "added": 1, "known": 0, "without_prompt": 1, "broken": 1}
    found = json.loads(run(*sample, "--json").out)
    assert {name: found[name] for name in counts} == counts
    with Store(tmp_path / "x.db") as opened:
        (made,) = opened.comparisons()
    assert made.prompt == ({"role": "user", "content": "Name a colour."},)
    assert made.first.model == made.second.model == "starter"
    assert made.first.sampling["temperature"] == 1.0
    assert made.source.endswith("p.jsonl:1")
    again = run(*sample)
    assert again.out.splitlines() == [
        f"{tmp_path / 'x.db'}: 0 comparisons added",
        "1 prompts",
        "1 known",
        "1 without prompt",
    ]
    assert "passed over: " in again.err


def test_pairs_go_in_and_judgements_come_out(run: Run, store: Path, tmp_path: Path) -> None:
    judge(store, "Ann", "12ts", "doctors")
    judge(store, "Bob", "1111", "patients")
    out = tmp_path / "out.jsonl"
    result = run("feedback", "export", store, out)
    assert result.out.splitlines() == [f"{out}: 2 rows of 8 judgements", "1 skips left out", "2 undecided left out"]
    rows = list(read_samples([out], Options(), []))
    assert [(row.prompt, row.chosen) for row in rows if isinstance(row, Pair)] == [("p0", "good 0"), ("p3", "good 3")]
    assert json.loads(run("feedback", "export", store, out, "--by", "group", "--json").out)["rows"] == 6
    assert json.loads(run("feedback", "export", store, out, "--group", "patients", "--json").out)["rows"] == 4
    assert json.loads(run("feedback", "export", store, out, "--ratings", "--json").out)["rows"] == 8
    assert out.read_text().count('"label": true') == 4


def test_agreement_is_shown_and_is_json(run: Run, store: Path) -> None:
    judge(store, "Ann", "12t", "doctors")
    judge(store, "Bob", "112", "patients")
    said = run("feedback", "agreement", store).out
    assert "3 of 4 comparisons" in said
    assert "33% of 3 pairs" in said
    assert "Ann, Bob" in said
    assert "between doctors, patients" in said
    assert "comparison 2: doctors: second 1; patients: first 1" in said
    found = json.loads(run("feedback", "agreement", store, "--json").out)
    assert (found["total"], found["pairwise"]["count"], found["against_ratings"]) == (4, 1, 2)


def test_of_two_models_it_is_said_which_wins(run: Run, tmp_path: Path) -> None:
    with Store(tmp_path / "x.db", create=True) as opened:
        sides = [Answer(turns=f"{name} says", model=name) for name in ("large", "small")]
        opened.add([Comparison(prompt="p", first=sides[1], second=sides[0])])
    judge(tmp_path / "x.db", "Ann", "2")
    assert "large wins 100% of 1 against small (21% to 100%)" in run("feedback", "agreement", tmp_path / "x.db").out
    (found,) = json.loads(run("feedback", "agreement", tmp_path / "x.db", "--json").out)["models"]
    assert (found["model"], found["against"], found["count"], found["of"]) == ("large", "small", 1, 1)


def test_one_annotator_is_told_so(run: Run, store: Path) -> None:
    judge(store, "Ann", "12")
    result = run("feedback", "agreement", store)
    assert "one annotator only (Ann): agreement needs two" in result.err
    assert "nan" not in result.out.lower()


def test_the_labels_of_the_data_may_be_kept_beside(run: Run, tmp_path: Path) -> None:
    pairs = write(tmp_path / "in.jsonl", [*PAIRS, {"prompt": "p0", "chosen": "bad 0", "rejected": "good 0"}])
    said = run("feedback", "import", tmp_path / "y.db", pairs, "--judged-by", "published").out
    assert "1 contradictory" in said
    with Store(tmp_path / "y.db") as opened:
        assert {each.annotator for each in opened.judgements()} == {"published"}


def test_the_page_is_served_until_it_is_stopped(command: Callable[..., list[str]], store: Path) -> None:
    arguments = command("feedback", "collect", store, "--port", "0", "--api-key", "sesame")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        assert line.startswith(f"{store}: 4 comparisons to judge at http://127.0.0.1:"), line + process.stderr.read()
        url = line.split()[-1]
        with urllib.request.urlopen(url, timeout=60) as page:
            assert b"Which answer is better?" in page.read()
        body = json.dumps({"annotator": "Ann", "comparison": 1, "choice": "1"}).encode()
        request = urllib.request.Request(f"{url}/api/judgements", body, {"authorization": "Bearer sesame"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            assert json.load(reply)["progress"] == {"done": 1, "left": 3}
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(30) == 0
        assert process.stderr.read() == ""
    with Store(store) as opened:
        assert len(opened.judgements()) == 1


def test_what_users_get_wrong_is_one_line(run: Run, store: Path, tmp_path: Path) -> None:
    prompts = write(tmp_path / "p.jsonl", [{"prompt": "p"}])
    thesis = write(tmp_path / "thesis.db", ["my thesis"])
    for arguments, said in (
        (("sample", store), "no files are named"),
        (("sample", store, tmp_path / "none.jsonl"), "no such file"),
        (("sample", store, prompts, "--temperature", "-1"), "temperature is -1"),
        (("import", thesis, prompts), "is not a store of comparisons"),
        (("export", tmp_path / "none.db", tmp_path / "out.jsonl"), "there is no such store"),
        (("export", store, tmp_path / "out.jsonl"), "nothing was judged yet"),
        (("export", store, tmp_path / "out.jsonl", "--group", "x"), "nobody is of the group 'x'"),
        (("export", store, tmp_path / "out.jsonl", "--aspect", "safety"), "give --ratings as well"),
        (("export", store, tmp_path / "out.jsonl", "--ratings", "--by", "group"), "--by is for pairs"),
        (("agreement", tmp_path), "Is a directory"),
        (("collect", tmp_path / "none.db"), "there is no such store"),
        (("collect", store, "--host", "0.0.0.0"), "no API key is set"),
    ):
        run("feedback", *arguments).assert_one_line_error(said)
    assert not (tmp_path / "out.jsonl").exists()
    assert not (tmp_path / "none.db").exists()


def test_greedy_sampling_of_one_model_is_refused(run: Run, starters: None, tmp_path: Path) -> None:
    prompts = write(tmp_path / "p.jsonl", [{"prompt": "p"}])
    result = run("feedback", "sample", tmp_path / "x.db", prompts, "--temperature", "0")
    result.assert_one_line_error("temperature is 0", "name two")
