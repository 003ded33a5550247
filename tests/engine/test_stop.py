from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modelworks.engine.stop import StopStrings


def expected(text: str, stops: list[str]) -> tuple[str, bool]:
    """By definition: read a character at a time, and end with the first stop string that is complete."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))], True
    return text, False


# Few letters, so that stop strings occur, overlap and nearly occur.
@given(
    pieces=st.lists(st.text("ab<", max_size=4), max_size=12),
    stops=st.lists(st.text("ab<", min_size=1, max_size=4), max_size=3),
)
def test_any_cut_gives_the_text_before_the_first_complete_stop_string(pieces: list[str], stops: list[str]) -> None:
    matcher = StopStrings(stops)
    shown, stopped = "", False
    for piece in pieces:
        new, stopped = matcher.push(piece)
        shown += new
        if stopped:
            break
    if not stopped:
        shown += matcher.flush()
    assert (shown, stopped) == expected("".join(pieces), stops)


@given(pieces=st.lists(st.text("ab<", max_size=4)), stops=st.lists(st.text("ab<", min_size=1, max_size=4), min_size=1))
def test_nothing_is_held_that_cannot_become_a_stop_string(pieces: list[str], stops: list[str]) -> None:
    matcher = StopStrings(stops)
    shown = ""
    for piece in pieces:
        new, stopped = matcher.push(piece)
        if stopped:
            return
        shown += new
    held = matcher.flush()
    assert not held or any(stop.startswith(held) for stop in stops)
    assert matcher.flush() == ""


def test_a_stop_string_across_pieces() -> None:
    matcher = StopStrings(["\n\nUser:"])
    assert matcher.push("Yes.\n") == ("Yes.", False)
    assert matcher.push("\nUs") == ("", False)
    assert matcher.push("er: more") == ("", True)


def test_a_false_alarm_is_shown() -> None:
    matcher = StopStrings(["END"])
    assert matcher.push("the EN") == ("the ", False)
    assert matcher.push("TRY") == ("ENTRY", False)
