"""Right-to-left lines: from places on the page to the order in which they are read."""

from __future__ import annotations

from modelworks.data.documents.bidi import Piece, has_rtl, logical, pieces


def test_numbers_and_latin_words_keep_their_direction_in_a_right_to_left_line() -> None:
    line = [  # as drawn, left to right: .bet 45 Hello World alef
        Piece(".", 0, 2, 0),
        Piece("בית", 3, 18, -1),
        Piece("45", 22, 32, 1),
        Piece("Hello", 36, 60, 1),
        Piece("World", 64, 88, 1),
        Piece("שלום", 92, 120, -1),
    ]
    assert logical(line, 10) == "שלום 45 Hello World בית."


def test_hebrew_words_in_a_left_to_right_line_are_reversed() -> None:
    line = [Piece("see", 0, 15, 1), Piece("עולם", 19, 39, -1), Piece("שלום", 43, 63, -1), Piece("here", 67, 87, 1)]
    assert logical(line, 10) == "see שלום עולם here"


def test_brackets_drawn_mirrored_are_turned() -> None:
    line = [Piece("(", 0, 3, 0), Piece("אב", 3, 20, -1), Piece(")", 20, 23, 0), Piece("שלום", 27, 50, -1)]
    assert logical(line, 10) == "שלום (אב)"


def test_a_word_from_a_single_glyph_is_turned_back() -> None:
    box = (10.0, 0.0, 30.0, 10.0)
    [piece] = pieces(list("יביבח"), [box] * 5)
    assert piece.text == "חביבי"


def test_signs_within_numbers_stay_inside() -> None:
    boxes = [(float(i), 0.0, float(i + 1), 10.0) for i in range(8)]
    assert [piece.text for piece in pieces(list("3.14 אב."), boxes)] == ["3.14", "אב", "."]


def test_has_rtl() -> None:
    assert has_rtl("abc שלום")
    assert has_rtl("مرحبا")
    assert not has_rtl("Grüße – 東京 3.14")
