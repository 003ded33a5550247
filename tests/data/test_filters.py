from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.core.errors import ConfigError
from modelworks.data.filters import FILTERS, Measure, judge, judge_language, language

NAMES = tuple(FILTERS)
SENTENCES = [
    "The committee of the town met in the old hall to speak about the bridge.",
    "It was built long ago, and nobody knows with certainty who paid for it.",
    "Some of the stones have moved, so carts must be led across one by one.",
    "A mason from the next valley said that he could mend it before winter.",
    "They agreed to ask every household for a small sum and a day of labour.",
    "When the work was done, the children were the first to run across it.",
]
GOOD = "\n\n".join(" ".join(SENTENCES[at : at + 2]) for at in (0, 2, 4))


def test_good_prose_passes_every_filter() -> None:
    assert judge(GOOD, NAMES) is None


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("Only a few words of the text.", "gopher/words"),
        ("word and the " * 33_334, "gopher/words"),
        ("a b of the c d " * 20, "gopher/mean-word"),
        (GOOD + " #" * 20, "gopher/symbols"),
        (GOOD + " …" * 20, "gopher/symbols"),
        ("\n".join(f"- {line}" for line in SENTENCES), "gopher/bullets"),
        ("\n".join(line[:-1] + ("..." if at < 2 else ".") for at, line in enumerate(SENTENCES)), "gopher/ellipses"),
        (GOOD + " 12345" * 30, "gopher/alphabetic"),
        ("Kwa mujibu wa taarifa hiyo, mkutano ulifanyika mjini jana jioni. " * 6, "gopher/stop-words"),
        ("\n".join([*SENTENCES, "ok", "ok", "ok", "ok", "ok"]), "gopher-repetition/lines"),
        ("\n".join([*SENTENCES, *SENTENCES[:2]]), "gopher-repetition/line-characters"),
        ("\n".join(SENTENCES[:3]) + "\n\none" * 3 + "\n\n" + "\n".join(SENTENCES[3:]), "gopher-repetition/paragraphs"),
        (" ".join([*SENTENCES, "ten times over " * 10]), "gopher-repetition/top-3-gram"),
        (f"{GOOD}\n{SENTENCES[0]} {SENTENCES[1]} It ends.", "gopher-repetition/repeated-5-grams"),
        ("One sentence. Another one", "c4/sentences"),
        (GOOD + " Lorem Ipsum dolor.", "c4/lorem-ipsum"),
        (GOOD + " {", "c4/curly-bracket"),
        (GOOD.replace(".", ","), "fineweb/line-ends"),
        (GOOD + "\n" + GOOD.split("\n")[0], "fineweb/copied-characters"),
        (GOOD + "\nshort line." * 1 + "".join(f"\nline {at}." for at in range(9)), "fineweb/short-lines"),
    ],
)  # fmt: skip
def test_each_rule_drops_what_it_is_about(text: str, rule: str) -> None:
    rejection = judge(text, (rule.split("/")[0],))
    assert rejection is not None
    assert rejection.rule == rule
    assert rejection.detail


def test_thresholds_are_those_of_gophers_table() -> None:
    """Rae et al. 2021, table A1: one word in five repeated is allowed as a 2-gram's share, one more is not."""
    measure = Measure("aa bb cc dd aa bb ee ff gg hh")
    assert measure.share_of_top_ngram(2) == pytest.approx(0.4)
    assert measure.share_of_top_ngram(3) == 0
    assert measure.share_of_repeated_ngrams(2) == pytest.approx(0.2)


def test_overlapping_ngrams_count_once() -> None:
    assert Measure("ha " * 100).share_of_top_ngram(2) == 1
    assert Measure("ha " * 100).share_of_repeated_ngrams(5) == pytest.approx(0.99)


@given(st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=30), st.integers(1, 6))
def test_shares_equal_a_count_by_hand(words: list[str], size: int) -> None:
    grams = [tuple(words[at : at + size]) for at in range(len(words) - size + 1)]
    covered = set()
    for at, gram in enumerate(grams):
        if gram in grams[:at]:
            covered.update(range(at, at + size))
    share = sum(len(words[at]) for at in covered) / max(sum(map(len, words)), 1)
    assert Measure(" ".join(words)).share_of_repeated_ngrams(size) == pytest.approx(share)


@given(st.text(alphabet=st.characters(), max_size=300))
def test_any_text_is_judged(text: str) -> None:
    for name in NAMES:
        rejection = judge(text, (name,))
        assert rejection is None or rejection.rule.startswith(f"{name}/")


def test_an_unknown_filter_is_named() -> None:
    with pytest.raises(ConfigError, match="no filter 'gofer'; there are: gopher, gopher-repetition, c4, fineweb"):
        judge(GOOD, ("gofer",))


SAMPLES = {
    "en": GOOD,
    "de": "Der Ausschuss der Stadt traf sich im alten Saal, um über die Brücke zu sprechen, die niemand bezahlt hatte.",
    "fr": "Le comité de la ville s'est réuni dans la vieille salle pour parler du pont que personne n'avait payé.",
    "es": "El comité de la ciudad se reunió en la vieja sala para hablar del puente que nadie había pagado todavía.",
    "it": "Il comitato della città si è riunito nella vecchia sala per parlare del ponte che nessuno aveva pagato.",
    "ru": "Городской совет собрался в старом зале, чтобы поговорить о мосте, за который никто не заплатил.",
    "ar": "اجتمعت لجنة المدينة في القاعة القديمة للحديث عن الجسر الذي لم يدفع أحد ثمنه حتى الآن.",
    "zh": "镇上的委员会在旧大厅开会，讨论那座没有人付钱修建的桥，大家都很担心冬天的到来。",
}


@pytest.mark.parametrize("code", SAMPLES)
def test_languages_are_told_apart(code: str) -> None:
    pytest.importorskip("py3langid")
    found, probability = language(SAMPLES[code])
    assert found == code
    assert 0 < probability <= 1
    assert judge_language(SAMPLES[code], ("en",), 0.0) == (
        None if code == "en" else (f"language/{code}", f"{code} with probability {probability:.2f}")
    )
    unsure = judge_language(SAMPLES[code], (code,), 1.1)
    assert unsure is not None
    assert unsure.rule == "language/unsure"
