from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.core.errors import ConfigError
from modelworks.data.mix import mix, plan


def test_without_a_total_nothing_is_repeated_and_the_scarcest_source_is_used_up() -> None:
    shares = plan({"web": 1000, "books": 100}, {"web": 3, "books": 1})
    assert shares["web"].wanted == pytest.approx(300)
    assert shares["web"].epochs == pytest.approx(0.3)
    assert shares["books"].epochs == pytest.approx(1.0)
    assert shares["web"].weight == 0.75


def test_a_total_repeats_small_sources_and_says_how_often() -> None:
    shares = plan({"web": 1000, "books": 100}, {"web": 1, "books": 1}, total=600)
    assert (shares["web"].epochs, shares["books"].epochs) == (0.3, 3.0)
    with pytest.raises(ConfigError, match=r"'books' would be read 5\.0 times, at most 4 allowed"):
        plan({"web": 1000, "books": 100}, {"web": 1, "books": 1}, total=1000)
    assert plan({"web": 1000, "books": 100}, {"web": 1, "books": 1}, total=1000, most_epochs=5)


@pytest.mark.parametrize(
    ("available", "weights", "message"),
    [
        ({"a": 1}, {"b": 1}, "do not match at 'a'"),
        ({"a": 1, "b": 1}, {"a": 1}, "do not match at 'b'"),
        ({"a": 1}, {"a": 0}, "one of them at least is above 0"),
        ({"a": 1}, {"a": -1}, "from 0 upwards"),
        ({"a": 1}, {"a": float("nan")}, "from 0 upwards"),
        ({"a": 1}, {"a": float("inf")}, "from 0 upwards"),
        ({"a": 0}, {"a": 1}, "'a' has a weight but no text"),
    ],
)
def test_weights_that_make_no_mixture_are_refused(
    available: dict[str, int], weights: dict[str, float], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(available, weights)


def test_every_stretch_has_the_weights() -> None:
    sources = {"a": ["x" * 10] * 300, "b": ["x" * 50] * 300}
    shares = plan({"a": 3000, "b": 15000}, {"a": 1, "b": 2})
    taken: Counter[str] = Counter()
    for name, item in mix(sources, shares, len):
        taken[name] += len(item)
        assert abs(taken["b"] - 2 * taken["a"]) <= 60
    assert taken["a"] == 3000


def test_passes_are_whole_and_shuffled_anew() -> None:
    sources = {"a": list(range(20))}
    order = [item for _, item in mix(sources, plan({"a": 20}, {"a": 1}, total=60), lambda _: 1)]
    passes = [order[at : at + 20] for at in (0, 20, 40)]
    assert len(order) == 60
    assert all(sorted(one) == list(range(20)) for one in passes)
    assert passes[0] != passes[1] != passes[2]


def test_the_seed_decides_the_order_alone() -> None:
    sources = {"a": list(range(50)), "b": list(range(50, 90))}
    shares = plan({"a": 50, "b": 40}, {"a": 1, "b": 1})
    one, same, other = (list(mix(sources, shares, lambda _: 1, seed=seed)) for seed in (1, 1, 2))
    assert one == same != other
    assert Counter(name for name, _ in one) == Counter(name for name, _ in other)


@given(
    st.dictionaries(
        st.sampled_from("abcd"),
        st.tuples(st.lists(st.integers(0, 30), min_size=1, max_size=20), st.floats(0.01, 5)),
        min_size=1,
    ),
    st.integers(0, 1 << 32),
)
def test_any_mixture_ends_with_each_source_at_its_share(sizes: dict[str, tuple[list[int], float]], seed: int) -> None:
    sources = {name: items for name, (items, _) in sizes.items()}
    available = {name: sum(max(item, 1) for item in items) for name, items in sources.items()}
    shares = plan(available, {name: weight for name, (_, weight) in sizes.items()})
    taken = dict.fromkeys(sources, 0)
    for name, item in mix(sources, shares, lambda item: item, seed=seed):
        taken[name] += max(item, 1)
    for name, share in shares.items():
        assert share.wanted * (1 - 1e-9) <= taken[name] <= share.wanted + 30
        assert share.epochs <= 1 + 1e-9
