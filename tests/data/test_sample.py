"""What samples say, whatever their kind."""

from __future__ import annotations

from modelworks.data.sample import Completion, Dialogue, Pair, Prompt, Rated, Sample, Stepwise, Text, Tokens, texts_of

USER = {"role": "user", "content": "q"}
CALL = {"role": "assistant", "tool_calls": [{}]}


def test_texts_of_every_kind() -> None:
    cases: list[tuple[Sample, list[str]]] = [
        (Text(text="a"), ["a"]),
        (Dialogue(messages=(USER, CALL, {"role": "assistant", "content": "a"})), ["q", "a"]),
        (Prompt(prompt="p"), ["p"]),
        (Completion(prompt="p", completion="c"), ["p", "c"]),
        (Rated(prompt=(USER,), completion="c", label=True), ["q", "c"]),
        (Pair(prompt="p", chosen="c", rejected="r"), ["p", "c", "r"]),
        (Stepwise(prompt="p", steps=("a", "b"), labels=(True, False)), ["p", "a", "b"]),
        (Tokens(ids=(1,), weights=(1.0,)), []),
    ]
    for sample, expected in cases:
        assert list(texts_of(sample)) == expected


def test_a_pairs_completions_carry_what_the_pair_says() -> None:
    pair = Pair(prompt="p", chosen="c", rejected="r", weight=0.5, place="f:1", extra={"id": 3}, tools=({"a": 1},))
    chosen, rejected = pair.completions
    common = {"prompt": "p", "weight": 0.5, "place": "f:1", "extra": {"id": 3}, "tools": ({"a": 1},)}
    assert chosen == Completion(completion="c", **common)
    assert rejected == Completion(completion="r", **common)
