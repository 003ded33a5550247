"""Rollouts: a stream of batches that the model makes itself, by answering prompts and being told how good that was.

A generation batch is sampled by the engine with the model as it is, scored, and learned from for some epochs, each in
some optimiser steps; then comes the next. Each rank answers its part of the prompts. After that all ranks hold the
whole generation batch, so that what is of the whole (whitening, normalisers, order) is the same on each, on one as on
many, and so that a run can be gone on with, in the midst of it, on any number.

    prompts -> sample -> old, reference log-probs, values -> rewards -> advantages -> epochs x steps x micro-batches

Shapes: S answers, T tokens of the longest, P prompts, G answers to each.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from modelworks.adapt import lora
from modelworks.core.errors import ConfigError, TrainingError
from modelworks.core.log import warn_once
from modelworks.data.batch import Batch
from modelworks.data.branches import Branches, branch_batch
from modelworks.data.prompts import Prompts
from modelworks.data.sample import Turns
from modelworks.data.shuffle import permuted, uniform
from modelworks.engine.generate import Completion, complete
from modelworks.engine.sample import Sampling
from modelworks.models.base import LanguageModel
from modelworks.models.heads import ActorCritic
from modelworks.objectives.advantage import next_coefficient
from modelworks.objectives.policy import NOTE, score
from modelworks.parallel.ranks import gather_from_ranks, rank, world_size
from modelworks.train.answers import Answer, RolloutRecipe, credit, packed, unpacked
from modelworks.train.loop import autocast
from modelworks.train.rewards import Answered, NamedReward, Scored, score_answers

_KINDS = 100

Sampler = Callable[[LanguageModel, Sequence[tuple[Sequence[int], Sampling]]], list[Completion]]
"""Answers prompts, given as ids, each with a sampling of its own, in their order."""
Reference = Callable[[], AbstractContextManager[nn.Module]]
"""Within it there is the policy that is not to be left."""


def frozen_copy(model: nn.Module) -> Reference:
    """The model as it is now, held beside the one that learns."""
    copied = deepcopy(model.language_model if isinstance(model, ActorCritic) else model)
    copied.requires_grad_(False).eval()
    return lambda: nullcontext(copied)


def without_adapters(model: nn.Module) -> Reference:
    """The model that adapters are on, so that no second one stands in memory."""

    @contextmanager
    def reference() -> Iterator[nn.Module]:
        with lora.disabled(model):
            yield model

    return reference


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What an audit gets to see of a generation batch, before it is learned from. Failed samples are not in it."""

    number: int
    """From 0."""
    step: int
    """Optimiser steps that were taken before."""
    prompts: tuple[Turns, ...]
    """Of each answer."""
    answers: tuple[str, ...]
    lengths: tuple[int, ...]
    """In tokens."""
    cut: tuple[bool, ...]
    """Whether it was cut at max_tokens."""
    rewards: tuple[float, ...]
    """The proxy: what is learned from, before penalties."""
    parts: Mapping[str, tuple[float, ...]]
    gold: tuple[float, ...] | None
    kls: tuple[float, ...] | None
    """Of each answer, its log-ratio to the reference; their mean estimates the divergence."""
    kl_coefficient: float
    failures: Mapping[str, int]
    """What went wrong with rewards, how often; such samples are left out."""
    equal_groups: int
    """Prompts whose answers all got the same reward."""

    @property
    def reward(self) -> float:
        return sum(self.rewards) / len(self.rewards)

    @property
    def kl(self) -> float | None:
        return None if self.kls is None else sum(self.kls) / len(self.kls)


Watch = Callable[[Generation], str | None]
"""Is shown every generation batch; a text is the reason to end the run."""


