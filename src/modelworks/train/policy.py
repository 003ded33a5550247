"""Runs of kind `ppo` and `grpo`: a language model answers prompts, and learns from rewards for its answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from modelworks.adapt import lora
from modelworks.adapt.lora import LoraConfig
from modelworks.core.errors import ConfigError
from modelworks.data.prompts import Prompts, read_prompts
from modelworks.data.tokenize import Options
from modelworks.engine.generate import complete
from modelworks.engine.sample import Sampling
from modelworks.models.base import LanguageModel
from modelworks.models.heads import VALUE_HEAD, ActorCritic, load_value_head
from modelworks.objectives.policy import Estimator, Policy, RatioOf, Reduction
from modelworks.parallel.ranks import gather_from_ranks, rank, world_size
from modelworks.train.answers import RolloutRecipe
from modelworks.train.language import ModelRecipe
from modelworks.train.rewards import Answered, NamedReward, RewardRecipe, score_answers
from modelworks.train.rollout import Rollouts, frozen_copy, without_adapters
from modelworks.train.run import Job, RunRecipe
from modelworks.train.samplers import OnRay


@dataclass(frozen=True, kw_only=True)
class PromptsRecipe:
    """Which prompts are answered."""

    train: tuple[str, ...] = ()
    "Files, or folders of files, of any format that has prompts."
    held_out: str | None = None
    "Such a file or folder, whose prompts are answered at each evaluation, without chance."
    held_out_count: int = 64
    "At most so many of them."
    max_length: int | None = None
    "The longest prompt in tokens; a longer one is left out. What the answer leaves of the context where not given."
    columns: dict[str, str] = field(default_factory=dict)
    'Other names of columns: {"question" = "prompt", "answer" = "completion"}.'
    as_chat: bool = False
    "Prompts that are texts become turns of a user, by the model's chat template."
    epochs: int | None = None
    "How often all prompts are asked; until the run's `steps` where not given."
    skip_broken: bool = False
    "Pass over rows that are broken or have no prompt."
    strict: bool = False
    "A prompt that would be left out is an error."


@dataclass(frozen=True, kw_only=True)
class LossRecipe:
    """What `objectives.policy` says of each."""

    ratio: RatioOf = "token"
    reduction: Reduction = "dapo"
    clip: float = 0.2
    clip_high: float | None = None
    kl: float = 0.0
    "Of the divergence from the reference, in the loss; `rollout.kl` is for one in the rewards."
    kl_estimator: Estimator = "k3"
    kl_weighted: bool = True
    vf: float = 0.0
    value_clip: float = 0.2


@dataclass(frozen=True, kw_only=True)
class OnPolicyRecipe(RunRecipe):
    """What `ppo` and `grpo` share. A step needs `rollout.prompts / rollout.minibatches` prompts, over all ranks, which
    `accumulate` splits into micro-batches.
    """

    model: ModelRecipe = field(default_factory=ModelRecipe)
    lora: LoraConfig | None = None
    "Train an adapter; the model without it is the reference, so that one model stands in memory."
    prompts: PromptsRecipe = field(default_factory=PromptsRecipe)
    rollout: RolloutRecipe = field(default_factory=RolloutRecipe)
    rewards: dict[str, RewardRecipe] = field(default_factory=dict)
    loss: LossRecipe = field(default_factory=LossRecipe)
    track_kl: bool = False
    "Hold a reference only to report the divergence from it."

    def prepare(self) -> Job:
        if not self.rewards:
            raise ConfigError("rewards: missing; name one, such as [rewards.number]")
        if not self.prompts.train:
            raise ConfigError('prompts.train: missing; name files of prompts, such as train = ["prompts.jsonl"]')
        if self.parallel != "ddp" and world_size() > 1:
            raise ConfigError("parallel: ranks sample answers of different lengths, each with the whole model; set ddp")
        rewards = [recipe.build(name) for name, recipe in self.rewards.items()]
        model = self.build()
        prompts, data = self._read(list(self.prompts.train), model, self.seed)
        reference = None
        if self.lora is not None:
            reference = without_adapters(model)
        elif self.rollout.kl or self.loss.kl or self.track_kl:
            reference = frozen_copy(model)
        loss, workers = vars(self.loss), self.rollout.workers
        rollouts = Rollouts(
            model,
            prompts,
            rewards,
            self.rollout,
            reference=reference,
            accumulate=self.accumulate,
            seed=self.seed,
            precision=self.precision,
            sampler=OnRay(model, workers, batch_size=self.rollout.sample_batch) if workers else None,
        )
        held_out = None if self.prompts.held_out is None else self._read(self.prompts.held_out, model, None)[0]
        steps = None
        if self.prompts.epochs is not None:
            generations = math.ceil(self.prompts.epochs * len(prompts) / self.rollout.prompts)
            steps = generations * self.rollout.steps
        return Job(
            model=model,
            batches=rollouts,
            objective=Policy(**loss, temperature=self.rollout.temperature, max_tokens=self.rollout.max_tokens),
            steps=steps,
            evaluate=None if held_out is None else _HeldOut(self, held_out, rewards),
            seq_len=self._longest(model) + self.rollout.max_tokens,
            data=data,
            parents=() if self.model.ref is None else (self.model.ref,),
        )

    def build(self) -> LanguageModel:
        """The model as it is trained, with a critic where there is one."""
        model = self.model.build()
        if self.lora is not None:
            if world_size() > 1:
                raise ConfigError("lora: an adapter is trained in one process; start it without torchrun")
            if self.model.ref is None:
                raise ConfigError("model.ref: missing; an adapter is trained on a model that there is")
            lora.apply(model, self.lora)
        if self.rollout.advantage != "gae":
            return model
        critic = ActorCritic(model)
        if model.source is not None and (model.source / VALUE_HEAD).exists():
            load_value_head(critic, model.source)
        return critic

    def _longest(self, model: LanguageModel) -> int:
        left = model.context_length - self.rollout.max_tokens
        longest = left if self.prompts.max_length is None else self.prompts.max_length
        if not 0 < longest <= left:
            raise ConfigError(
                f"prompts.max_length is {longest} and rollout.max_tokens {self.rollout.max_tokens}; for both the "
                f"model's context has {model.context_length}"
            )
        return longest

    def _read(self, paths: Any, model: LanguageModel, seed: int | None) -> tuple[Prompts, Mapping[str, str]]:
        if model.tokenizer is None:
            raise ConfigError(f"model.ref: {self.model.ref} has no tokenizer")
        options = Options(
            max_length=self._longest(model),
            columns=self.prompts.columns,
            as_chat=self.prompts.as_chat,
            skip_broken=self.prompts.skip_broken,
        )
        prompts, _ = read_prompts(paths, model.tokenizer, options, seed=seed, strict=self.prompts.strict)
        return prompts, {", ".join([paths] if isinstance(paths, str) else paths): prompts.digest}


@dataclass(frozen=True, kw_only=True)
class GRPORecipe(OnPolicyRecipe):
    """Answers are held against the prompt's other answers. Dr. GRPO, GSPO, DAPO and RLOO are settings, see the docs."""

    kind: Literal["grpo"]


