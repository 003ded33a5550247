from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from modelworks.text.words import cjk_terms, index_form, match_expression, query_terms, words


def test_the_form_of_an_index_has_letters_for_ligatures_and_nothing_invisible() -> None:
    assert index_form("O\ufb03ce x² soft\u00adhyphen") == "Office x2 softhyphen"


def test_stop_words_are_dropped_only_beside_other_words() -> None:
    assert query_terms("what is the kettle") == ["kettle"]
    assert query_terms("to be or not to be") == ["to", "be", "or", "not"]


def test_runs_without_spaces_are_cut_into_pairs() -> None:
    assert cjk_terms("Python入門").split() == ["Python", "入", "門", "入門"]
    assert cjk_terms("plain words") == ""
    assert query_terms("Python入門") == ["python", "入門"]


def test_a_query_has_words_in_quotes_and_no_syntax() -> None:
    assert match_expression("kettle* AND (pot") == '"kettle" OR "pot"'
    assert match_expression('"-:^*') == ""


@settings(max_examples=300)
@given(text=st.text(st.characters(categories=("Lo", "Ll", "Nd", "Mn", "Zs")), max_size=30))
def test_every_cjk_term_of_a_query_is_a_term_of_the_text_it_was_taken_from(text: str) -> None:
    indexed = {term.casefold() for term in cjk_terms(index_form(text).casefold()).split()}
    assert set(query_terms(text)) <= indexed | set(words(index_form(text).casefold()))
