"""The loop: what a step is divided by, when it is skipped, and that what it was given comes back as it was."""

from __future__ import annotations

import math
import os
import signal
from itertools import pairwise

import pytest
import torch
from torch import nn

from modelworks.core.errors import ConfigError, Stopped, TrainingError
from modelworks.objectives.base import Ratio
from modelworks.objectives.causal_lm import CausalLM
from modelworks.train.checkpoint import Checkpoints
from modelworks.train.guard import GuardRecipe
from modelworks.train.loop import TrainRecipe, repeated_layers, train
from modelworks.train.optim import OptimRecipe
from modelworks.train.schedule import ScheduleRecipe


def flat(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


class Listed:
    """A stream of given batches."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)

    def state(self):
        return {}

    def restore(self, state):
        pass


class Given(nn.Module):
    """A model whose loss is its one weight times what the batch says."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0]]))

    def forward(self, losses_N):
        return self.weight * losses_N


class SumOfLosses:
    def weight(self, batch):
        return batch["weights"].sum()

    def __call__(self, model, batch):
        total = (model(batch["losses"]) * batch["weights"]).sum()
        return total, {"double": Ratio(2 * total.detach(), self.weight(batch))}


def losses(*values):
    return {"losses": torch.tensor(values), "weights": torch.ones(len(values))}


def plain(steps, **changes):
    return TrainRecipe(steps=steps, clip=0.0, schedule=ScheduleRecipe(name="constant"), **changes)


def test_accumulation_divides_by_all_that_counts():
    """transformers#34191: token losses [4] and [1, 1, 1] are 1.75 together, not the mean 2.5 of their means."""
    (step,) = train(Given(), Listed([losses(4.0), losses(1.0, 1.0, 1.0)]), SumOfLosses(), plain(1, accumulate=2))
    assert step.loss == pytest.approx(1.75)
    assert step.grad_norm == pytest.approx(1.75)  # the gradient is the loss, for a weight of 1
    assert step.metrics == {"double": pytest.approx(3.5)}
    assert step.weight == 4


def test_the_normaliser_is_this_steps_alone():
    """trl#5619: what counted in other steps must not rescale a gradient."""
    given = [losses(4.0), losses(1.0, 1.0, 1.0), losses(2.0), losses(2.0)]
    frozen = OptimRecipe(lr=1e-12, weight_decay=0.0)
    norms = [s.grad_norm for s in train(Given(), Listed(given), SumOfLosses(), plain(2, accumulate=2, optim=frozen))]
    assert norms == pytest.approx([1.75, 2.0])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_batch_of_four_equals_four_of_one(make_model, batches, precision):
    rows = [batch for batch, _ in zip(batches(rows=1), range(12))]
    whole = [{name: torch.cat([row[name] for row in rows[at : at + 4]]) for name in rows[0]} for at in (0, 4, 8)]
    models = make_model(), make_model()
    optim = OptimRecipe(lr=1e-2, eps=1e-3)  # an eps that rounding cannot turn into a sign
    for model, given, accumulate in zip(models, (rows, whole), (4, 1)):
        recipe = TrainRecipe(steps=3, accumulate=accumulate, optim=optim, precision=precision)
        assert len(list(train(model, Listed(given), CausalLM(z_loss=1e-4), recipe))) == 3
    tolerance = 1e-6 if precision == "fp32" else 1e-3
    torch.testing.assert_close(flat(models[0]), flat(models[1]), atol=tolerance, rtol=0)


def test_left_padding_changes_nothing(make_model):
    """OpenRLHF#217, trl#6800: learned positions and 3 pads before a row: the same loss, the same step."""
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(1, 31, (1, 6), generator=generator)
    row = {"input_ids": ids_BT[:, :-1], "targets": ids_BT[:, 1:], "weights": torch.ones(1, 5)}
    padded = {name: nn.functional.pad(tensor, (3, 0)) for name, tensor in row.items()}
    padded["attention_mask"] = torch.tensor([[0] * 3 + [1] * 5])
    models = make_model(), make_model()
    found = [list(train(m, Listed([b]), CausalLM(), plain(1))) for m, b in zip(models, (row, padded))]
    assert found[0][0].loss == pytest.approx(found[1][0].loss, abs=1e-6)
    assert found[0][0].tokens == found[1][0].tokens == 5
    assert found[0][0].grad_norm == pytest.approx(found[1][0].grad_norm, rel=1e-5)


def test_it_learns_and_says_so(make_model, batches, recipe):
    steps = list(train(make_model(), batches(rows=8), CausalLM(), recipe(60, optim=OptimRecipe(lr=1e-2))))
    assert [step.step for step in steps] == list(range(1, 61))
    assert steps[-1].loss < steps[0].loss / 2
    assert all(step.metrics["nll"] == pytest.approx(step.loss) for step in steps)
    assert all(step.tokens == 64 and step.skipped is None for step in steps)
    assert all(later.lr < earlier.lr for earlier, later in pairwise(steps))


def test_the_gradient_is_clipped_and_its_norm_is_that_before(make_model, batches):
    optim = OptimRecipe(name="adamw", lr=1.0, weight_decay=0.0, eps=1e3)  # steps in proportion to the gradient
    moved = []
    for clip in (0.0, 0.01):
        model = make_model()
        before = flat(model)
        (step,) = train(model, batches(), CausalLM(), TrainRecipe(steps=1, clip=clip, optim=optim, guard=GuardRecipe()))
        moved.append((flat(model) - before).norm().item())
        assert step.grad_norm > 0.1
    assert moved[1] / moved[0] == pytest.approx(0.01 / step.grad_norm, rel=0.05)


@pytest.mark.parametrize("changes", [{"recompute": True}, {"ema": 0.9}, {"optim": OptimRecipe(name="muon")}])
def test_the_model_comes_back_as_it_was(make_model, batches, recipe, changes):
    model = make_model().eval()
    names = [name for name, _ in model.named_parameters()]
    forwards = [vars(layer).get("forward") for layer in repeated_layers(model)]
    list(train(model, batches(), CausalLM(), recipe(2, **changes)))
    assert not model.training
    assert [name for name, _ in model.named_parameters()] == names
    assert [vars(layer).get("forward") for layer in repeated_layers(model)] == forwards
    assert all(parameter.grad is None for parameter in model.parameters())


def test_recomputed_activations_give_the_same_steps(make_model, batches, recipe):
    models = make_model(resid_pdrop=0.1), make_model(resid_pdrop=0.1)
    for model, recompute in zip(models, (False, True)):
        torch.manual_seed(1)
        list(train(model, batches(), CausalLM(), recipe(3, recompute=recompute)))
    assert torch.equal(flat(models[0]), flat(models[1]))


@pytest.mark.slow
def test_compiled_layers_give_the_same_steps(make_model, batches, recipe):
    models = make_model(), make_model()
    for model, compiled in zip(models, (False, True)):
        list(train(model, batches(), CausalLM(), recipe(3, compile=compiled)))
    torch.testing.assert_close(flat(models[0]), flat(models[1]), atol=1e-5, rtol=0)


def test_bfloat16_stays_near_float32(make_model, batches, recipe):
    models = make_model(), make_model()
    found = [
        list(train(model, batches(), CausalLM(), recipe(10, precision=precision)))
        for model, precision in zip(models, ("fp32", "bf16"))
    ]
    for ours, theirs in zip(*found):
        assert ours.loss == pytest.approx(theirs.loss, rel=0.01)
    assert all(parameter.dtype == torch.float32 for parameter in models[1].parameters())


def test_the_average_follows_its_formula(make_model, batches, recipe):
    model, seen = make_model(), []
    average = flat(model)
    for step in train(model, batches(), CausalLM(), recipe(4, ema=0.5)):
        if step.step == 4:
            seen.append(flat(model))  # the weights themselves: the average is adopted at the end
        else:
            decay = min(0.5, step.step / (9 + step.step))
            average = decay * average + (1 - decay) * flat(model)
    decay = min(0.5, 4 / 13)
    torch.testing.assert_close(flat(model), decay * average + (1 - decay) * seen[0])


# --- steps that must not be taken -------------------------------------------------------------------------------------


def empty(batch):
    for name in batch:
        batch[name] = batch[name][:0]


def masked(batch):
    batch["weights"] = torch.zeros_like(batch["weights"])


@pytest.mark.parametrize("broken", [empty, masked])
def test_a_batch_in_which_nothing_counts_is_skipped_and_reported(make_model, batches, recipe, broken):
    model = make_model()
    stream = batches(broken={1: broken}, end=3)
    seen = []
    for step in train(model, stream, CausalLM(), recipe(3)):
        seen.append((step.skipped, step.loss is None, flat(model)))
    assert [skipped for skipped, *_ in seen] == [None, "nothing in it counts", None]
    assert [no_loss for _, no_loss, _ in seen] == [False, True, False]
    assert torch.equal(seen[0][2], seen[1][2])
    assert not torch.equal(seen[1][2], seen[2][2])
    assert flat(model).isfinite().all()


@pytest.mark.parametrize("broken", [empty, masked])
def test_beside_others_it_changes_nothing(make_model, batches, recipe, broken):
    models = make_model(), make_model()
    broken_stream = batches(broken={1: broken}, end=2)
    alone = batches(end=1)
    for model, stream, accumulate in zip(models, (broken_stream, alone), (2, 1)):
        list(train(model, stream, CausalLM(), recipe(1, accumulate=accumulate)))
    assert torch.equal(flat(models[0]), flat(models[1]))


class NaNAt:
    """An objective that is CausalLM but for the calls at which its loss is NaN."""

    def __init__(self, *calls):
        self.calls, self.seen = calls, 0

    def weight(self, batch):
        return CausalLM().weight(batch)

    def __call__(self, model, batch):
        loss, metrics = CausalLM()(model, batch)
        self.seen += 1
        return (loss * math.nan if self.seen - 1 in self.calls else loss), metrics


def test_a_step_that_is_not_finite_is_skipped_and_reported(make_model, batches, recipe):
    model = make_model()
    seen = [(step.skipped, flat(model)) for step in train(model, batches(), NaNAt(1), recipe(3))]
    assert [skipped for skipped, _ in seen] == [None, "loss is nan", None]
    assert torch.equal(seen[0][1], seen[1][1])
    assert flat(model).isfinite().all()


def test_after_too_many_it_goes_back_and_on_with_other_data(make_model, batches, recipe, tmp_path):
    rolls = recipe(8, save_every=2, guard=GuardRecipe(patience=2))
    stream = batches()
    with Checkpoints(tmp_path) as checkpoints:
        steps = list(train(make_model(), stream, NaNAt(3, 4), rolls, checkpoints=checkpoints))
    assert [step.step for step in steps] == [1, 2, 3, 4, 5, 3, 4, 5, 6, 7, 8]
    assert [step.rolled_back_to for step in steps if step.rolled_back_to is not None] == [2]
    assert stream.at == 11  # the batches that led astray are not seen again


def test_where_going_back_does_not_help_the_run_ends_with_the_reason(make_model, batches, recipe, tmp_path):
    rolls = recipe(20, save_every=2, guard=GuardRecipe(patience=2, rollbacks=1))
    stream, always = batches(), NaNAt(*range(3, 99))
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(TrainingError, match=r"loss is nan\), after going back 1"):
        list(train(make_model(), stream, always, rolls, checkpoints=checkpoints))
    with pytest.raises(TrainingError, match=r"2 steps in a row could not be taken .* after going back 0 times"):
        list(train(make_model(), batches(), always, rolls))


# --- evaluation, stopping, resuming -----------------------------------------------------------------------------------


def test_evaluation_is_on_schedule_of_the_average_and_without_effect(make_model, batches, recipe):
    drops = {"resid_pdrop": 0.5}
    models, seen = (make_model(**drops), make_model(**drops)), []

    def evaluate(model):
        assert not model.training
        torch.rand(1)
        seen.append(flat(model))
        return {"held out": 1.5, "samples": ["once"]}

    torch.manual_seed(1)
    steps = list(train(models[0], batches(), CausalLM(), recipe(5, ema=0.9, evaluate_every=2), evaluate=evaluate))
    torch.manual_seed(1)
    list(train(models[1], batches(), CausalLM(), recipe(5, ema=0.9)))
    assert [bool(step.evaluation) for step in steps] == [False, True, False, True, True]
    assert steps[-1].evaluation == {"held out": 1.5, "samples": ["once"]}
    assert torch.equal(flat(models[0]), flat(models[1]))
    assert torch.equal(seen[-1], flat(models[0]))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optim": OptimRecipe(name="muon"), "ema": 0.9},
        {"optim": OptimRecipe(name="adamw8bit"), "accumulate": 2, "precision": "bf16"},
    ],
)
def test_a_run_that_was_stopped_goes_on_bit_for_bit(make_model, batches, recipe, tmp_path, changes):
    """Dropout, schedule, moments, averages and the place in the data: all as if it had never stopped."""
    drops = {"resid_pdrop": 0.1, "n_embd": 64, "n_inner": 128}  # matrices large enough for 8-bit states
    made = recipe(7, **changes)
    whole = make_model(**drops)
    torch.manual_seed(1)
    expected = [(step.step, step.loss, step.grad_norm) for step in train(whole, batches(), CausalLM(), made)]
    stopped, found = make_model(**drops), []
    torch.manual_seed(1)
    with Checkpoints(tmp_path) as checkpoints:
        steps = train(stopped, batches(), CausalLM(), made, checkpoints=checkpoints)
        found += [(step.step, step.loss, step.grad_norm) for _, step in zip(range(3), steps)]
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped):
            next(steps)
    model = make_model(**drops, seed=5)
    torch.manual_seed(99)
    with Checkpoints(tmp_path) as checkpoints:
        for step in train(model, batches(), CausalLM(), made, checkpoints=checkpoints, resume=True):
            found.append((step.step, step.loss, step.grad_norm))
    assert found == expected
    assert torch.equal(flat(model), flat(whole))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops_and_handlers_come_back(make_model, batches, recipe, tmp_path, number):
    before = signal.getsignal(number)
    with Checkpoints(tmp_path) as checkpoints:
        steps = train(make_model(), batches(), CausalLM(), recipe(9), checkpoints=checkpoints)
        next(steps)
        os.kill(os.getpid(), number)
        with pytest.raises(Stopped, match=rf"{number.name} came after step 1 of 9: saved in .*; resume it to go on"):
            next(steps)
        assert list(checkpoints.steps()) == [1]
    assert signal.getsignal(number) == before


