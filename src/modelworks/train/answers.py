"""Answers of a generation batch, and the credit that their tokens get for the rewards.

Shapes: S answers, T tokens of the longest, P prompts, G answers to each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from modelworks.core.errors import ConfigError
from modelworks.data.branches import Branch, Branches
from modelworks.objectives.advantage import at_last, gae, group_advantages, leave_one_out, whiten


@dataclass(frozen=True, kw_only=True)
class RolloutRecipe:
    """How answers are sampled, and what becomes of their rewards."""

    prompts: int = 8
    "Of a generation batch, over all ranks."
    samples: int = 4
    "Answers to each."
    max_tokens: int = 128
    temperature: float = 1.0
    stop: tuple[str, ...] = ()
    epochs: int = 1
    "How often a generation batch is learned from."
    minibatches: int = 1
    "Optimiser steps of an epoch."
    advantage: Literal["gae", "group", "group_mean", "rloo"] = "group"
    "By a critic; or against the prompt's other answers: in units of their spread, without (Dr. GRPO), leave-one-out."
    gamma: float = 1.0
    lam: float = 0.95
    whiten_advantages: bool = False
    whiten_rewards: bool = False
    kl: float = 0.0
    "What a nat of divergence from the reference costs, taken off the rewards: k1, token by token."
    kl_target: float = 0.0
    "Move that price so that the divergence of an answer comes to this many nats; 0: the price is fixed."
    kl_rate: float = 0.1
    missing_eos: float = 0.0
    "Taken off the reward of an answer that was cut at max_tokens."
    fatal: bool = False
    "A reward that fails ends the run; otherwise it costs that sample."
    sample_batch: int = 32
    "Answers that are sampled together."
    score_batch: int = 8
    "Prompts, with their answers, that are scored together."
    workers: int = 0
    "Ray actors that sample, on one machine or many; 0: this process samples."

    def __post_init__(self) -> None:
        for name in ("prompts", "samples", "max_tokens", "epochs", "minibatches", "sample_batch", "score_batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, got {getattr(self, name)}")
        for name, holds, expected in (
            ("temperature", 0 < self.temperature < math.inf, "above 0: greedy answers are all the same"),
            ("gamma", 0 <= self.gamma <= 1, "from 0 to 1"),
            ("lam", 0 <= self.lam <= 1, "from 0 to 1"),
            ("kl", self.kl >= 0, "0 or more"),
            ("kl_target", self.kl_target >= 0 and (self.kl > 0 or not self.kl_target), "0, or above 0 where kl is"),
            ("kl_rate", 0 < self.kl_rate < 1, "between 0 and 1"),
            ("workers", self.workers >= 0, "0 or more"),
            ("missing_eos", self.missing_eos >= 0, "0 or more"),
            ("samples", self.samples > 1 or self.advantage == "gae", "2 or more: answers are held against each other"),
        ):
            if not holds:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected {expected}")

    @property
    def steps(self) -> int:
        """Optimiser steps of a generation batch."""
        return self.epochs * self.minibatches


@dataclass
class Answer:
    """One sample, and what becomes known of it."""

    question: int
    text: str
    ids: NDArray[np.int64]
    is_cut: bool
    tokens: dict[str, NDArray[np.float32]]
    reward: float = math.nan
    parts: dict[str, float] = field(default_factory=dict)
    gold: float | None = None
    sampler_gap: float | None = None
    """How far the engine's log-probabilities were from the trainer's at most, where both are known."""

    @property
    def log_ratios(self) -> NDArray[np.float32]:
        """Of each token, to the reference."""
        return self.tokens["old_logprobs"] - self.tokens["reference_logprobs"]

    @property
    def kl(self) -> float:
        """The answer's log-ratio to the reference; its mean over answers is the divergence."""
        return float(self.log_ratios.sum())

    def branch(self) -> Branch:
        return Branch(self.ids, np.ones(len(self.ids), np.float32), self.tokens)


