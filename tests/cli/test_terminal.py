"""What is printed is safe on a terminal, and JSON stays JSON."""

from __future__ import annotations

import io
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.cli.terminal import check_text, flowing, print_json
from modelworks.core.errors import ModelworksError
from modelworks.core.log import escaped

ANY = st.text(st.characters(exclude_categories=()))  # surrogates too


@given(ANY)
def test_flowing_text_keeps_its_words(text: str) -> None:
    shown = flowing(text)
    assert "\n" not in shown
    assert shown.split() == escaped(" ".join(text.split())).split()


def test_line_ends_become_spaces_and_a_terminal_is_not_taken_over() -> None:
    assert flowing("three\n  years\r\nfrom") == "three years from"
    assert flowing("red \x1b[31malert\x07") == "red \\x1b[31malert\\x07"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_json_is_read_back_whatever_the_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"quote": "naïve 東京 \u202e \x1b \n", "odd": "\udcff"}
    buffer = io.BytesIO()
    with io.TextIOWrapper(buffer, encoding=encoding, errors="backslashreplace") as out:
        monkeypatch.setattr(sys, "stdout", out)
        print_json(value)
        out.flush()
        printed = buffer.getvalue().decode(encoding)
        monkeypatch.undo()
    assert json.loads(printed) == value
    assert printed.count("\n") == 1


@pytest.mark.parametrize("text", ["", " \t\n", "caf\udce9"])
def test_check_text_names_what_is_wrong(text: str) -> None:
    with pytest.raises(ModelworksError, match="the question is"):
        check_text("question", text)
    check_text("question", "why?")
