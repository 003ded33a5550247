"""Comparisons from models and from files: what cannot be compared is counted, and an interrupted run goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from modelworks.core.errors import ConfigError, ContextLengthError, DataError
from modelworks.data.files import FileRow
from modelworks.data.formats import to_sample
from modelworks.data.sample import Pair, Prompt, Sample, Text
from modelworks.engine.handle import Feed, Handle
from modelworks.engine.row import Piece
from modelworks.engine.sample import Sampling
from modelworks.feedback.sample import Answerer, import_pairs, prompt_of, sample_comparisons
from modelworks.feedback.store import Store

WARM = Sampling(temperature=1.0, max_tokens=8)


@dataclass
class Engine:
    """Answers by a function of the prompt's text and of how often that was asked."""

    say: Callable[[str, int], str]
    asked: list[tuple[str, Sampling]] = field(default_factory=list)

    def submit(self, prompt: Any, sampling: Sampling) -> Handle:
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        if len(text) > 100:
            raise ContextLengthError("too long")
        self.asked.append((text, sampling))
        feed = Feed(1)
        feed.push(Piece(0, (), self.say(text, sum(text == each for each, _ in self.asked)), (), (), "stop"))
        return Handle(feed)


def two(engine: Engine) -> tuple[Answerer, Answerer]:
    answerer = Answerer("tiny", engine)  # type: ignore[arg-type]
    return answerer, answerer


def prompts(*texts: str) -> list[Sample]:
    return [Prompt(prompt=({"role": "user", "content": text},), place=f"p:{at}") for at, text in enumerate(texts, 1)]


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path / "x.db", create=True) as opened:
        yield opened


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "Why?"}, "Why?"),
        ({"prompt": "2+2=", "completion": "4"}, "2+2="),
        ({"instruction": "Add.", "input": "1 1", "output": "2"}, ({"role": "user", "content": "Add.\n\n1 1"},)),
        (
            {"chosen": "\n\nHuman: Hi\n\nAssistant: Ho", "rejected": "\n\nHuman: Hi\n\nAssistant: Go"},
            ({"role": "user", "content": "Hi"},),
        ),
        ({"text": "A document."}, None),
        ({"input_ids": [1]}, None),
        ({"messages": [{"role": "assistant", "content": "I begin."}]}, None),
    ],
)
def test_what_each_format_asks(row: dict[str, Any], prompt: Any) -> None:
    assert prompt_of(to_sample(FileRow("x:1", row))) == prompt


def test_a_dialogue_asks_up_to_the_last_answer() -> None:
    turns = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user", "assistant", "user")]
    asked = prompt_of(to_sample(FileRow("x:1", {"messages": turns})))
    assert asked is not None
    assert len(asked) == 4
    assert prompt_of(to_sample(FileRow("x:1", {"messages": turns[:2]}))) == tuple(turns[:2])


def test_each_prompt_is_answered_twice_with_seeds_that_are_kept(store: Store) -> None:
    engine = Engine(lambda text, time: f"{text} {time}")
    report = sample_comparisons(store, prompts("a", "b"), two(engine), WARM, wanted=3)
    assert (report.prompts, report.added) == (2, 2)
    made = store.comparisons()
    assert [(each.first.turns, each.second.turns) for each in made] == [
        (({"role": "assistant", "content": f"{text} 1"},), ({"role": "assistant", "content": f"{text} 2"},))
        for text in "ab"
    ]
    assert [each.source for each in made] == ["p:1", "p:2"]
    assert made[0].wanted == 3
    assert made[0].first.model == "tiny"
    assert made[0].first.finish_reason == "stop"
    seeds = [answer.sampling["seed"] for each in made for answer in (each.first, each.second)]
    assert seeds == [sampling.seed for _, sampling in engine.asked]
    assert len(set(seeds)) == 4
    assert made[0].first.sampling == {"temperature": 1.0, "max_tokens": 8, "seed": seeds[0]}


def test_two_models_may_be_greedy_and_one_may_not(store: Store) -> None:
    one, other = Engine(lambda text, _: "one"), Engine(lambda text, _: "other")
    answerers = Answerer("one", one), Answerer("other", other)  # type: ignore[arg-type]
    assert sample_comparisons(store, prompts("a"), answerers, Sampling()).added == 1
    (made,) = store.comparisons()
    assert (made.first.model, made.second.model) == ("one", "other")
    with pytest.raises(ConfigError, match="temperature is 0"):
        sample_comparisons(store, prompts("a"), two(one), Sampling())