# --- credit -----------------------------------------------------------------------------------------------------------


def credit(groups: Sequence[Sequence[Answer]], recipe: RolloutRecipe, coefficient: float) -> None:
    """Give each token of all answers, grouped by prompts, its `advantages`, and with a critic its `returns`.

    `coefficient` is what a nat of divergence costs now, where the recipe has a price of it.
    """
    answers = [answer for group in groups for answer in group]
    scores_S = torch.tensor([answer.reward - recipe.missing_eos * answer.is_cut for answer in answers])
    if recipe.advantage == "gae":
        _by_critic(answers, scores_S, recipe, coefficient)
        return
    if recipe.kl:
        scores_S = scores_S - coefficient * torch.tensor([answer.kl for answer in answers])
    groups_P = scores_S.split([len(group) for group in groups])
    # Failed samples leave gaps.
    scores_PG = nn.utils.rnn.pad_sequence(list(groups_P), batch_first=True, padding_value=math.nan)
    if recipe.advantage == "rloo":
        advantages_PG = leave_one_out(scores_PG)
    else:
        advantages_PG = group_advantages(scores_PG, scale=recipe.advantage == "group")
    advantages_S = advantages_PG[~scores_PG.isnan()]
    if recipe.whiten_advantages:
        advantages_S = whiten(advantages_S[:, None], torch.ones(len(answers), 1))[:, 0]
    for answer, advantage in zip(answers, advantages_S.tolist()):
        answer.tokens["advantages"] = np.full(len(answer.ids), advantage, np.float32)


def _by_critic(answers: Sequence[Answer], scores_S: Tensor, recipe: RolloutRecipe, coefficient: float) -> None:
    mask_ST = _side_by_side([np.ones(len(answer.ids), np.float32) for answer in answers])
    rewards_ST = at_last(scores_S, mask_ST)
    if recipe.kl:
        rewards_ST = rewards_ST - coefficient * _side_by_side([answer.log_ratios for answer in answers])
    if recipe.whiten_rewards:
        rewards_ST = whiten(rewards_ST, mask_ST, shift_mean=False)
    values_ST = _side_by_side([answer.tokens["old_values"] for answer in answers])
    advantages_ST, returns_ST = gae(rewards_ST, values_ST, mask_ST, gamma=recipe.gamma, lam=recipe.lam)
    if recipe.whiten_advantages:
        advantages_ST = whiten(advantages_ST, mask_ST)
    for answer, advantages_T, returns_T in zip(answers, advantages_ST.numpy(), returns_ST.numpy()):
        answer.tokens["advantages"] = advantages_T[: len(answer.ids)]
        answer.tokens["returns"] = returns_T[: len(answer.ids)]


def _side_by_side(rows: Sequence[NDArray[np.float32]]) -> Tensor:
    """Values of answers as one tensor (S, T), 0 behind them."""
    return nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True)


# --- in a checkpoint --------------------------------------------------------------------------------------------------


def packed(row: Branches) -> dict[str, Any]:
    """A row as tensors, which a checkpoint holds."""
    return {
        "prompt": torch.from_numpy(row.prompt),
        "completions": [
            {"ids": torch.from_numpy(each.ids)}
            | {"tokens": {name: torch.from_numpy(np.asarray(values)) for name, values in each.tokens.items()}}
            for each in row.completions
        ],
        "columns": {name: torch.from_numpy(np.asarray(values)) for name, values in row.columns.items()},
    }


def unpacked(row: Mapping[str, Any]) -> Branches:
    def arrays(of: Mapping[str, Tensor]) -> dict[str, Any]:
        return {name: values.numpy() for name, values in of.items()}

    completions = [
        Branch(each["ids"].numpy(), np.ones(len(each["ids"]), np.float32), arrays(each["tokens"]))
        for each in row["completions"]
    ]
    return Branches(row["prompt"].numpy(), completions, arrays(row["columns"]))