def test_a_second_signal_acts_as_without_us(make_model, batches, recipe):
    steps = train(make_model(), batches(), CausalLM(), recipe(9))
    next(steps)
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(Stopped, match="nothing was saved"):
        next(steps)


def test_a_folder_with_a_run_is_not_trained_over(make_model, batches, recipe, tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        list(train(make_model(), batches(), CausalLM(), recipe(1), checkpoints=checkpoints))
        with pytest.raises(ConfigError, match="there is a run already; resume it"):
            list(train(make_model(), batches(), CausalLM(), recipe(1), checkpoints=checkpoints))


def test_what_is_frozen_is_neither_changed_nor_saved(make_model, batches, recipe, tmp_path):
    def frozen():
        model = make_model()
        model.transformer.wte.requires_grad_(False)
        return model

    models = frozen(), frozen()
    with Checkpoints(tmp_path) as checkpoints:
        steps = train(models[0], batches(), CausalLM(), recipe(4, save_every=2), checkpoints=checkpoints)
        assert [step.step for _, step in zip(range(2), steps)] == [1, 2]
        (path,) = checkpoints.steps().values()
        saved = torch.load(path / "state.pt", weights_only=True)["model"]
        assert saved.keys() == dict(models[0].named_parameters()).keys() - {"transformer.wte.weight"}
        rest = [(step.step, step.loss) for step in steps]
        resumed = train(models[1], batches(), CausalLM(), recipe(4, save_every=2), checkpoints=checkpoints, resume=True)
        assert list(resumed) == []
    assert [step for step, _ in rest] == [3, 4]
    assert torch.equal(flat(models[0]), flat(models[1]))
    assert torch.equal(models[0].transformer.wte.weight, make_model().transformer.wte.weight)


def test_the_end_of_the_batches_ends_the_run(make_model, batches, recipe):
    steps = list(train(make_model(), batches(end=3), CausalLM(), recipe(9, accumulate=2)))
    assert len(steps) == 2
    assert steps[1].tokens == 16  # a last step of one micro-batch


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"steps": -1}, "steps must be 0"), ({"clip": -1.0}, "clip"), ({"ema": 1.0}, "ema"), ({"keep": 0}, "keep")],
)
def test_a_recipe_out_of_range_is_refused(changes, says):
    with pytest.raises(ConfigError, match=says):
        TrainRecipe(**{"steps": 1} | changes)
