"""Constitutional AI: a model criticises and revises its own answers by written principles, and a judge chooses.

    recipe = read_constitution("recipes/constitution.toml", ['prompts=["prompts.jsonl"]'])
    report = constitution(recipe, "runs/constitution")

Bai et al. 2022 (arXiv:2212.08073), section 3.1: an answer, its critique by a principle drawn at random, a revision, as
often as wanted; revisions are what a model is fine-tuned on. Section 4.1: a judge, asked by a principle drawn anew,
chooses between two answers by the log-probabilities of its choice; such pairs are what a preference objective learns
from. Here a prompt gives both: the pair is of the first answer and the last revision, or of two samples.

Every step is one line of `records.jsonl` (see `journal`). Whoever runs the same recipe into the same folder goes on
behind the last line that is whole: nothing that is recorded is asked again.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modelworks.core.config import to_toml
from modelworks.core.errors import ConfigError, DataError
from modelworks.core.lineage import installed_versions, sha256
from modelworks.core.log import Advance, progress
from modelworks.core.paths import atomic_file
from modelworks.data.ngrams import ngram_hashes, word_hashes
from modelworks.data.sample import Dialogue, Sample, Text, Tokens
from modelworks.data.tokenize import Options, find_files, read_samples
from modelworks.engine.engine import Engine
from modelworks.engine.many import answer_all
from modelworks.engine.sample import Sampling
from modelworks.evals.intervals import wilson
from modelworks.feedback.endpoint import EndpointJudge
from modelworks.feedback.journal import Journal
from modelworks.feedback.judge import Bias, Comparison, Judge, ModelJudge, RuleJudge, Verdict, chunks, position_bias
from modelworks.feedback.principles import ConstitutionRecipe, Fault, Principle, digest
from modelworks.feedback.scores import Messages, read_reward
from modelworks.models.fetch import pull
from modelworks.text.chat import render

RECORDS, SFT, PAIRS, RECIPE = "records.jsonl", "sft.jsonl", "pairs.jsonl", "recipe.toml"
_CHUNK = 32  # prompts that go through all steps together
_ECHO, _WORDS = 0.8, 4  # a critique of which so much, in runs of so many words, was said before
_NEVER: tuple[Fault, ...] = ("too long", "empty", "unjudged")

Said = Mapping[tuple[str, int], Mapping[str, Any]]
"""The records of one prompt by stage and round."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What came of a constitution."""

    prompts: int
    repeated: int
    """Prompts that were there already; they are asked once."""
    faults: Counter[Fault]
    """Prompts with each fault; one may have several."""
    judged: int
    revised_wins: int
    """Verdicts for the revision (of two samples: for the second)."""
    bias: Bias
    by_principle: Mapping[str, tuple[int, int]]
    """Verdicts for the revision, and all verdicts, by the principle that the judge was asked by."""
    sft: int
    """Rows written."""
    pairs: int

    @property
    def win_interval(self) -> tuple[float, float]:
        """Wilson's, 95%."""
        return wilson(self.revised_wins, self.judged)

    def to_json(self) -> dict[str, Any]:
        """All numbers, as JSON has them."""
        bias = {"flipped": self.bias.flipped, "first_place": self.bias.first_place, "verdicts": self.bias.verdicts}
        return asdict(self) | {
            "faults": dict(self.faults),
            "win_interval": list(self.win_interval),
            "bias": bias | {"mean": self.bias.mean if self.bias.verdicts else None},
        }


def read_prompts(files: Sequence[str | Path], count: int = 0) -> tuple[dict[str, list[Mapping[str, Any]]], int]:
    """The first `count` different prompts (0: all) by their digests, as messages, and how many came again.

    A dialogue's prompt is what stands before its last answer. Raises DataError for a row without a prompt, and
    ConfigError where there is none at all.
    """
    prompts: dict[str, list[Mapping[str, Any]]] = {}
    repeated = 0
    for sample in read_samples(find_files(files), Options(as_chat=True), []):
        messages: list[Mapping[str, Any]] = [_plain(turn) for turn in _prompt_of(sample)]
        key = digest(messages)
        repeated += key in prompts
        prompts.setdefault(key, messages)
        if len(prompts) == count:
            break
    if not prompts:
        raise ConfigError("there are no prompts: name files of training data as prompts")
    return prompts, repeated


