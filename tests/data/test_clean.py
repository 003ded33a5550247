from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.core.errors import ConfigError
from modelworks.data.clean import (
    ADDRESS,
    CLEANERS,
    EMAIL,
    c4_lines,
    clean,
    drop_boilerplate,
    drop_repeated_lines,
    mask_addresses,
    mask_emails,
    mend_encoding,
    strip_controls,
    trim_space,
)

wild = st.text(alphabet=st.characters(), max_size=300) | st.text(alphabet="Ã©Â \n\r\t.ab@1:\ufeff\x85â€", max_size=80)


@pytest.mark.parametrize("name", CLEANERS)
@given(text=wild)
def test_a_second_cleaning_changes_nothing(name: str, text: str) -> None:
    once = CLEANERS[name](text)
    assert CLEANERS[name](once) == once


@given(wild)
def test_all_together_leave_nothing_unprintable(text: str) -> None:
    cleaned = clean(text, ("encoding", "controls", "nfc", "ligatures", "space"))
    assert not any(unicodedata.category(c) in ("Cs",) or (ord(c) < 32 and c not in "\n\t") for c in cleaned)
    assert cleaned == cleaned.strip("\n").rstrip()
    cleaned.encode()


@given(st.text(alphabet="aeé ñüß–“”€ŒÀabc", min_size=1, max_size=60).filter(lambda text: not text.isascii()))
def test_every_text_that_was_read_wrongly_once_is_mended(text: str) -> None:
    garbled = "".join(bytes([b]).decode("cp1252", "ignore") or chr(b) for b in text.encode())
    assert mend_encoding(garbled) == mend_encoding(text)


@pytest.mark.parametrize("text", ["Él dijo: ñandú", "Ã la carte", "GRÂCE À DIEU", "naïve – “quoted”", "日本 cafÃ©"])
def test_text_that_was_read_aright_stays(text: str) -> None:
    assert mend_encoding(text) == text


def test_mojibake_of_mojibake_is_mended() -> None:
    assert mend_encoding("cafÃƒÂ©") == "café"


def test_controls_go_and_joiners_stay() -> None:
    assert strip_controls("\ufeffa\x00b\x1b[31m\r\nc\rd\u00ade\u2028f") == "ab[31m\nc\nde\nf"
    assert strip_controls("👩\u200d👧 می\u200cخواهم") == "👩\u200d👧 می\u200cخواهم"


def test_space_at_line_ends_and_long_gaps_go_but_indentation_stays() -> None:
    assert trim_space("\n\n  def f(x):  \n\n\n\n\n\n\treturn x\t\n\n") == "  def f(x):\n\n\n\treturn x"


def test_furniture_of_pages_goes_and_sentences_about_it_stay() -> None:
    text = "Menu\nSkip to content\nThe menu has ten dishes.\nPage 3 of 12\n© 2024 Example Ltd.\nRead more"
    assert drop_boilerplate(text) == "The menu has ten dishes."


def test_running_heads_stay_once_and_short_lines_always() -> None:
    head = "Annual Report of Example Ltd"
    text = "\n".join([head, "one", head, "one", head, "one", head, "one", "two words"])
    assert drop_repeated_lines(text) == "\n".join([head, *["one"] * 4, "two words"])
    chorus = "\n".join(["Row row row your boat"] * 3)
    assert drop_repeated_lines(chorus) == chorus


def test_c4_keeps_sentences() -> None:
    lines = [
        "This line has five words.",
        "Too few words.",
        "It does not end in a mark",
        "It trails off without an end...",
        "Please enable JavaScript to see this page.",
        "By reading on you accept our use of cookies.",
        "“Is this one quoted, then?”",
    ]
    assert c4_lines("\n".join(lines)).split("\n") == [lines[0], lines[6]]


def test_addresses_of_people_and_machines_are_masked() -> None:
    text = "Write to ann.o'hara+x@mail.example.co.uk or b@c.de, not to @user or a@b."
    assert mask_emails(text) == f"Write to ann.o'{EMAIL} or {EMAIL}, not to @user or a@b."
    text = "8.8.8.8, 2001:4860:4860::8888 and 10.0.0.1 at 12:30:45; version 1.2.3.4.5, ::1, 999.1.1.1"
    masked = mask_addresses(text)
    assert masked == f"{ADDRESS}, {ADDRESS} and 10.0.0.1 at 12:30:45; version 1.2.3.4.5, ::1, 999.1.1.1"


def test_an_unknown_cleaner_is_named() -> None:
    with pytest.raises(ConfigError, match="no cleaner 'soap'; there are: encoding, controls"):
        clean("x", ("nfc", "soap"))


def test_cleaners_are_linear_in_one_huge_line() -> None:
    """A pattern that tries every start with every end would not end within the test's patience."""
    for text in ("a" * 400_000, "1:" * 200_000, "a.b-" * 100_000 + "@", " " * 400_000, "Ã©" * 200_000):
        clean(text, tuple(CLEANERS))
