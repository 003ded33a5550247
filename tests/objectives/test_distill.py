from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modelworks.core.errors import ConfigError
from modelworks.models.llama import Llama, LlamaConfig
from modelworks.objectives.distill import Distill, Projected, divergence

V = 61


def model(seed: int, width: int = 16, vocab: int = V, **more) -> Llama:
    torch.manual_seed(seed)
    config = {
        "vocab_size": vocab, "hidden_size": width, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "initializer_range": 0.3, **more,
    }  # fmt: skip
    return Llama(LlamaConfig.from_hf({"model_type": "llama", **config}))


def batch(rows: int = 4, T: int = 9) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, V, (rows, T + 1), generator=generator)
    weights = torch.rand(rows, T, generator=generator) * (torch.rand(rows, T, generator=generator) < 0.7)
    return {"input_ids": ids[:, :-1], "targets": ids[:, 1:], "weights": weights}


def logprobs(found: Llama, data: dict[str, torch.Tensor], temperature: float) -> torch.Tensor:
    return (found(data["input_ids"]) / temperature).log_softmax(-1)


def cached(teacher: Llama, data: dict[str, torch.Tensor], k: int, temperature: float) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        whole = logprobs(teacher, data, temperature)
    top = whole.topk(k)
    rest = whole.scatter(-1, top.indices, -torch.inf).logsumexp(-1, keepdim=True)
    return data | {"teacher_ids": top.indices, "teacher_logprobs": torch.cat((top.values, rest), -1)}


# --- the divergence ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_divergence_is_its_definition(beta):
    p, q = torch.tensor([0.7, 0.2, 0.1]).double(), torch.tensor([0.1, 0.3, 0.6]).double()
    m = beta * p + (1 - beta) * q

    def kl(a, b):
        return float((a * (a / b).log()).sum())

    expected = {0.0: kl(p, q), 1.0: kl(q, p)}.get(beta, beta * kl(p, m) + (1 - beta) * kl(q, m))
    assert float(divergence(p.log(), q.log(), beta)) == pytest.approx(expected, abs=1e-12)


def test_js_is_symmetric_and_bounded():
    p, q = torch.randn(2, 50, 9).mul(8).log_softmax(-1)
    torch.testing.assert_close(divergence(p, q, 0.5), divergence(q, p, 0.5))
    assert divergence(p, q, 0.5).max() <= torch.tensor(2.0).log() + 1e-6


def test_its_limits_are_the_two_kls():
    """GKD, section 3.1: JSD(beta) / beta goes to the forward KL as beta goes to 0."""
    p, q = torch.randn(2, 9).double().log_softmax(-1)
    assert float(divergence(p, q, 1e-6)) / 1e-6 == pytest.approx(float(divergence(p, q, 0.0)), rel=1e-4)
    assert float(divergence(p, q, 1 - 1e-6)) / 1e-6 == pytest.approx(float(divergence(p, q, 1.0)), rel=1e-4)


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=6), st.sampled_from([0.0, 0.3, 1.0]), st.randoms())
def test_it_is_never_negative_and_zero_only_for_equals(logits, beta, random):
    p = torch.tensor(logits, dtype=torch.float64).log_softmax(-1)
    shuffled = random.sample(logits, len(logits))
    q = torch.tensor(shuffled, dtype=torch.float64).log_softmax(-1)
    assert float(divergence(p, p, beta)) == pytest.approx(0, abs=1e-12)
    assert float(divergence(p, q, beta)) >= -1e-12


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_an_impossible_token_is_no_nan(beta):
    p = torch.tensor([0.0, -torch.inf])
    logits = torch.tensor([1.0, 2.0], requires_grad=True)
    value = divergence(p, logits.log_softmax(-1), beta)
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()


def test_gradients_of_a_small_softmax_are_the_closed_forms():
    """d KL(P||Q)/dz = q - p; d KL(Q||P)/dz = q (log q/p - KL)."""
    z = torch.randn(7, dtype=torch.float64, requires_grad=True)
    p = torch.randn(7, dtype=torch.float64).softmax(-1)
    q = z.detach().softmax(-1)
    (forward,) = torch.autograd.grad(divergence(p.log(), z.log_softmax(-1), 0.0), z)
    torch.testing.assert_close(forward, q - p)
    (reverse,) = torch.autograd.grad(divergence(p.log(), z.log_softmax(-1), 1.0), z)
    gap = (q / p).log()
    torch.testing.assert_close(reverse, q * (gap - (q * gap).sum()))