def _prompt_of(sample: Sample) -> Sequence[Mapping[str, Any]]:
    if isinstance(sample, Text | Tokens):
        raise DataError(f"{sample.place}: a text without turns has no prompt to answer")
    turns = sample.messages if isinstance(sample, Dialogue) else sample.prompt
    if isinstance(turns, str):
        turns = ({"role": "user", "content": turns},)
    while turns and turns[-1]["role"] == "assistant":
        turns = turns[:-1]
    if not turns:
        raise DataError(f"{sample.place}: there is nothing before the answer")
    return turns


def _plain(turn: Mapping[str, Any]) -> dict[str, Any]:
    """A turn that UTF-8 can hold: halves of characters, which JSON can spell, become question marks."""
    made: dict[str, Any] = json.loads(json.dumps(dict(turn), ensure_ascii=False).encode("utf-8", "replace"))
    return made


def constitution(
    recipe: ConstitutionRecipe,
    folder: str | Path,
    *,
    engine: Engine | None = None,
    judge: Judge | None = None,
    quiet: bool = False,
) -> Report:
    """Take every prompt of the recipe through the loop, and write what is to be trained on into `folder`.

    `records.jsonl` grows step by step; `sft.jsonl` (messages that end in the revision) and `pairs.jsonl` (prompt,
    chosen, rejected, and what the judge said) are written at the end. `engine` and `judge` stand in for those that the
    recipe names. Raises ConfigError for a folder with the records of another constitution, and what reading the
    prompts, loading the models and asking the judge raise.
    """
    home = Path(folder)
    prompts, repeated = read_prompts(recipe.prompts, recipe.count)
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(home / RECORDS, _about(recipe, engine, judge)))
        (home / RECIPE).write_text(to_toml(recipe), encoding="utf-8")
        loop = Loop(recipe, prompts, journal)
        if loop.pending():
            if engine is None:
                engine = stack.enter_context(Engine(recipe.model))
            if judge is None:
                judge = _open_judge(recipe, engine, stack)
            with progress("constitution", len(prompts), quiet=quiet) as advance:
                loop.run(engine, judge, advance)
        return loop.write(home, repeated)


def _about(recipe: ConstitutionRecipe, engine: Engine | None, judge: Judge | None) -> dict[str, Any]:
    """The first line of the records: all that decides them."""
    about: dict[str, Any] = {"records": "constitution", "recipe": recipe.decisive(), "versions": installed_versions()}
    about["constitution"] = digest(about["recipe"]["principles"])
    about["model"] = recipe.model if engine is None else type(engine.model).__name__
    if engine is None:
        about["model_sha256"] = _weights(recipe.model)
    named = recipe.judge
    if judge is not None:
        about["judge"] = type(judge).__name__
    elif named.kind == "model" and named.model:
        about["judge_sha256"] = _weights(named.model)
    elif named.kind == "rule" and named.rule.endswith(".toml") and Path(named.rule).exists():
        about["judge_sha256"] = sha256(Path(named.rule))
    return about


def _weights(ref: str) -> str:
    """A digest of a model's files: the .gguf, or the weights, configuration and tokenizer of a folder."""
    path = pull(ref)
    if path.is_file():
        return sha256(path)
    files = sorted(file for file in path.iterdir() if file.suffix in (".safetensors", ".json", ".jinja"))
    return hashlib.sha256("".join(f"{file.name} {sha256(file)}\n" for file in files).encode()).hexdigest()


