"""Rollouts: what is sampled, what a batch of it says, and that a run with them goes on as if it had never stopped."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from modelworks.adapt import lora
from modelworks.core.errors import ConfigError, TrainingError
from modelworks.data.prompts import Prompts, Question
from modelworks.engine.generate import Completion
from modelworks.models.heads import ActorCritic
from modelworks.objectives.policy import Policy, score
from modelworks.text.tokenizer import Tokenizer
from modelworks.train import rollout as module
from modelworks.train.answers import RolloutRecipe
from modelworks.train.checkpoint import Checkpoints, seed_everything
from modelworks.train.loop import TrainRecipe, train
from modelworks.train.optim import OptimRecipe
from modelworks.train.rewards import NamedReward
from modelworks.train.rollout import Rollouts, frozen_copy, without_adapters

EOS = 30


def questions(count: int = 6) -> Prompts:
    """Prompts of 1 to 4 tokens, so that the shorter ones are padded on the left, by up to 3."""
    draw = np.random.default_rng(0)
    return Prompts([Question(draw.integers(0, EOS, at % 4 + 1), f"prompt {at}", {"at": at}) for at in range(count)])


def evens(answers) -> list[float]:
    """How many of the ids are even: they are the text of a model without a tokenizer."""
    return [float(sum(int(each) % 2 == 0 for each in answer.answer.split())) for answer in answers]


def scripted(*answers: str):
    """Answers in order, again and again; ids are letters, "." is EOS, and an answer without it was cut."""
    at = Counter()

    def sampler(model, requests):
        found = []
        for _ in requests:
            text = answers[at["next"] % len(answers)]
            at["next"] += 1
            ids = tuple(EOS if letter == "." else ord(letter) - ord("a") for letter in text)
            reason = "stop" if text.endswith(".") else "length"
            found.append(Completion(text, ids, (-2.0,) * len(ids), (), reason))
        return found

    return sampler


@pytest.fixture
def model(make_model):
    return make_model(eos_token_id=EOS, initializer_range=0.3)


@pytest.fixture
def rollouts(model):
    def make(*, of=None, reward=evens, sampler=None, kept=None, **options):
        given = {
            name: options.pop(name)
            for name in ("reference", "accumulate", "seed", "precision", "watch")
            if name in options
        }
        recipe = RolloutRecipe(**{"prompts": 4, "samples": 2, "max_tokens": 5} | options)
        rewards = kept or [NamedReward("evens", reward)]
        return Rollouts(of or model, questions(), rewards, recipe, sampler=sampler, **given)

    return make


def batches(stream, count: int):
    return list(islice(stream, count))


# --- what is sampled --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_first_ratio_is_1(rollouts, model, temperature):
    """Positions that are learned, and prompts padded on the left by 3 (OpenRLHF#217, trl#6800)."""
    (batch,) = batches(rollouts(temperature=temperature, prompts=6), 1)
    _, metrics = Policy(temperature=temperature)(model, batch)
    ratio = torch.where(
        batch["weights"] > 0,
        score(model, batch, temperature=temperature).logprobs_N.view_as(batch["weights"]) - batch["old_logprobs"],
        0,
    )
    assert ratio.abs().max() < (1e-5 if temperature == 1 else 1e-6)
    assert metrics["clip_fraction"].total == 0


def test_old_log_probabilities_are_those_that_the_engine_recorded(rollouts, model):
    said = []

    def sampler(model, requests):
        said.extend(module.complete(model, *zip(*requests)))
        return said

    (batch,) = batches(rollouts(sampler=sampler), 1)
    recorded = Counter(round(value, 5) for answer in said for value in answer.logprobs)
    assert Counter(round(value, 5) for value in batch["old_logprobs"][batch["weights"] > 0].tolist()) == recorded


def test_an_answer_is_drawn_by_its_seed_alone(rollouts):
    def drawn(**options):
        return dict.fromkeys(told(rollouts, **options).answers)

    assert drawn() == drawn()
    assert drawn() != drawn(seed=1)
    assert len(drawn()) > 4  # the samples of a prompt differ


def told(rollouts, **options):
    seen = []
    batches(rollouts(watch=seen.append, **options), 1)
    return seen[0]


def test_layers_that_are_recomputed_sample_too(rollouts, model):
    recipe = TrainRecipe(steps=2, recompute=True)
    losses = [step.loss for step in train(model, rollouts(), Policy(), recipe)]
    assert all(math.isfinite(loss) for loss in losses)


def test_bfloat16_is_scored_as_it_is_trained(rollouts, model):
    (batch,) = batches(rollouts(precision="bf16"), 1)
    with torch.autocast("cpu", torch.bfloat16):
        _, metrics = Policy()(model, batch)
    assert metrics["ratio"].total / metrics["ratio"].weight == pytest.approx(1, abs=1e-5)
    assert metrics["sampler_gap"].total > 0


# --- what is learned --------------------------------------------------------------------------------------------------


def test_a_reward_is_on_the_last_true_token_and_a_cut_answer_pays(rollouts, model):
    """[t, t, EOS, PAD, PAD]: index 2 (trl#3750); one that was cut has its reward, less the penalty, on its last."""
    critic = ActorCritic(model)
    stream = rollouts(
        of=critic, sampler=scripted("ab.", "abcde"), reward=lambda answers: [1.0] * len(answers),
        advantage="gae", samples=1, prompts=2, gamma=0.0, missing_eos=0.25,
    )  # fmt: skip
    (batch,) = batches(stream, 1)
    found = {}
    for at in range(2):
        inside = batch["sequences"] == at
        found[int(inside.sum())] = batch["advantages"][inside].tolist()
    assert found == {3: [0, 0, 1], 5: [0, 0, 0, 0, 0.75]}
    assert batch["returns"].tolist() == batch["advantages"].tolist()  # values begin at 0
    assert batch["note/cut"].sum() == 1


def test_an_answer_that_ends_on_a_stop_token_of_the_tokenizers_own_is_not_cut(rollouts, make_model, workshop):
    """Missing-EOS penalties that ignored custom stop tokens (trl#3750): every byte below "a" ends an answer here."""
    tokenizer = Tokenizer.from_folder(workshop / "tokenizer")
    tokenizer.stop_ids = frozenset(range(60))
    model = make_model(vocab_size=tokenizer.vocab_size, eos_token_id=None)
    model.tokenizer = tokenizer
    stream = rollouts(
        of=ActorCritic(model), advantage="gae", samples=2, missing_eos=0.5, gamma=0.0, prompts=6, max_tokens=8,
        reward=lambda answers: [1.0] * len(answers),
    )  # fmt: skip
    (batch,) = batches(stream, 1)
    ended = 0
    for at, is_cut in enumerate(batch["note/cut"].tolist()):
        inside = batch["sequences"] == at
        *before, last = batch["targets"][inside].tolist()
        assert (last in tokenizer.stop_ids) != is_cut
        assert not any(each in tokenizer.stop_ids for each in before)
        assert batch["advantages"][inside].tolist() == [0.0] * len(before) + [0.5 if is_cut else 1.0]
        ended += not is_cut
    assert 0 < ended < 12


def test_every_answer_is_in_every_epoch_once(rollouts):
    stream = rollouts(epochs=2, minibatches=2, accumulate=2)
    found = batches(stream, 16)
    for start in (0, 4, 8, 12):
        epoch = found[start : start + 4]
        assert sum(len(batch["normalizers"]) for batch in epoch) == 8
    first, second, third = (
        sorted(value for batch in found[at : at + 4] for value in batch["old_logprobs"].flatten().tolist() if value)
        for at in (0, 4, 8)
    )
    assert first == second != third


def test_more_steps_than_rows_leave_batches_that_count_nothing(rollouts, model):
    stream = rollouts(prompts=2, minibatches=3)
    found = batches(stream, 3)
    assert sorted(float(Policy().weight(batch)) > 0 for batch in found) == [False, True, True]
    recipe = TrainRecipe(steps=6)
    skipped = [step.skipped for step in train(model, rollouts(prompts=2, minibatches=3), Policy(), recipe)]
    assert skipped.count("nothing in it counts") == 2
    assert skipped.count(None) == 4


def test_normalisers_are_of_the_whole_generation_batch(rollouts):
    """trl#5619: those of two steps add up to its tokens."""
    found = batches(rollouts(minibatches=2), 2)
    tokens = sum(float(batch["weights"].sum()) for batch in found)
    assert sum(float(Policy(reduction="dapo").weight(batch)) for batch in found) == pytest.approx(tokens)


# --- rewards that fail, and what is counted ---------------------------------------------------------------------------


def test_a_sample_whose_reward_fails_is_left_out_and_counted(rollouts):
    def fails(answers):
        if any(answer.answer == "1 0 3 30" for answer in answers):
            raise RuntimeError("no")
        return [math.nan if answer.answer == "13 0 13 30" else 1.0 for answer in answers]

    stream = rollouts(sampler=scripted("ok.", "bad.", "nan.", "nan.", "ok.", "ok."), reward=fails, prompts=3)
    seen = []
    stream.watch = seen.append
    (batch,) = batches(stream, 1)
    assert len(batch["normalizers"]) == 3
    assert stream.failures == seen[0].failures == {"evens: RuntimeError: no": 1, "evens: no number": 2}
    assert batch["note/failed"].tolist() == [0.5] * 3
    assert torch.isfinite(batch["advantages"]).all()
    assert seen[0].equal_groups == 2
    with pytest.raises(TrainingError, match="reward evens: RuntimeError: no"):
        batches(rollouts(sampler=scripted("ok.", "bad."), reward=fails, fatal=True), 1)
    with pytest.raises(TrainingError, match=r"no answer of generation 0 got a reward: evens: no number \(8 times\)"):
        batches(rollouts(sampler=scripted("nan."), reward=fails), 1)


def test_failures_that_each_say_something_else_are_not_all_kept(rollouts, monkeypatch):
    def fails(answers):
        if any("2" in answer.answer for answer in answers):
            raise ValueError(answers[0].answer)
        return [1.0] * len(answers)

    monkeypatch.setattr(module, "_KINDS", 2)
    stream = rollouts(sampler=scripted("ac.", "bc.", "dc.", "ab."), reward=fails)
    batches(stream, 1)
    assert stream.failures == {"evens: ValueError: 0 2 30": 2, "evens: ValueError: 1 2 30": 2, "others": 2}


def test_groups_that_are_alike_are_counted_and_move_nothing(rollouts, model):
    stream = rollouts(sampler=scripted("ab.", "ac."), reward=lambda answers: [1.0] * len(answers))
    (batch,) = batches(stream, 1)
    loss, metrics = Policy()(model, batch)
    assert float(metrics["equal"].total / metrics["equal"].weight) == 1
    assert loss == 0


def test_a_watch_sees_each_generation_and_ends_the_run_with_its_reason(rollouts, model):
    seen = []

    def watch(generation):
        seen.append(generation)
        return "gold falls" if generation.number == 2 else None

    kept = [NamedReward("evens", evens, 2.0), NamedReward("truth", lambda answers: [-1.0] * len(answers), gold=True)]
    stream = rollouts(watch=watch, kept=kept, minibatches=2, reference=frozen_copy(model))
    records = list(train(model, stream, Policy(), TrainRecipe(steps=20, optim=OptimRecipe(lr=1e-2))))
    assert len(records) == 4
    assert stream.why_ended == "gold falls"
    first, last = seen[0], seen[-1]
    assert (first.number, first.step, last.step) == (0, 0, 4)
    assert first.kl == pytest.approx(0, abs=1e-5)
    assert last.kl != 0
    assert first.gold == (-1.0,) * 8
    assert first.rewards == tuple(2 * value for value in first.parts["evens"])
    assert first.lengths == tuple(len(answer.split()) for answer in first.answers)
    assert first.prompts[0].startswith("prompt")
    assert records[0].metrics["reward/truth"] == -1


# --- the reference ----------------------------------------------------------------------------------------------------


def test_under_adapters_the_base_is_the_reference_and_no_second_model_stands(rollouts, model):
    plain = frozen_copy(model)
    lora.apply(model, lora.LoraConfig(rank=2))
    for part in lora.parts_of(model).values():
        torch.nn.init.normal_(part.b_Rr, std=0.5)
    (batch,) = batches(rollouts(reference=without_adapters(model)), 1)
    with plain() as reference:
        expected = score(reference, batch).logprobs_N.view_as(batch["weights"])
    torch.testing.assert_close(batch["reference_logprobs"], expected * (batch["weights"] > 0))
    assert (batch["old_logprobs"] - batch["reference_logprobs"]).abs().max() > 0.1
    assert next(iter(lora.adapted(model).values())).parts  # on again


def test_the_price_of_divergence_moves_to_its_target(rollouts, model):
    stream = rollouts(kl=0.1, kl_target=1.0, reference=frozen_copy(model))
    found = batches(stream, 3)
    # At first there is no divergence at all, so the price falls by a fiftieth a generation.
    prices = [float(batch["note/kl_coefficient"][0]) for batch in found]
    assert prices == pytest.approx([0.1, 0.098, 0.09604])


def test_parts_that_do_not_go_together_are_refused(rollouts, model):
    for options, named in (
        ({"advantage": "gae"}, "ActorCritic"),
        ({"of": ActorCritic(model)}, "ActorCritic"),
        ({"kl": 0.1}, "no reference"),
        ({"kept": [NamedReward("only", evens, gold=True)]}, "none to learn from"),
        ({"kept": [NamedReward("one", evens), NamedReward("one", evens)]}, "names must differ"),
    ):
        with pytest.raises(ConfigError, match=named):
            rollouts(**options)


# --- going on ---------------------------------------------------------------------------------------------------------


def ppo(make_model, folder, *, until: int | None = None, resume: bool = False):
    """A run with all that has a state: a critic, a reference, an adaptive price, epochs, steps and micro-batches."""
    seed_everything(0)
    model = make_model(eos_token_id=EOS, initializer_range=0.3)
    reference = frozen_copy(model)
    critic = ActorCritic(model)
    recipe = RolloutRecipe(
        prompts=4, samples=2, max_tokens=4, epochs=2, minibatches=2, advantage="gae", kl=0.1, kl_target=0.5,
        whiten_advantages=True, temperature=0.9,
    )  # fmt: skip
    stream = Rollouts(critic, questions(), [NamedReward("evens", evens)], recipe, reference=reference, accumulate=2)
    options = TrainRecipe(steps=10, accumulate=2, save_every=1, optim=OptimRecipe(lr=1e-2))
    told = []
    with Checkpoints(folder) as checkpoints:
        for step in train(
            critic, stream, Policy(vf=0.1, temperature=0.9), options, checkpoints=checkpoints, resume=resume
        ):
            told.append((step.step, step.loss, step.grad_norm, dict(step.metrics)))
            if step.step == until:
                break
    return told, critic.state_dict(), stream


@pytest.mark.parametrize("at", [3, 4, 6])
def test_killed_and_resumed_is_uninterrupted_bit_for_bit(make_model, tmp_path, at):
    """Amid a generation batch, at its end, amid an epoch: critic, price and rollouts go on (trl#2657)."""
    told, weights, stream = ppo(make_model, tmp_path / "whole")
    first, _, _ = ppo(make_model, tmp_path / "cut", until=at)
    second, again, resumed = ppo(make_model, tmp_path / "cut", resume=True)
    assert second[0][0] in (at, at + 1)
    assert first[: second[0][0] - 1] + second == told
    assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())
    assert again["value.weight"].any()
    assert resumed.state()["coefficient"] == stream.state()["coefficient"] != 0.1


def test_a_place_in_other_prompts_is_refused(rollouts):
    state = rollouts().state()
    for name, value in (("prompts", "other"), ("seed", [1, 0]), ("rewards", [])):
        with pytest.raises(ConfigError, match=f"other {name}"):
            rollouts().restore(state | {name: value})


# Slow as in tests/parallel: torchrun on a busy machine.
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grpo", "ppo"])
def test_two_processes_equal_one(tmp_path, kind):
    """Each samples its part; advantages, whitening, normalisers and the order of learning are of all."""
    script = Path(__file__).with_name("two_ranks_rollout.py")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    found = []
    for name, before in (("one", []), ("two", launch)):
        folder = tmp_path / name
        folder.mkdir()
        command = [sys.executable, *before, str(script), str(folder), kind]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(torch.load(folder / "result.pt", weights_only=True))
    one, two = found
    for mine, theirs in zip(one["done"], two["done"], strict=True):
        assert mine[:5] == pytest.approx(theirs[:5], rel=1e-4, abs=1e-5)
        assert mine[5] == pytest.approx(theirs[5], rel=1e-4, abs=1e-4)
    torch.testing.assert_close(one["weights"], two["weights"], atol=1e-5, rtol=0)
