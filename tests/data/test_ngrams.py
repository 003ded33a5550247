from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.data.ngrams import mix, ngram_hashes, normalised, word_hashes

words = st.text(alphabet="abcé日ß0", min_size=1, max_size=6)


def test_case_punctuation_and_form_do_not_count() -> None:
    assert normalised("  The QUICK, (brown)\tfox_trot!\n") == b"the quick brown fox trot"
    assert normalised("ﬁne Straße") == b"fine strasse"
    assert np.array_equal(word_hashes("Cafe\u0301 au lait"), word_hashes("café, au LAIT."))


def test_scripts_without_spaces_have_a_word_for_each_character() -> None:
    assert normalised("日本語です。ok") == "日 本 語 で す ok".encode()
    assert len(word_hashes("日本語です")) == 5


def test_text_without_words_has_no_hashes() -> None:
    assert len(word_hashes("")) == len(word_hashes(" --- \n")) == 0
    assert len(ngram_hashes(word_hashes("one two"), 3)) == 0
    with pytest.raises(ValueError, match="at least one word"):
        ngram_hashes(word_hashes("one"), 0)


@given(st.lists(words, max_size=40))
def test_hashes_are_equal_exactly_where_words_are(texts: list[str]) -> None:
    """One running sum over the text gives each word the hash that it has alone."""
    text = " ".join(texts)
    named = normalised(text).split()
    hashes = word_hashes(text)
    assert len(hashes) == len(named)
    assert len(set(hashes.tolist())) == len(set(named))
    assert [int(word_hashes(word.decode())[0]) for word in named] == hashes.tolist()


@given(st.lists(st.sampled_from("abcd"), max_size=60), st.integers(1, 5))
def test_ngrams_are_equal_exactly_where_their_words_are(letters: list[str], size: int) -> None:
    grams = ngram_hashes(word_hashes(" ".join(letters)), size)
    spelt = [tuple(letters[at : at + size]) for at in range(len(letters) - size + 1)]
    assert len(grams) == len(spelt)
    assert len(set(zip(spelt, grams.tolist()))) == len(set(grams.tolist())) == len(set(spelt))


def test_a_text_longer_than_the_kept_powers_is_hashed_alike() -> None:
    text = "alpha beta gamma " * 300_000
    hashes = word_hashes(text)
    assert len(hashes) == 900_000
    assert np.array_equal(np.unique(hashes), np.sort(word_hashes("alpha beta gamma")))


@given(st.text(alphabet=st.characters(), max_size=200))
def test_any_text_is_taken(text: str) -> None:
    """Lone surrogates, controls, unassigned characters."""
    assert len(word_hashes(text)) == len(normalised(text).split())


def test_mixing_is_one_to_one_and_moves_half_of_the_bits() -> None:
    numbers = np.arange(1 << 14, dtype=np.uint64)
    mixed = mix(numbers)
    assert len(np.unique(mixed)) == len(numbers)
    changed = np.unpackbits((mixed ^ mix(numbers ^ np.uint64(1))).view(np.uint8)).mean()
    assert 0.49 < changed < 0.51