def _open_judge(recipe: ConstitutionRecipe, engine: Engine, stack: ExitStack) -> Judge:
    named = recipe.judge
    labels = (named.labels[0], named.labels[1])
    if named.kind == "rule":
        return RuleJudge(read_reward(named.rule))
    if named.kind == "endpoint":
        return EndpointJudge(named.url, named.model, labels, key=named.key, timeout=named.timeout, tries=named.tries)
    return ModelJudge(stack.enter_context(Engine(named.model)) if named.model else engine, labels)


class Loop:
    """Prompts on their way through the steps, some dozens together, so that the engine always has many to answer."""

    def __init__(
        self, recipe: ConstitutionRecipe, prompts: Mapping[str, Sequence[Mapping[str, Any]]], journal: Journal
    ) -> None:
        self.recipe, self.prompts, self._journal = recipe, prompts, journal
        self._said: dict[str, dict[tuple[str, int], Mapping[str, Any]]] = {key: {} for key in prompts}
        for record in journal.records:
            if record["prompt"] in self._said:
                self._said[record["prompt"]][record["stage"], record["round"]] = record

    def said(self, key: str) -> Said:
        return self._said[key]

    def pending(self) -> bool:
        """Whether any prompt has a step before it."""
        return not all(map(self._ended, self.prompts))

    def _ended(self, key: str) -> bool:
        said = self._said[key]
        return ("verdict", 0) in said or any(record.get("failure") for record in said.values())

    def run(self, engine: Engine, judge: Judge, advance: Advance) -> None:
        """All steps that are not recorded yet."""
        recipe = self.recipe
        for chunk in chunks(self.prompts, _CHUNK):
            self._ask(engine, "response", 0, chunk, lambda key: (list(self.prompts[key]), None))
            if recipe.compare == "samples":
                self._ask(engine, "response", 1, chunk, lambda key: (list(self.prompts[key]), None))
            else:
                for turn in range(recipe.revisions):
                    self._ask(engine, "critique", turn, chunk, self._critique(turn))
                    self._ask(engine, "revision", turn, chunk, self._revision(turn))
            self._judge(judge, [key for key in chunk if not self._ended(key)])
            advance(len(chunk))

    def _ask(
        self,
        engine: Engine,
        stage: str,
        turn: int,
        keys: Sequence[str],
        make: Callable[[str], tuple[list[Mapping[str, Any]], Principle | None]],
    ) -> None:
        """One step of many prompts; each answer is recorded as it comes."""
        recipe, tokenizer = self.recipe, engine.model.tokenizer
        if tokenizer is None:
            raise ConfigError("a model without a tokenizer cannot read principles")
        asked: list[tuple[str, list[Mapping[str, Any]], Principle | None, Sampling]] = []
        for key in keys:
            if self._ended(key) or (stage, turn) in self._said[key]:
                continue
            messages, principle = make(key)
            length = len(render(tokenizer, messages, add_generation_prompt=True).ids)
            if length + recipe.max_tokens > engine.model.context_length:
                failure = f"{length} tokens and {recipe.max_tokens} for the answer do not fit the model's context"
                self._record(key, stage, turn, failure=failure)
                continue
            sampling = Sampling(
                temperature=recipe.temperature,
                top_p=recipe.top_p,
                max_tokens=recipe.max_tokens,
                seed=_seed(recipe.seed, key, stage, turn),
            )
            asked.append((key, messages, principle, sampling))
        answers = answer_all(engine, ((messages, sampling) for _, messages, _, sampling in asked))
        for (key, messages, principle, sampling), piece in zip(asked, answers, strict=True):
            told: dict[str, Any] = {"messages": messages} if stage == "response" else {}
            if principle is not None:
                told |= {"principle": principle.name, "request": messages[-1]["content"]}
            self._record(
                key,
                stage,
                turn,
                **told,
                text=piece.text.strip(),
                finish_reason=piece.finish_reason,
                tokens=len(piece.ids),
                logprob=sum(piece.logprobs),
                seed=sampling.seed,
            )

    def _record(self, key: str, stage: str, turn: int, **told: Any) -> None:
        self._said[key][stage, turn] = self._journal.append({"prompt": key, "stage": stage, "round": turn, **told})

    def _principle(self, key: str, stage: str, turn: int) -> Principle:
        """Drawn at random, the same whenever it is asked for."""
        return random.Random(_seed(self.recipe.seed, key, f"{stage} principle", turn)).choice(self.recipe.principles)

    def _before(self, key: str, turn: int) -> str:
        """The answer that a round begins with."""
        said = self._said[key]
        return str((said["response", 0] if turn == 0 else said["revision", turn - 1])["text"])

    def _critique(self, turn: int) -> Callable[[str], tuple[list[Mapping[str, Any]], Principle]]:
        def make(key: str) -> tuple[list[Mapping[str, Any]], Principle]:
            principle = self._principle(key, "critique", turn)
            answer = {"role": "assistant", "content": self._before(key, turn)}
            return [*self.prompts[key], answer, {"role": "user", "content": principle.critique}], principle

        return make

    def _revision(self, turn: int) -> Callable[[str], tuple[list[Mapping[str, Any]], Principle]]:
        def make(key: str) -> tuple[list[Mapping[str, Any]], Principle]:
            messages, principle = self._critique(turn)(key)
            critique = {"role": "assistant", "content": self._said[key]["critique", turn]["text"]}
            return [*messages, critique, {"role": "user", "content": principle.revision}], principle

        return make

    def sides(self, key: str) -> tuple[str, str]:
        """The two answers that are compared: the first, and the last revision or the other sample."""
        other = ("response", 1) if self.recipe.compare == "samples" else ("revision", self.recipe.revisions - 1)
        return str(self._said[key]["response", 0]["text"]), str(self._said[key][other]["text"])

    def _judge(self, judge: Judge, keys: Sequence[str]) -> None:
        drawn = [self._principle(key, "verdict", 0) for key in keys]
        comparisons = (
            Comparison(self.prompts[key], principle.question, *self.sides(key)) for key, principle in zip(keys, drawn)
        )
        second = "sample 1" if self.recipe.compare == "samples" else "revision"
        for key, principle, verdict in zip(keys, drawn, judge(comparisons), strict=True):
            told: dict[str, Any] = {"principle": principle.name, "question": principle.question}
            if verdict.orders is None:
                self._record(key, "verdict", 0, **told, failure=verdict.failure)
                continue
            choice = "response" if verdict.margin > 0 else second if verdict.margin < 0 else "neither"
            self._record(key, "verdict", 0, **told, logprobs=verdict.orders, margin=verdict.margin, choice=choice)

    # --- what came of it ----------------------------------------------------------------------------------------------

    def write(self, home: Path, repeated: int) -> Report:
        """Write the rows to train on, and count."""
        recipe = self.recipe
        left_out = {*recipe.leave_out, *_NEVER}
        faults: Counter[Fault] = Counter()
        verdicts: list[Verdict] = []
        wins: Counter[str] = Counter()
        asked: Counter[str] = Counter()
        sft, pairs = [], []
        for key, messages in self.prompts.items():
            said = self._said[key]
            found = faults_of(recipe, messages, said)
            faults.update(found)
            if (verdict := verdict_of(said)) is not None and verdict.orders is not None:
                verdicts.append(verdict)
                asked[said["verdict", 0]["principle"]] += 1
                wins[said["verdict", 0]["principle"]] += verdict.margin < 0
            revision = said.get(("revision", recipe.revisions - 1))
            # What the judge could not choose between can still be imitated.
            if revision is not None and not (left_out - {"unjudged", "flipped"}) & found:
                named = [said["critique", turn]["principle"] for turn in range(recipe.revisions)]
                answer = {"role": "assistant", "content": revision["text"]}
                sft.append({"messages": [*messages, answer], "principles": named, "record": key})
            if verdict is not None and not left_out & found:
                pairs.append(_pair(messages, self.sides(key), verdict, said, key))
        for name, rows in ((SFT, sft), (PAIRS, pairs)):
            with atomic_file(home / name) as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        return Report(
            prompts=len(self.prompts),
            repeated=repeated,
            faults=faults,
            judged=len(verdicts),
            revised_wins=sum(verdict.margin < 0 for verdict in verdicts),
            bias=position_bias(verdicts),
            by_principle={name: (wins[name], asked[name]) for name in sorted(asked)},
            sft=len(sft),
            pairs=len(pairs),
        )


