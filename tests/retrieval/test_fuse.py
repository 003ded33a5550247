from __future__ import annotations

import pytest

from modelworks.retrieval.fuse import reciprocal_rank, weighted_sum


def test_weighted_sum_by_hand() -> None:
    fused = weighted_sum({"a": 8.0, "b": 4.0}, {"a": 0.2, "b": 0.6, "c": 0.5}, 0.7)
    assert fused == pytest.approx({"a": 0.3 + 0.14, "b": 0.15 + 0.42, "c": 0.35})


def test_the_scale_of_bm25_does_not_matter() -> None:
    dense = {"a": 0.2, "b": 0.6}
    small = weighted_sum({"a": 2e-6, "b": 1e-6}, dense)
    assert small == pytest.approx(weighted_sum({"a": 20.0, "b": 10.0}, dense))


def test_an_item_without_a_vector_is_neither_favoured_nor_buried() -> None:
    fused = weighted_sum({"new": 10.0, "a": 5.0}, {"a": 0.4, "b": 0.2}, 0.5)
    assert fused["new"] == pytest.approx(0.5 + 0.5 * 0.3)


@pytest.mark.parametrize(("lexical", "dense"), [({}, {}), ({"a": 1.0}, {}), ({}, {"a": 0.5})])
def test_one_list_or_none_is_enough(lexical: dict[str, float], dense: dict[str, float]) -> None:
    assert weighted_sum(lexical, dense).keys() == lexical.keys() | dense.keys()


def test_each_list_alone_keeps_its_order() -> None:
    scores = {"a": 0.9, "b": 0.5, "c": 0.1}
    for fused in (weighted_sum(scores, {}), weighted_sum({}, scores)):
        assert sorted(fused, key=fused.__getitem__, reverse=True) == ["a", "b", "c"]


def test_reciprocal_rank_by_hand() -> None:
    fused = reciprocal_rank([["a", "b"], ["b", "c"]], k=60)
    assert fused == pytest.approx({"a": 1 / 61, "b": 1 / 62 + 1 / 61, "c": 1 / 62})