class Rollouts:
    """A `BatchStream` without end for `objectives.policy`; `why_ended` says why a `watch` ended it.

    `accumulate` is the recipe's: a generation batch comes in epochs x minibatches x accumulate batches. With a
    `reference`, its log-probabilities are in the batches and `kl` may be above 0. The model is an `ActorCritic` for
    `advantage` "gae". Raises ConfigError for parts that do not go together.

    The old log-probabilities are those that the engine recorded where it sampled. Where that is another distribution
    than the one that learns (a temperature, bfloat16), or a critic is asked anyway, the model scores its answers anew,
    as it does in training, so that a first ratio is 1.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompts: Prompts,
        rewards: Sequence[NamedReward],
        recipe: RolloutRecipe,
        *,
        reference: Reference | None = None,
        accumulate: int = 1,
        seed: int = 0,
        precision: Literal["fp32", "bf16"] = "fp32",
        watch: Watch = lambda generation: None,
        sampler: Sampler | None = None,
    ) -> None:
        if (recipe.advantage == "gae") != isinstance(model, ActorCritic):
            raise ConfigError("advantage gae needs an ActorCritic, and the others need none")
        if recipe.kl and reference is None:
            raise ConfigError("kl is above 0, and there is no reference to diverge from")
        if not any(not each.gold for each in rewards):
            raise ConfigError("rewards: there is none to learn from")
        if sum(each.gold for each in rewards) > 1 or len({each.name for each in rewards}) < len(rewards):
            raise ConfigError("rewards: names must differ, and at most one is gold")
        self.model, self.prompts, self.rewards, self.recipe = model, prompts, list(rewards), recipe
        self.watch = watch
        self.why_ended: str | None = None
        self.failures: Counter[str] = Counter()
        """What went wrong with rewards, how often, in the whole run."""
        self._reference, self._accumulate, self._seed, self._precision = reference, accumulate, seed, precision
        self._sampler = sampler or self._sample_here
        self._generations, self._coefficient = 0, recipe.kl
        self._rows: list[Branches] | None = None
        self._at = 0  # micro-batches of the present generation batch that are through

    # --- the stream ---------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the present place on, until a watch ends it; the model is sampled when a batch is asked for."""
        while True:
            if self._rows is None or self._at == self.recipe.steps * self._accumulate:
                self._rows, self._at = self._generate(), 0
                if self.why_ended is not None:
                    return
            batch = self._batch(self._rows, self._at)
            self._at += 1
            yield batch

    def _batch(self, rows: list[Branches], at: int) -> Batch:
        """Micro-batch `at` of a generation batch, this rank's part of it."""
        recipe, ranks = self.recipe, world_size()
        step, micro = divmod(at, self._accumulate)
        epoch, minibatch = divmod(step, recipe.minibatches)
        order = permuted(np.arange(len(rows)), len(rows), self._seed, self._generations, epoch)
        part = np.array_split(order, recipe.minibatches)[minibatch]
        mine = np.array_split(part, self._accumulate * ranks)[micro * ranks + rank()]
        batch = branch_batch([rows[index] for index in mine], pad_id=self.prompts.pad_id)
        # A batch without rows has the names of the others all the same.
        for name in rows[0].completions[0].tokens:
            batch.setdefault(name, torch.zeros_like(batch["weights"]))
        for name in rows[0].columns:
            batch.setdefault(name, torch.zeros(0))
        return batch

    def state(self) -> dict[str, Any]:
        """The place in the prompts, the price of divergence, and the present generation batch with its tensors."""
        rows = None if self._rows is None else [packed(row) for row in self._rows]
        return {
            **self._identity(),
            "generations": self._generations,
            "steps": self._at // self._accumulate,
            "coefficient": self._coefficient,
            "failures": dict(self.failures),
            "rows": rows,
        }

    def restore(self, state: dict[str, Any]) -> None:
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise ConfigError(
                    f"the saved rollouts are of other {name}: {state.get(name)!r}, not {value!r}; resume with what the "
                    "run was started with"
                )
        self._generations, self._coefficient = state["generations"], state["coefficient"]
        self._at = state["steps"] * self._accumulate
        self.failures = Counter(state["failures"])
        self._rows = None if state["rows"] is None else [unpacked(row) for row in state["rows"]]
        self.why_ended = None

    def _identity(self) -> dict[str, Any]:
        return {
            "prompts": self.prompts.digest,
            "seed": [self._seed, self.prompts.seed],
            "rewards": [f"{each.name} {each.weight} {each.gold}" for each in self.rewards],
        }

    # --- a generation batch -------------------------------------------------------------------------------------------

    def _generate(self) -> list[Branches]:
        recipe, number = self.recipe, self._generations
        asked = self.prompts.order(number * recipe.prompts, recipe.prompts)
        mine = [(place, asked[place]) for place in np.array_split(np.arange(recipe.prompts), world_size())[rank()]]
        groups = self._sampled(mine)
        self._score(groups)
        failures = self._reward([answer for group in groups for answer in group])
        # From here on every rank knows all.
        found = gather_from_ranks((groups, failures))
        groups = [group for theirs, _ in found for group in theirs]
        failures = sum((theirs for _, theirs in found), Counter())
        for failure, count in failures.items():
            # Messages may each be another; a run counts so many apart.
            kind = failure if failure in self.failures or len(self.failures) < _KINDS else "others"
            self.failures[kind] += count
            if rank() == 0 and kind == failure:
                warn_once(f"a reward fails, and samples are left out: {failure}")
        groups = [kept for group in groups if (kept := [each for each in group if math.isfinite(each.reward)])]
        if not groups:
            why = ", ".join(f"{failure} ({count} times)" for failure, count in failures.items())
            raise TrainingError(f"no answer of generation {number} got a reward: {why}")
        answers = [answer for group in groups for answer in group]
        equal = [len({answer.reward for answer in group}) == 1 for group in groups]
        generation = self._told(answers, failures, sum(equal) if recipe.samples > 1 else 0)
        credit(groups, recipe, self._coefficient)
        rows = self._rows_of(groups, equal)
        if generation.kl is not None and recipe.kl_target:
            self._coefficient = next_coefficient(
                self._coefficient, generation.kl, target=recipe.kl_target, rate=recipe.kl_rate
            )
        self._generations += 1
        self.why_ended = gather_from_ranks(self.watch(generation) if rank() == 0 else None)[0]
        return rows

    def _sampled(self, asked: Sequence[tuple[int, int]]) -> list[list[Answer]]:
        """The answers to questions, each given with its place in the generation batch."""
        recipe = self.recipe
        requests = [
            (self.prompts[question].ids.tolist(), self._sampling(place, sample))
            for place, question in asked
            for sample in range(recipe.samples)
        ]
        if world_size() > 1:
            # What the first pass of all leaves behind must be no tensors of inference mode, which sampling is in.
            with torch.no_grad():
                self.model(torch.zeros((1, 1), dtype=torch.long, device=_device(self.model)))
        said = iter(self._sampler(self.model, requests))
        has_text = self.model.tokenizer is not None
        return [[_answer(question, next(said), has_text) for _ in range(recipe.samples)] for _, question in asked]

    def _sampling(self, place: int, sample: int) -> Sampling:
        recipe = self.recipe
        seed = int(uniform(self._seed, self._generations, int(place), sample) * 2**53)
        return Sampling(temperature=recipe.temperature, max_tokens=recipe.max_tokens, stop=recipe.stop, seed=seed)

    def _sample_here(
        self, model: LanguageModel, requests: Sequence[tuple[Sequence[int], Sampling]]
    ) -> list[Completion]:
        if not requests:
            return []
        prompts, samplings = zip(*requests)
        return complete(model, prompts, samplings, batch_size=self.recipe.sample_batch)

    @torch.no_grad()
    def _score(self, groups: Sequence[Sequence[Answer]]) -> None:
        """Add what the model and the reference say of the answers, token by token."""
        asks_model = self.recipe.temperature != 1 or self._precision != "fp32" or isinstance(self.model, ActorCritic)
        size = self.recipe.score_batch
        for start in range(0, len(groups), size):
            part = groups[start : start + size]
            rows = [Branches(self._ids(group), [answer.branch() for answer in group]) for group in part]
            batch = branch_batch(rows, pad_id=self.prompts.pad_id)
            answers = [answer for group in part for answer in group]
            if asks_model:
                logprobs_N, values_N = self._asked(self.model, batch)
                if self.recipe.temperature == 1:
                    for answer, scored in zip(answers, _apart(logprobs_N, batch), strict=True):
                        answer.sampler_gap = float(np.abs(scored - answer.tokens["old_logprobs"]).max())
                _add(answers, "old_logprobs", logprobs_N, batch)
                if values_N is not None:
                    _add(answers, "old_values", values_N, batch)
            if self._reference is not None:
                with self._reference() as reference:
                    _add(answers, "reference_logprobs", self._asked(reference, batch)[0], batch)

    def _asked(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor | None]:
        device = _device(model)
        moved = {name: tensor.to(device) for name, tensor in batch.items()}
        with autocast(device, self._precision):
            found = score(model, moved, temperature=self.recipe.temperature)
        return found.logprobs_N, found.values_N

    def _reward(self, answers: Sequence[Answer]) -> Counter[str]:
        if not answers:
            return Counter()
        questions = [self.prompts[answer.question] for answer in answers]
        asked = [Answered(each.prompt, answer.text, each.extra) for each, answer in zip(questions, answers)]
        found: Scored = score_answers(self.rewards, asked, fatal=self.recipe.fatal)
        for at, answer in enumerate(answers):
            answer.reward = found.totals[at]
            answer.parts = {name: values[at] for name, values in found.parts.items()}
            answer.gold = None if found.gold is None else found.gold[at]
        return found.failures

    def _told(self, answers: Sequence[Answer], failures: Counter[str], equal_groups: int) -> Generation:
        has_reference = self._reference is not None
        has_gold = any(each.gold for each in self.rewards)
        return Generation(
            number=self._generations,
            step=self._generations * self.recipe.steps,
            prompts=tuple(self.prompts[answer.question].prompt for answer in answers),
            answers=tuple(answer.text for answer in answers),
            lengths=tuple(len(answer.ids) for answer in answers),
            cut=tuple(answer.is_cut for answer in answers),
            rewards=tuple(answer.reward for answer in answers),
            parts={each.name: tuple(answer.parts[each.name] for answer in answers) for each in self.rewards},
            gold=tuple(math.nan if answer.gold is None else answer.gold for answer in answers) if has_gold else None,
            kls=tuple(answer.kl for answer in answers) if has_reference else None,
            kl_coefficient=self._coefficient,
            failures=dict(failures),
            equal_groups=equal_groups,
        )

    def _rows_of(self, groups: Sequence[Sequence[Answer]], equal: Sequence[bool]) -> list[Branches]:
        """Rows with normalisers, and what is to be reported of each answer."""
        answers = [answer for group in groups for answer in group]
        known: dict[str, list[float]] = {
            "normalizers": [sum(len(answer.ids) for answer in answers) / len(answers)] * len(answers),
            f"{NOTE}reward": [answer.reward for answer in answers],
            f"{NOTE}length": [len(answer.ids) for answer in answers],
            f"{NOTE}cut": [answer.is_cut for answer in answers],
            f"{NOTE}failed": [1 - len(answers) / (self.recipe.prompts * self.recipe.samples)] * len(answers),
        }
        if self.recipe.samples > 1:
            known[f"{NOTE}equal"] = [is_equal for is_equal, group in zip(equal, groups) for _ in group]
        if self._reference is not None:
            known[f"{NOTE}answer_kl"] = [answer.kl for answer in answers]
        if self.recipe.kl_target:
            known[f"{NOTE}kl_coefficient"] = [self._coefficient] * len(answers)
        if self.recipe.advantage == "gae":
            returns = np.concatenate([answer.tokens["returns"] for answer in answers])
            known["mean_returns"] = [float(returns.mean())] * len(answers)
        if (gaps := [answer.sampler_gap for answer in answers])[0] is not None:
            known[f"{NOTE}sampler_gap"] = [gap for gap in gaps if gap is not None]
        for each in self.rewards if len(self.rewards) > 1 else ():
            values = np.array([answer.parts[each.name] for answer in answers])
            if not np.isnan(values).all():  # the gold reward alone may have failed for an answer that is there
                known[f"{NOTE}reward/{each.name}"] = np.where(np.isnan(values), np.nanmean(values), values).tolist()
        rows, at = [], 0
        for group in groups:
            part = slice(at, at := at + len(group))
            columns = {name: np.array(values[part], np.float32) for name, values in known.items()}
            rows.append(Branches(self._ids(group), [answer.branch() for answer in group], columns))
        return rows

    def _ids(self, group: Sequence[Answer]) -> NDArray[np.int64]:
        return self.prompts[group[0].question].ids


def _answer(question: int, said: Completion, has_text: bool) -> Answer:
    return Answer(
        question=question,
        # Of a model without a tokenizer, its ids.
        text=said.text if has_text else " ".join(map(str, said.ids)),
        ids=np.array(said.ids, np.int64),
        is_cut=said.finish_reason != "stop",
        tokens={"old_logprobs": np.array(said.logprobs, np.float32)},
    )


def _apart(values_N: Tensor, batch: Batch) -> list[NDArray[np.float32]]:
    """Each completion's values."""
    sequences_N = batch["sequences"].flatten()
    inside_N = sequences_N >= 0
    sizes = torch.bincount(sequences_N[inside_N]).tolist()
    return [part.numpy() for part in values_N.float().cpu()[inside_N].split(sizes)]


def _add(answers: Sequence[Answer], name: str, values_N: Tensor, batch: Batch) -> None:
    for answer, values in zip(answers, _apart(values_N, batch), strict=True):
        answer.tokens[name] = values.copy()


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