def _pair(messages: Messages, sides: tuple[str, str], verdict: Verdict, said: Said, key: str) -> dict[str, Any]:
    turns = [[{"role": "assistant", "content": text}] for text in sides]
    chosen, rejected = turns if verdict.margin > 0 else turns[::-1]
    judge = {"log_odds": abs(verdict.margin), "bias": verdict.bias, "principle": said["verdict", 0]["principle"]}
    return {"prompt": list(messages), "chosen": chosen, "rejected": rejected, "judge": judge, "record": key}


def verdict_of(said: Said) -> Verdict | None:
    """The recorded verdict; None where there is none."""
    record = said.get(("verdict", 0))
    if record is None:
        return None
    if "logprobs" not in record:
        return Verdict(None, record["failure"])
    (a, b), (c, d) = record["logprobs"]
    return Verdict(((a, b), (c, d)))


def faults_of(recipe: ConstitutionRecipe, messages: Messages, said: Said) -> set[Fault]:
    """What is wrong with what came of a prompt.

    - `too long`: a step did not fit the model's context, and those after it were not taken.
    - `empty`: an answer, a critique or a revision has no words.
    - `cut`: one of the two answers that are compared was cut at `max_tokens`.
    - `echo`: four fifths (of runs of four words) of a critique stand in the prompt, the answer or the request, or of a
      revision in its critique.
    - `unchanged`: both answers say the same, up to case and punctuation.
    - `unjudged`: there is no verdict, or the judge finds both alike.
    - `flipped`: the order in which the judge saw them decided.
    """
    found: set[Fault] = set()
    texts = [record for (stage, _), record in said.items() if stage != "verdict"]
    if any(record.get("failure") for record in texts) or not texts:
        return {"too long"}
    last = ("response", 1) if recipe.compare == "samples" else ("revision", recipe.revisions - 1)
    sides = [record for record in (said.get(("response", 0)), said.get(last)) if record is not None]
    if any(not _words_of(record["text"]) for record in texts):
        found.add("empty")
    if any(record["finish_reason"] == "length" for record in sides):
        found.add("cut")
    if len(sides) == 2 and _words_of(sides[0]["text"]) == _words_of(sides[1]["text"]):
        found.add("unchanged")
    prompt = "\n".join(str(turn.get("content", "")) for turn in messages)
    for (stage, turn), record in said.items():
        if stage == "critique":
            answer = said["response", 0] if turn == 0 else said["revision", turn - 1]
            if _echoes(record["text"], f"{prompt}\n{answer['text']}\n{record['request']}"):
                found.add("echo")
        elif stage == "revision" and _echoes(record["text"], said["critique", turn]["text"]):
            found.add("echo")
    verdict = verdict_of(said)
    if verdict is None or verdict.orders is None or verdict.margin == 0:
        found.add("unjudged")
    elif verdict.flips:
        found.add("flipped")
    return found


def _words_of(text: str) -> bytes:
    return word_hashes(text).tobytes()


def _echoes(text: str, before: str) -> bool:
    """Whether most of a text was said before."""
    words = word_hashes(text)
    size = min(_WORDS, len(words))
    if not size:
        return False
    earlier = set(ngram_hashes(word_hashes(before), size).tolist())
    runs = ngram_hashes(words, size).tolist()
    return sum(run in earlier for run in runs) >= _ECHO * len(runs)


def _seed(seed: int, *parts: object) -> int:
    """A seed of its own for every step of every prompt."""
    return int.from_bytes(hashlib.sha256(f"{seed} {parts}".encode()).digest()[:6])
