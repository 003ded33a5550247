"""`data tokenize`, `data show` and `data tokenizer`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelworks.data.shards import Shards
from modelworks.text.tokenizer import Tokenizer
from modelworks.text.train import train_tokenizer

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer of little more than the bytes."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["user assistant " * 9], 262).save(folder)
    return folder


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho\n\x1b[31m"}]}


def test_tokenize_reports_what_was_left_out(run: Run, small: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", CHAT, "{", {"prompt": "p" * 90, "completion": "c"}, {"text": "x" * 90})
    options = ("--tokenizer", small, "--max-length", "40")
    run("data", "tokenize", file, "--out", tmp_path / "none", *options).assert_one_line_error("a.jsonl:2", "not valid")
    result = run("data", "tokenize", file, "--out", tmp_path / "out", *options, "--skip-broken")
    assert result.status == 0
    assert result.out.splitlines()[0].startswith(f"{tmp_path / 'out'}: 2 documents, ")
    assert "1 cut to the longest" in result.out
    assert "1 left out: answer beyond max_length" in result.out
    assert "1 rows passed over:" in result.out
    assert "a.jsonl:2: not valid JSON" in result.err.replace("\n", "")
    assert len(Shards(tmp_path / "out")) == 2
    result = run("data", "tokenize", file, "--out", tmp_path / "again", *options, "--skip-broken", "--json")
    report = json.loads(result.out)
    assert (report["documents"], report["truncated"], report["broken"]) == (2, 1, 1)


def test_show_marks_what_is_learned(run: Run, small: Path, tmp_path: Path) -> None:
    chat = {"messages": [CHAT["messages"][0], {**CHAT["messages"][1], "weight": 0.5}]}
    file = write(tmp_path / "a.jsonl", chat, {"text": "never shown"})
    shown = run("data", "show", file, "--tokenizer", small, "--count", "1").out
    assert re.search(r"a\.jsonl:1: \d+ tokens, 9 learned, by weights 0\.5", shown)
    assert "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n[[Ho\n\\x1b[31m<|im_end|>]]\n" in shown
    assert "never shown" not in shown


def test_show_has_columns_templates_and_pairs(run: Run, small: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", {"q": "one", "a": "two"})
    renamed = ("--columns.q", "prompt", "--columns.a", "completion")
    assert "\none[[two<|endoftext|>]]\n" in run("data", "show", file, "--tokenizer", small, *renamed).out
    template = tmp_path / "t.jinja"
    template.write_text("{% for m in messages %}({{ m.role }}) {{ m.content }}<|im_end|>{% endfor %}")
    shown = run("data", "show", file, "--tokenizer", small, *renamed, "--chat", "--template", template).out
    assert "(user) one<|im_end|>(assistant) [[two<|im_end|>]]" in shown
    pair = write(tmp_path / "p.jsonl", {"prompt": "p", "chosen": "c", "rejected": "r"})
    shown = run("data", "show", pair, "--tokenizer", small).out
    assert re.search(r":1: chosen: 3 tokens.*\np\[\[c<.*\n\n.*:1: rejected: 3 tokens.*\np\[\[r<", shown)


def test_show_says_what_would_be_left_out(run: Run, small: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", {"prompt": "p" * 30, "completion": "c"})
    shown = run("data", "show", file, "--tokenizer", small, "--max-length", "20").out
    assert "a.jsonl:1: left out: answer beyond max_length" in shown
    assert f"{'p' * 30}[[c<|endoftext|>]]" in shown


def test_tokenizer_is_trained_and_kept(run: Run, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", *[{"prompt": "the cat", "completion": "sat on the mat"}] * 3, CHAT)
    result = run("data", "tokenizer", file, "--vocab", "270", "--out", tmp_path / "t", "--special", "<|fim|>")
    assert result.out == f"{tmp_path / 't'}: 270 tokens\n"
    made = Tokenizer.from_folder(tmp_path / "t")
    assert made.vocab_size == 270
    assert made.chat_template is not None
    assert made.control_id("<|fim|>") == 4
    again = run("data", "tokenizer", file, "--vocab", "270", "--out", tmp_path / "t")
    again.assert_one_line_error("it exists and is not empty")
    run("data", "tokenizer", file, "--vocab", "262", "--out", tmp_path / "plain", "--no-chat")
    assert Tokenizer.from_folder(tmp_path / "plain").chat_template is None


@pytest.mark.parametrize("verb", ["tokenize", "tokenizer"])
def test_no_files_are_an_error(run: Run, verb: str, tmp_path: Path) -> None:
    more = ("--vocab", "300") if verb == "tokenizer" else ()
    run("data", verb, "--out", tmp_path / "x", *more).assert_one_line_error("no files are named")


def test_bad_files_are_one_line(run: Run, small: Path, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n")
    (tmp_path / "t.jinja").write_bytes(b"\xff")
    file = write(tmp_path / "a.jsonl", {"body": 1})
    run("data", "show", tmp_path / "x.csv", "--tokenizer", small).assert_one_line_error("training data is .jsonl")
    run("data", "show", tmp_path / "none.jsonl", "--tokenizer", small).assert_one_line_error("no such file")
    run("data", "show", file, "--tokenizer", small).assert_one_line_error("a.jsonl:1: no known format")
    bad = run("data", "show", file, "--tokenizer", small, "--template", tmp_path / "t.jinja")
    bad.assert_one_line_error("t.jinja: not UTF-8")
