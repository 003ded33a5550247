from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from modelworks.core.errors import ConfigError
from modelworks.data.branches import Branch, Branches, branch_batch
from modelworks.models.llama import Llama, LlamaConfig
from modelworks.models.reward import RewardModel
from modelworks.objectives.reward import BradleyTerry, last_token_rewards

EOS = 2


def reward_model() -> RewardModel:
    torch.manual_seed(0)
    config = {
        "model_type": "llama", "vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "initializer_range": 0.3,
    }  # fmt: skip
    model = RewardModel.from_language_model(Llama(LlamaConfig.from_hf(config)))
    torch.nn.init.normal_(model.score.weight)
    return model


def pair(prompt, chosen, rejected, weight: float = 1.0, margin: float = 0.0) -> Branches:
    sides = [Branch(np.array(ids), np.ones(len(ids), np.float32)) for ids in (chosen, rejected)]
    columns = {"pair_weights": np.array([weight], np.float32), "margins": np.array([margin], np.float32)}
    return Branches(np.array(prompt), sides, columns)


PAIRS = [pair([5], [EOS, 7, 8, EOS], [9, EOS]), pair([6, 7], [3, EOS], [3, 3, 3, EOS], 0.5, 0.25)]


@pytest.mark.parametrize("packed", [True, False])
def test_the_reward_is_that_of_the_last_true_token(packed):
    """Not of the first EOS, and not of a pad that is EOS, too (transformers#35352): [5, EOS, 7, 8, EOS] at index 4."""
    model = reward_model()
    batch = branch_batch(PAIRS, pad_id=EOS, packed=packed, whole=True)
    texts = [[5, EOS, 7, 8, EOS], [5, 9, EOS], [6, 7, 3, EOS], [6, 7, 3, 3, 3, EOS]]
    found = last_token_rewards(model, batch, 4)
    torch.testing.assert_close(found, model.rewards(texts), atol=1e-6, rtol=1e-5)


def test_the_loss_is_its_definition():
    model = reward_model()
    loss, metrics = BradleyTerry(centre=0.1)(model, branch_batch(PAIRS, pad_id=0, whole=True))
    first, second, third, fourth = last_token_rewards(model, branch_batch(PAIRS, pad_id=0, whole=True), 4).tolist()

    def of(gap: float, total: float) -> float:
        return math.log1p(math.exp(-gap)) + 0.1 * total**2

    expected = of(first - second, first + second) + 0.5 * of(third - fourth - 0.25, third + fourth)
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-5)
    right = (first > second) + 0.5 * (third > fourth)
    assert float(metrics["accuracy"].total / metrics["accuracy"].weight) == pytest.approx(right / 1.5)


def test_two_micro_batches_are_one():
    gradients = []
    for parts in ([PAIRS], [[each] for each in PAIRS]):
        model, objective = reward_model(), BradleyTerry()
        batches = [branch_batch(part, pad_id=0, whole=True) for part in parts]
        total = sum(objective(model, batch)[0] for batch in batches)
        (total / sum(objective.weight(batch) for batch in batches)).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


def test_a_centre_below_0_is_refused():
    with pytest.raises(ConfigError, match="centre"):
        BradleyTerry(centre=-1.0)