def test_what_cannot_be_compared_is_asked_again_then_counted(store: Store) -> None:
    def say(text: str, time: int) -> str:
        return {"same": "x", "mute": " \n", "late": "x" if time < 4 else "y", "good": str(time)}[text]

    engine = Engine(say)
    samples = [*prompts("same", "mute", "late", "good", "long" * 40), Text(text="a document")]
    report = sample_comparisons(store, samples, two(engine), WARM, retries=2)
    assert (report.prompts, report.added, report.identical, report.empty) == (5, 2, 1, 1)
    assert (report.too_long, report.without_prompt, report.retried) == (1, 1, 5)
    assert [each.source for each in store.comparisons()] == ["p:4", "p:3"]
    asked = [sampling.seed for text, sampling in engine.asked if text == "same"]
    assert len(asked) == len(set(asked)) == 6


def test_an_interrupted_run_goes_on_where_it_was(store: Store) -> None:
    def broken(text: str, time: int) -> str:
        if text == "p40":
            raise KeyboardInterrupt
        return f"{text} {time}"

    texts = [f"p{at}" for at in range(60)]
    with pytest.raises(KeyboardInterrupt):
        sample_comparisons(store, prompts(*texts), two(Engine(broken)), WARM)
    kept = len(store.comparisons())
    assert 0 < kept < 60
    engine = Engine(lambda text, time: f"{text} {time}")
    report = sample_comparisons(store, prompts(*texts), two(engine), WARM)
    assert (report.known, report.added) == (kept, 60 - kept)
    assert len(engine.asked) == 2 * (60 - kept)
    assert sample_comparisons(store, prompts("p0"), two(Engine(lambda *_: str(len(_)))), WARM, seed=1).known == 0


def test_no_more_prompts_than_asked_for(store: Store) -> None:
    engine = Engine(lambda text, time: f"{text} {time}")
    assert sample_comparisons(store, prompts("a", "b", "c"), two(engine), WARM, count=2).prompts == 2
    assert {text for text, _ in engine.asked} == {"a", "b"}


def test_prompts_that_are_texts_go_on_as_texts(store: Store) -> None:
    engine = Engine(lambda text, time: f" {time}")
    sample_comparisons(store, [Prompt(prompt="2+2=")], two(engine), WARM)
    assert [(each.prompt, each.first.turns) for each in store.comparisons()] == [("2+2=", " 1")]


# --- pairs ------------------------------------------------------------------------------------------------------------


def pair(chosen: str, rejected: str, prompt: str = "p") -> Pair:
    return Pair(prompt=prompt, chosen=chosen, rejected=rejected)


def test_pairs_are_added_once_and_contradictory_ones_counted(store: Store) -> None:
    samples: Sequence[Sample] = [pair("a", "b"), pair("a", "b"), pair("b", "a"), pair("c", "c"), Text(text="t")]
    report = import_pairs(store, samples)
    assert report.to_json() == {
        "pairs": 4, "added": 1, "known": 1, "contradictory": 1, "identical": 1, "no_pair": 1
    }  # fmt: skip
    assert store.judgements() == []


def test_the_label_of_the_data_may_stand_as_a_judgement_beside_those_wanted(store: Store) -> None:
    import_pairs(store, [pair("a", "b")], judged_by="published")
    (said,) = store.judgements()
    assert (said.annotator, said.choice, said.shown_first) == ("published", "first", None)
    assert store.next("Ann") is not None
    assert store.undo("published") is None


def test_a_file_that_breaks_half_way_leaves_nothing_of_it(store: Store) -> None:
    def samples() -> Any:
        yield pair("a", "b")
        raise DataError("x.jsonl:2: not valid")

    with pytest.raises(DataError, match=r"x\.jsonl:2"):
        import_pairs(store, samples(), judged_by="published")
    assert store.comparisons() == store.judgements() == []
    assert import_pairs(store, [pair("a", "b")]).added == 1


def test_real_pairs(store: Store, preference: Path) -> None:
    from modelworks.data.tokenize import Options, read_samples

    report = import_pairs(store, read_samples([preference / "dpo_en_demo.json"], Options(), []))
    assert (report.pairs, report.added, report.known) == (300, 295, 5)  # five stand there twice
    harmless = [preference / "hh_harmless_test.jsonl.gz"]
    assert import_pairs(store, read_samples(harmless, Options(), [])).added == 2312
