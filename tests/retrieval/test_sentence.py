"""Sentences: exact spans over wild text, and the rules on real cases."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modelworks.retrieval.sentence import MAX_SENTENCE, LineEnds, sentences

WILD = st.text(
    alphabet=st.one_of(
        st.sampled_from(" .!?\n\t\r\"'()[]`*-|•。！？؟…۔“”«»1aAbB\u2028\x1c\u00a0\ufb01"), st.characters(codec="utf-8")
    ),
    max_size=300,
)


@settings(max_examples=300)
@given(text=WILD, line_ends=st.sampled_from(get_args(LineEnds)))
@example(text="a.  \n\n b", line_ends="guess")
@example(text="x" * 2500 + ". " + "y" * 30, line_ends="guess")
def test_spans_cover_every_character_in_order_without_overlap(text: str, line_ends: LineEnds) -> None:
    at = 0
    for start, end in sentences(text, line_ends=line_ends):
        assert at <= start < end <= len(text)
        assert not text[at:start].strip()
        assert not text[start].isspace()
        assert not text[end - 1].isspace()
        assert end - start <= MAX_SENTENCE
        at = end
    assert not text[at:].strip()


@pytest.mark.parametrize(
    "expected",
    [
        ["One.", "Two!", "Three?", "Four…"],
        ["Dr. Smith met Mrs. Jones at 5 p.m. on Jan. 3, 2024.", "They left."],
        ["It costs 3.14 euros.", "See Fig. 2 and Eq. 4, pp. 7-9."],
        ["J. R. R. Tolkien wrote it.", "W. Shakespeare did not."],
        ["He lives in the U.S. and works.", "She moved to the U.S. They met."][:1],
        ["Apples, pears, etc. are fruit.", "So are plums."],
        ["He bought plums, etc.", "The shop closed."],
        ["Use e.g. NumPy or i.e. arrays.", "Then stop."],
        ["Smith et al. 2019 found it.", "Others did not."],
        ['He said "Stop!" and left.', '"Really?" she asked.', "“Yes.”", "No."],
        ["It ended (badly.)", "Then it began."],
        ["Wait... what?", "Nothing."],
        ["Version 3.11.2 is out.", "Install python3.11 from example.com now."],
        ["The result is in [3].", "It was cited.[12]", "Next."],
        ["これは文です。", "次の文です！", "「はい。」", "終わり"],
        ["你好!", "再见?", "好"],
        ["مرحبا بالعالم؟", "هذه جملة."],
        ["No. 5 is alive.", "The answer is no.", "She left."],
        ["Call `json.dumps()`.", "`json.loads()` reads it."],
        ["What is vitamin C?", "It is an acid."],
        ["The plan was B.", "The next was C."],
        ["Dies gilt z. B. hier.", "Das nicht."][1:],
        ["Apple Inc. announced it.", "Inc. is short."][:1],
        ["Is it 10 a.m. or 11?", "Yes."],
    ],
)
def test_prose(expected: list[str]) -> None:
    separator = "" if ord(expected[0][0]) > 0x3000 else " "
    text = separator.join(expected)
    assert [text[start:end] for start, end in sentences(text)] == expected


def quotes(text: str, line_ends: LineEnds = "guess") -> list[str]:
    return [text[start:end] for start, end in sentences(text, line_ends=line_ends)]


def test_a_blank_line_ends_a_sentence_without_punctuation() -> None:
    assert quotes("A title\n\nThe text begins\nhere.") == ["A title", "The text begins\nhere."]


def test_hard_wrapped_prose_is_joined_and_broken_lines_are_not() -> None:
    wrapped = (
        "The quick brown fox jumps over the lazy dog and runs\n"
        "away from the hounds that chase it through the wood\n"
        "until dusk."
    )
    assert quotes(wrapped) == [wrapped]
    assert quotes("Note\nBe careful with untrusted input, it may be harmful.") == [
        "Note",
        "Be careful with untrusted input, it may be harmful.",
    ]


def test_list_items_table_rows_headings_and_code_stand_alone() -> None:
    text = "# Fruit\nWe sell:\n- apples\n- pears and\n  plums\n1. first\n2. second"
    assert quotes(text) == ["# Fruit", "We sell:", "- apples", "- pears and\n  plums", "1. first", "2. second"]
    assert quotes("Name | Age\nAda | 36\nAlan | 41") == ["Name | Age", "Ada | 36", "Alan | 41"]
    assert quotes(">>> import json\n>>> json.dumps(1)\n'1'") == [">>> import json", ">>> json.dumps(1)", "'1'"]


def test_a_list_marker_is_no_sentence() -> None:
    assert quotes("1. Open the file. 2. Close it.")[0].startswith("1. Open")
    assert quotes("  3. Third step") == ["3. Third step"]


def test_a_line_end_is_a_space_where_the_format_says_so() -> None:
    """A guess took "PDFs and images cannot be read." for a sentence of its own, which is false."""
    text = "Scanned\nPDFs and images cannot be read. Office files\ncan.\n- one\n  Two\n- three"
    expected = ["Scanned\nPDFs and images cannot be read.", "Office files\ncan.", "- one\n  Two", "- three"]
    assert quotes(text, "space") == expected
    assert quotes("Rome  \nParis\\\nBerlin", "space") == ["Rome", "Paris\\", "Berlin"]


def test_lines_are_units_where_asked() -> None:
    assert quotes("alpha beta\ngamma. Delta", "end") == ["alpha beta", "gamma.", "Delta"]
    assert quotes("alpha beta gamma delta epsilon\nzeta") == ["alpha beta gamma delta epsilon\nzeta"]
