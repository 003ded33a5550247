from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelworks.data.dedup import MinHash, Sketch, deduplicate, find_duplicates, jaccard
from modelworks.data.ngrams import ngram_hashes, word_hashes


def words(draw: random.Random, count: int) -> list[str]:
    return [f"w{draw.randrange(5000)}" for _ in range(count)]


def exact_jaccard(a: str, b: str, size: int = 5) -> float:
    one, other = (set(ngram_hashes(word_hashes(text), size).tolist()) for text in (a, b))
    return len(one & other) / len(one | other)


def edited(draw: random.Random, text: list[str], edits: int) -> list[str]:
    copy = list(text)
    for _ in range(edits):
        copy[draw.randrange(len(copy))] = f"new{draw.random()}"
    return copy


@pytest.mark.parametrize("similarity", [0.2, 0.5, 0.8, 0.95])
def test_the_estimate_has_no_bias_and_the_standard_error_of_minhash(similarity: float) -> None:
    """Broder 1997: the entries agree independently, each with probability J; 200 pairs of 500 shingles."""
    draw = np.random.default_rng(1)
    shared = round(2 * 500 * similarity / (1 + similarity))
    errors = []
    for seed in range(200):
        pool = draw.integers(0, 1 << 63, 1000 - shared).astype(np.uint64)
        minhash = MinHash(size=1, seed=seed)
        a, b = minhash.signature(pool[:500]), minhash.signature(pool[500 - shared :])
        errors.append(jaccard(a, b) - shared / (1000 - shared))
    exact = shared / (1000 - shared)
    standard_error = (exact * (1 - exact) / 128) ** 0.5
    assert abs(np.mean(errors)) < 4 * standard_error / 200**0.5
    assert 0.8 < np.std(errors) / standard_error < 1.2


@settings(max_examples=25)
@given(st.integers(0, 1 << 32), st.integers(0, 40))
def test_one_estimate_is_within_five_standard_errors(seed: int, edits: int) -> None:
    draw = random.Random(seed)
    text = words(draw, 300)
    a, b = " ".join(text), " ".join(edited(draw, text, edits))
    exact = exact_jaccard(a, b)
    signatures = MinHash(num_hashes=256).sketch([a, b]).signatures_DK
    estimate = jaccard(signatures[0], signatures[1])
    assert abs(estimate - exact) <= 5 * (exact * (1 - exact) / 256) ** 0.5 + 1e-9


@settings(max_examples=10)
@given(st.integers(0, 1 << 32))
def test_planted_near_duplicates_are_found_and_others_are_left(seed: int) -> None:
    """Of copies with J near .9, all but one in twenty are found; of texts below J = .6, none is taken for one."""
    draw = random.Random(seed)
    texts, planted = [], set()
    for _ in range(60):
        text = words(draw, 200)
        texts.append(" ".join(text))
        for edits in (1, 2):  # J about .95 and .9
            planted.add(len(texts))
            texts.append(" ".join(edited(draw, text, edits)))
        texts.append(" ".join(edited(draw, text, 20)))  # J about .4
    dropped = set(range(len(texts))) - set(deduplicate(texts))
    assert dropped <= planted
    assert len(dropped) >= 0.95 * len(planted)


def test_exact_duplicates_differ_in_case_and_punctuation_alone() -> None:
    texts = ["One text of five words", "another", "one  text, of FIVE words!", "one text of five word"]
    sketch = MinHash().sketch(texts)
    first, exact = find_duplicates([sketch], None)
    assert first.tolist() == [0, 1, 0, 3]
    assert exact.tolist() == [False, False, True, False]


def test_likeness_is_passed_on_and_the_first_is_kept() -> None:
    draw = random.Random(0)
    a = words(draw, 400)
    b = edited(draw, a, 5)
    c = edited(draw, b, 5)
    texts = [" ".join(words(draw, 400)), " ".join(b), " ".join(c), " ".join(a), " ".join(c)]
    first, exact = find_duplicates([MinHash().sketch(texts)], 0.8)
    assert first.tolist() == [0, 1, 1, 1, 1]
    assert exact.tolist() == [False, False, False, False, True]


def test_members_of_a_bucket_that_are_unlike_its_first_are_compared_with_each_other() -> None:
    """Four signatures share a band; the first is like none, the second and fourth are alike."""
    signatures = np.arange(4 * 128, dtype=np.uint32).reshape(4, 128)
    signatures[3] = signatures[1]
    signatures[3, :10] = 7
    sketch = Sketch(np.array([bytes([i]) * 16 for i in range(4)], "V16"), np.zeros((1, 4), np.uint64), signatures)
    assert find_duplicates([sketch], 0.8).first_D.tolist() == [0, 1, 2, 1]


@settings(max_examples=20)
@given(st.lists(st.integers(0, 12), max_size=40), st.lists(st.integers(0, 40), max_size=4))
def test_parts_make_no_difference(kinds: list[int], cuts: list[int]) -> None:
    texts = [" ".join(words(random.Random(kind // 2), 60)[: 60 - kind % 2]) for kind in kinds]
    minhash = MinHash()
    whole = find_duplicates([minhash.sketch(texts)], 0.8)
    edges = [0, *sorted(min(cut, len(texts)) for cut in cuts), len(texts)]
    parts = [minhash.sketch(texts[a:b]) for a, b in pairwise(edges)]
    split = find_duplicates(parts, 0.8)
    assert split.first_D.tolist() == whole.first_D.tolist()
    assert split.exact_D.tolist() == whole.exact_D.tolist()
    assert all(whole.first_D <= np.arange(len(texts)))


def test_short_texts_are_compared_whole_and_empty_ones_only_exactly() -> None:
    assert deduplicate(["a b", "a b", "a c", "", "...", "d"]) == [0, 2, 3, 5]
    empty = MinHash().sketch(["", "x"]).signatures_DK
    assert jaccard(empty[0], empty[0]) == 0
    assert deduplicate([]) == []


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9])
def test_bands_find_nineteen_of_twenty_at_the_threshold(threshold: float) -> None:
    bands, rows = MinHash(threshold=threshold).bands
    assert bands * rows <= 128
    assert 1 - (1 - threshold**rows) ** bands >= 0.95


def test_signatures_depend_on_the_seed_alone() -> None:
    sketch = [MinHash(seed=seed).sketch(["some words that are hashed here"]).signatures_DK for seed in (0, 0, 1)]
    assert np.array_equal(sketch[0], sketch[1])
    assert not np.array_equal(sketch[0], sketch[2])
    # What signatures of one release are must be those of the next: parts of a corpus are resumed.
    assert sketch[0][0, :3].tolist() == [2858542096, 763268302, 2348914766]


@pytest.mark.parametrize("wrong", [{"threshold": 0}, {"threshold": 1.1}, {"size": 0}, {"num_hashes": 0}])
def test_senseless_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        MinHash(**wrong)  # type: ignore[arg-type]