# --- the objective ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"beta": 1.0}, {"beta": 0.4, "temperature": 3.0, "hard": 0.25}])
@pytest.mark.parametrize("k", [None, 5, V])
def test_value_and_gradient_are_those_of_whole_logits(settings, k):
    student, teacher, data = model(0), model(1, width=24), batch()
    made = Distill(teacher if k is None else None, **settings, chunk=4)
    given_data = data if k is None else cached(teacher, data, k, made.temperature)
    loss, metrics = made(student, given_data)

    ours = logprobs(student, data, made.temperature)
    with torch.no_grad():
        theirs = logprobs(teacher, data, made.temperature)
    if k is not None and k < V:  # k + 1 events: the teacher's likeliest, and all others

        def events(x):
            kept = x.gather(-1, given_data["teacher_ids"])
            return torch.cat((kept, (1 - kept.exp().sum(-1, keepdim=True)).log()), -1)

        ours, theirs = events(ours), events(theirs)
    d_BT = divergence(theirs, ours, made.beta)
    nll_BT = -logprobs(student, data, 1.0).gather(-1, data["targets"][..., None])[..., 0]
    total_BT = (1 - made.hard) * made.temperature**2 * d_BT + made.hard * nll_BT
    expected = (total_BT * data["weights"]).sum()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        metrics["divergence"].total, (d_BT * data["weights"]).sum().detach(), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(metrics["nll"].total, (nll_BT * data["weights"]).sum().detach())
    wanted = torch.autograd.grad(expected, list(student.parameters()))
    for found, gradient in zip(torch.autograd.grad(loss, list(student.parameters())), wanted):
        torch.testing.assert_close(found, gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("k", [None, 6])
def test_an_equal_student_has_no_loss_and_no_gradient(beta, k):
    """Cross-entropy with soft targets is not KL: it would not be zero here (reference/training.md)."""
    student, teacher, data = model(3), model(3), batch()
    made = Distill(None if k else teacher, beta=beta, temperature=2.0)
    loss, _ = made(student, cached(teacher, data, k, 2.0) if k else data)
    assert abs(float(loss)) < 1e-5
    loss.backward()
    assert max(float(parameter.grad.abs().max()) for parameter in student.parameters()) < 1e-5


def test_the_temperature_keeps_the_gradients_size():
    """Hinton et al. 2015, section 2: at a high temperature T^2 KL has a gradient that T no longer changes."""
    student, teacher, data = model(0), model(1), batch()
    sizes = []
    for temperature in (50.0, 100.0):
        loss, _ = Distill(teacher, temperature=temperature)(student, data)
        sizes.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(student.parameters()))]).norm())
    assert float(sizes[0] / sizes[1]) == pytest.approx(1, rel=0.05)


def test_events_bound_the_whole_divergence_from_below():
    student, teacher, data = model(0), model(1), batch()
    whole, _ = Distill(teacher)(student, data)
    values = [float(Distill()(student, cached(teacher, data, k, 1.0))[0]) for k in (1, 4, 16)]
    assert values == sorted(values)
    assert 0 < values[-1] < float(whole)


@pytest.mark.parametrize("k", [None, 5])
def test_one_batch_is_four_micro_batches(k):
    student, teacher, data = model(0), model(1), batch()
    made = Distill(None if k else teacher, beta=0.3, temperature=2.0, hard=0.5)
    data = cached(teacher, data, k, 2.0) if k else data
    whole = made(student, data)[0] / made.weight(data)
    parts = [{name: tensor[at : at + 1] for name, tensor in data.items()} for at in range(4)]
    total = sum(made(student, part)[0] for part in parts) / sum(made.weight(part) for part in parts)
    torch.testing.assert_close(whole, total)
    for found, wanted in zip(
        torch.autograd.grad(total, list(student.parameters())), torch.autograd.grad(whole, list(student.parameters()))
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_the_teacher_is_evaluated_and_left_as_it_was():
    student, teacher, data = model(0), model(1), batch()
    seen = []
    teacher.register_forward_pre_hook(lambda module, _: seen.append((module.training, torch.is_grad_enabled())))
    teacher.train()
    Distill(teacher)(student, data)[0].backward()
    assert seen == [(False, False)]
    assert teacher.training
    assert all(parameter.grad is None for parameter in teacher.parameters())
    with torch.no_grad():
        assert not Distill(teacher)(student, data)[0].requires_grad


def test_hidden_states_are_matched_through_a_projection_that_learns():
    student, teacher, data = Projected(model(0), teacher_width=24), model(1, width=24), batch()
    made = Distill(teacher, hidden=0.7, chunk=4)
    loss, metrics = made(student, data)

    def hidden(x_BTC, w_VC):
        return x_BTC

    gap = student.projection(student.student(data["input_ids"], readout=hidden))
    gap = gap - teacher(data["input_ids"], readout=hidden).detach()
    expected = (gap.square().mean(-1) * data["weights"]).sum()
    torch.testing.assert_close(metrics["hidden"].total, expected.detach())
    torch.testing.assert_close(loss, metrics["divergence"].total + 0.7 * expected)
    found = torch.autograd.grad(loss, student.projection.weight)[0]
    torch.testing.assert_close(found, 0.7 * torch.autograd.grad(expected, student.projection.weight)[0])


def test_all_masked_is_zero():
    student, data = model(0), batch()
    data["weights"].zero_()
    made = Distill(model(1))
    loss, _ = made(student, data)
    assert float(loss) == 0
    assert float(made.weight(data)) == 0
    loss.backward()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"beta": 1.5}, "beta is 1.5"),
        ({"temperature": 0}, "temperature is 0"),
        ({"hard": -0.1}, "hard is -0.1"),
        ({"hidden": 0.1}, "hidden needs a teacher"),
    ],
)
def test_settings_that_make_no_loss(settings, says):
    with pytest.raises(ConfigError, match=says):
        Distill(**settings)


def test_mismatches_are_named():
    with pytest.raises(ConfigError, match="teacher's vocabulary is 50 and the student's 61"):
        Distill(model(1, vocab=50))(model(0), batch() | {"input_ids": torch.zeros(4, 9, dtype=torch.long)})
    with pytest.raises(ConfigError, match="Projected student"):
        Distill(model(1), hidden=0.1)(model(0), batch())