@dataclass(frozen=True, kw_only=True)
class CriticRolloutRecipe(RolloutRecipe):
    """PPO's defaults."""

    prompts: int = 32
    samples: int = 1
    epochs: int = 4
    advantage: Literal["gae", "group", "group_mean", "rloo"] = "gae"
    whiten_advantages: bool = True
    kl: float = 0.05


@dataclass(frozen=True, kw_only=True)
class CriticLossRecipe(LossRecipe):
    """PPO's defaults."""

    reduction: Reduction = "bnpo"
    vf: float = 0.1


@dataclass(frozen=True, kw_only=True)
class PPORecipe(OnPolicyRecipe):
    """A critic says what was to be expected; the divergence from the reference is a price in the rewards."""

    kind: Literal["ppo"]
    rollout: CriticRolloutRecipe = field(default_factory=CriticRolloutRecipe)
    loss: CriticLossRecipe = field(default_factory=CriticLossRecipe)


class _HeldOut:
    """The mean reward of the likeliest answers to held-out prompts; where one fails, it counts nothing."""

    def __init__(self, recipe: OnPolicyRecipe, prompts: Prompts, rewards: Sequence[NamedReward]) -> None:
        self.recipe, self.rewards = recipe, rewards
        count = min(len(prompts), recipe.prompts.held_out_count)
        self.questions = [prompts[at] for at in range(count)]

    def __call__(self, model: nn.Module) -> Mapping[str, Any]:
        assert isinstance(model, LanguageModel)
        rollout = self.recipe.rollout
        mine = self.questions[rank() :: world_size()]
        sampling = Sampling(max_tokens=rollout.max_tokens, stop=rollout.stop, seed=0)
        ids = [question.ids.tolist() for question in mine]
        said = complete(model, ids, sampling, batch_size=rollout.sample_batch) if ids else []
        answers = [
            Answered(question.prompt, answer.text, question.extra) for question, answer in zip(mine, said, strict=True)
        ]
        found = score_answers(self.rewards, answers)
        columns = {"reward": found.totals, **{f"reward/{name}": values for name, values in found.parts.items()}}
        columns = columns if len(self.rewards) > 1 else {"reward": found.totals}
        columns["cut"] = tuple(float(answer.finish_reason != "stop") for answer in said)
        everyone = gather_from_ranks(columns)
        return {name: _mean([value for theirs in everyone for value in theirs[name]]) for name in columns}


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
