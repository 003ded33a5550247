"""What holds for every family: the logits of transformers, with and without cache, padding and reduced precision."""

from __future__ import annotations

import copy

import pytest
import torch

from modelworks.models.base import evaluating
from modelworks.models.load import load


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Within 1e-5 of the logits' size."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * max(1.0, float(theirs.abs().max())))


def test_logits_equal_transformers(pair, ids_BT):
    with torch.no_grad():
        logits_BTV = pair.ours(ids_BT)
    expected_BTV = pair.hf_logits(ids_BT)
    close(logits_BTV, expected_BTV)
    assert expected_BTV.std() > 0.1, "a model this flat would hide mistakes"


def test_logits_equal_transformers_beyond_the_trained_length(pair_of):
    for name in ("llama-dynamic", "llama-yarn", "llama-linear"):
        pair = pair_of(name)
        ids_BT = torch.randint(3, 97, (1, 90), generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            close(pair.ours(ids_BT), pair.hf_logits(ids_BT))


@pytest.mark.parametrize("first", [1, 4, 12])
def test_cached_steps_equal_one_pass(pair, ids_BT, make_cache, first):
    with torch.no_grad():
        whole_BTV = pair.ours(ids_BT)
        cache = make_cache(pair.ours)
        pieces = [pair.ours(ids_BT[:, :first], cache=cache)]
        rest = ids_BT[:, first:]
        # A piece of several tokens after the cache, then one at a time.
        for part in (rest[:, :3], *rest[:, 3:].split(1, dim=1)):
            if part.shape[1]:
                pieces.append(pair.ours(part, cache=cache))
    close(torch.cat(pieces, 1), whole_BTV)
    assert cache.length == ids_BT.shape[1]


def test_left_padding_changes_nothing(pair, ids_BT, make_cache):
    long, short = ids_BT[0], ids_BT[1, :8]
    padded = torch.cat((torch.zeros(5, dtype=torch.long), short))
    mask_BT = torch.ones(2, 13, dtype=torch.long)
    mask_BT[1, :5] = 0
    batch = torch.stack((long, padded))
    with torch.no_grad():
        logits_BTV = pair.ours(batch, attention_mask_BS=mask_BT)
        close(logits_BTV[0], pair.ours(long[None])[0])
        close(logits_BTV[1, 5:], pair.ours(short[None])[0])
        assert logits_BTV.isfinite().all()
        cache = make_cache(pair.ours)
        pair.ours(batch[:, :10], attention_mask_BS=mask_BT[:, :10], cache=cache)
        step = pair.ours(batch[:, 10:], attention_mask_BS=mask_BT, cache=cache)
        close(step, logits_BTV[:, 10:])
    theirs = pair.hf_logits(batch, attention_mask=mask_BT, position_ids=(mask_BT.cumsum(-1) - 1).clamp_min(0))
    close(logits_BTV[1, 5:], theirs[1, 5:])


def test_right_padding_changes_nothing(pair, ids_BT):
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[1, 8:] = 0
    with torch.no_grad():
        logits_BTV = pair.ours(ids_BT, attention_mask_BS=mask_BT)
        close(logits_BTV[1, :8], pair.ours(ids_BT[1:, :8])[0])


def test_packed_documents_are_what_they_are_alone(pair, ids_BT):
    """A packed document must not see its neighbours, nor have its positions counted on from them (trl#1230)."""
    document_BS = torch.tensor([[1] * 4 + [2] * 6 + [3] * 3, [1] * 9 + [2] * 2 + [0] * 2])
    with torch.no_grad():
        packed_BTV = pair.ours(ids_BT, attention_mask_BS=document_BS)
        for row, start, end in ((0, 0, 4), (0, 4, 10), (0, 10, 13), (1, 0, 9), (1, 9, 11)):
            alone_BTV = pair.ours(ids_BT[row : row + 1, start:end])
            close(packed_BTV[row : row + 1, start:end], alone_BTV)


def test_a_readout_gets_hidden_states_and_head_and_its_result_is_returned(pair, ids_BT):
    with torch.no_grad():
        logits_BTV, head_VC = pair.ours(ids_BT, readout=lambda x_BTC, w_VC: (x_BTC @ w_VC.T, w_VC))
        torch.testing.assert_close(logits_BTV, pair.ours(ids_BT))
    assert head_VC is pair.ours.output_embedding()


def test_a_fully_masked_row_is_finite_in_bfloat16(pair, ids_BT):
    """efficient.md fault 9 (pytorch#103749): output and gradient."""
    model = load(pair.folder, dtype=torch.bfloat16)
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[0, :6] = 0
    mask_BT[1] = 0
    logits_BTV = model(ids_BT, attention_mask_BS=mask_BT)
    logits_BTV.float().square().mean().backward()
    assert logits_BTV.isfinite().all()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())


def test_bfloat16_is_close_to_transformers_bfloat16(pair, ids_BT):
    """The order of rounding matters here: the same casts at the same places keep the two together."""
    ours = load(pair.folder, dtype=torch.bfloat16)
    theirs = copy.deepcopy(pair.hf).to(torch.bfloat16)
    with torch.no_grad():
        exact, a, b = pair.hf(ids_BT).logits, ours(ids_BT).float(), theirs(ids_BT).logits.float()
    rounding = (b - exact).square().mean().sqrt()
    assert (a - exact).square().mean().sqrt() < 1.5 * rounding


def test_last_only_is_the_last_of_all(pair, ids_BT):
    with torch.no_grad():
        logits_B1V = pair.ours(ids_BT, last_only=True)
        assert logits_B1V.shape == (2, 1, 97)
        close(logits_B1V, pair.ours(ids_BT)[:, -1:])


def test_given_positions_are_used(pair_of, ids_BT):
    pair = pair_of("gpt2")
    positions_BT = torch.arange(13).flip(0).expand(2, 13)
    with torch.no_grad():
        close(pair.ours(ids_BT, positions_BT=positions_BT), pair.hf_logits(ids_BT, position_ids=positions_BT))


@pytest.mark.parametrize(
    ("ids", "more", "says"),
    [
        (torch.zeros(3, dtype=torch.long), {}, r"\(batch, tokens\)"),
        (torch.zeros(2, 0, dtype=torch.long), {}, "neither empty"),
        (torch.zeros(2, 3, dtype=torch.long), {"attention_mask_BS": torch.ones(2, 4)}, r"\(2, 3\).*\(2, 4\)"),
        (torch.zeros(2, 3, dtype=torch.long), {"positions_BT": torch.ones(2, 1)}, r"\(2, 3\).*\(2, 1\)"),
    ],
)
def test_wrong_shapes_are_named(pair_of, ids, more, says):
    with pytest.raises(ValueError, match=says):
        pair_of("llama").ours(ids, **more)


def test_evaluating_leaves_each_module_as_it_was():
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Sequential(torch.nn.Dropout()))
    model[1].eval()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert model.training
    assert model[0].training
    assert not model[1].training
