from __future__ import annotations

import json
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from modelworks.data.tally import EXAMPLES, STEPS, Drop, Tally, page

events = st.lists(
    st.tuples(st.sampled_from(STEPS), st.sampled_from(["keep", "change", "a", "b"]), st.integers(0, 9)), max_size=60
)


def count(happened: list[tuple[str, str, int]]) -> Tally:
    tally = Tally()
    for at, (step, what, size) in enumerate(happened):
        if what == "keep":
            tally.keep(step, size, size // 2)
        elif what == "change":
            tally.change(step, "nfc")
        else:
            tally.drop(Drop(f"s{at % 7}", step, what, "detail"), size, "x" * size)
    return tally


@given(events, st.integers(0, 60))
def test_tallies_of_parts_add_up_to_that_of_the_whole(happened: list[tuple[str, str, int]], cut: int) -> None:
    total = Tally()
    for part in (happened[:cut], happened[cut:]):
        total.add(Tally.from_json(json.loads(json.dumps(count(part).to_json()))))
    whole = count(happened).to_json()
    for step in total.to_json():
        mine, other = total.to_json()[step], whole[step]
        # Sources of examples are numbered from each part's start here.
        assert {**mine, "examples": None} == {**other, "examples": None}
        assert {reason: len(found) for reason, found in mine["examples"].items()} == {
            reason: len(found) for reason, found in other["examples"].items()
        }


def test_what_goes_in_comes_out_or_is_dropped() -> None:
    tally = Tally()
    tally.keep("clean", 10, 8)
    tally.keep("clean", 100, texts=3)
    tally.drop(Drop("s", "clean", "nothing left"), 4, "text")
    step = tally.steps["clean"]
    assert (step.texts_in, step.texts_out, step.characters_in, step.characters_out) == (5, 4, 114, 108)
    assert step.dropped == {"nothing left": 1}
    assert step.examples == {"nothing left": [{"source": "s", "detail": "", "text": "text"}]}


def test_examples_are_few_and_short() -> None:
    tally = Tally()
    for at in range(10):
        tally.drop(Drop(f"s{at}", "filter", "gopher/words"), 5000, "y" * 5000)
    found = tally.steps["filter"].examples["gopher/words"]
    assert [one["source"] for one in found] == ["s0", "s1", "s2"][:EXAMPLES]
    assert all(len(one["text"]) == 300 for one in found)


def test_the_page_shows_all_and_obeys_nothing_of_it() -> None:
    tally = Tally()
    tally.drop(Drop("<script>alert(1)</script>", "filter", "gopher/<b>", "a & b"), 5, "<img src=x onerror=y>")
    report = {
        "texts": 1,
        "characters": 2,
        "steps": tally.to_json(),
        "files": [{"name": "<i>", "texts": 1, "characters": 2, "bytes": 3}],
        "recipe": {"filters": ("<u>",)},
    }
    tags: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append(tag)  # type: ignore[method-assign]
    parser.feed(page(report))
    assert not {"script", "img", "i", "u", "link"} & set(tags)
    assert "&lt;img src=x onerror=y&gt;" in page(report)
    assert "http" not in page(report)
