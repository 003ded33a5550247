"""Adapters on a model: what trains, what they compute, taking them off, and merging them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modelworks.adapt import lora
from modelworks.adapt.lora import AdaptedLinear, LoraConfig
from modelworks.core.errors import ConfigError
from modelworks.models.bert import BertConfig, BertEncoder
from modelworks.models.llama import Llama, LlamaConfig

KINDS = {
    "lora": {},
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "pissa": {"init": "pissa"},
    "gaussian": {"init": "gaussian"},
    "patterns": {"rank_pattern": {r"1\..*": 2}, "alpha_pattern": {"q_proj": 3.0}},
}


def stir(model: nn.Module, seed: int = 3, strength: float = 0.2) -> None:
    """As if it had been trained: every trainable value moves."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                size = parameter.abs().mean() if parameter.dim() == 1 else 1
                parameter.add_(strength * size * torch.randn(parameter.shape, generator=generator))


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same_state(model: nn.Module, before: dict[str, Tensor]) -> None:
    after = model.state_dict()
    assert list(after) == list(before)
    for name, value in before.items():
        assert torch.equal(after[name], value), name


@torch.no_grad()
def outputs(model: nn.Module, ids_BT: Tensor) -> Tensor:
    return model(ids_BT)


# --- what trains ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_at_first_it_changes_nothing_and_then_only_it_trains(
    kind: str, fresh: Llama, ids_BT: Tensor, assert_equal: Callable[..., None]
) -> None:
    plain, before = outputs(fresh, ids_BT), state(fresh)
    torch.manual_seed(0)
    trainable = lora.apply(fresh, LoraConfig(rank=4, **KINDS[kind]))
    assert_equal(outputs(fresh, ids_BT), plain, times=5)
    wanted = [parameter for parameter in fresh.parameters() if parameter.requires_grad]
    assert {id(each) for each in wanted} == {id(each) for each in trainable}
    optimizer = torch.optim.SGD(trainable, lr=0.1)
    losses = []
    for _ in range(3):
        loss = nn.functional.cross_entropy(fresh(ids_BT[:, :-1]).flatten(0, 1), ids_BT[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    assert all(parameter.grad is None for parameter in fresh.parameters() if not parameter.requires_grad)
    assert float((outputs(fresh, ids_BT) - plain).abs().max()) > 1e-3
    lora.remove(fresh)
    assert_same_state(fresh, before)
    assert torch.equal(outputs(fresh, ids_BT), plain)
    assert not lora.adapted(fresh)


def test_doras_magnitudes_move(fresh: Llama, ids_BT: Tensor) -> None:
    """torchtune#2250: they were loaded, but stood still in training."""
    lora.apply(fresh, LoraConfig(rank=4, dora=True))
    before = {path: part.m_R.detach().clone() for path, part in lora.parts_of(fresh).items()}
    optimizer = torch.optim.AdamW([p for p in fresh.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    fresh(ids_BT).square().mean().backward()
    optimizer.step()
    for path, part in lora.parts_of(fresh).items():
        assert ((part.m_R - before[path]).abs() > 1e-3).all(), path


def test_gradients_equal_pefts(
    pair_of: Callable[[str], tuple[Any, Any]], ids_BT: Tensor, assert_equal: Callable[..., None], tmp_path: Any
) -> None:
    """Also through what is fused here, and through DoRA's norms, which have none."""
    import peft as oracle

    from modelworks.adapt import peft

    for config in (LoraConfig(rank=3, rslora=True), LoraConfig(rank=3, dora=True, alpha=5.0)):
        hf, ours = (copy.deepcopy(each).double() for each in pair_of("llama"))
        lora.apply(ours, config)
        stir(ours)
        peft.save(ours, tmp_path)
        theirs = oracle.PeftModel.from_pretrained(hf, tmp_path, is_trainable=True).double()
        labels_BT = ids_BT.roll(-1, 1)
        nn.functional.cross_entropy(theirs(ids_BT).logits.flatten(0, 1), labels_BT.flatten()).backward()
        nn.functional.cross_entropy(ours(ids_BT).flatten(0, 1), labels_BT.flatten()).backward()
        expected = {
            name.removeprefix("base_model.model.").replace(".default", ""): each.grad
            for name, each in theirs.named_parameters()
            if each.requires_grad
        }
        for path, part in lora.parts_of(ours).items():
            assert_equal(part.a_rC.grad.double(), expected[f"{path}.lora_A.weight"])
            assert_equal(part.b_Rr.grad.double(), expected[f"{path}.lora_B.weight"])
            if part.m_R is not None:
                assert_equal(part.m_R.grad.double(), expected[f"{path}.lora_magnitude_vector.weight"])


@pytest.mark.parametrize("dora", [False, True])
def test_dropout_is_of_the_adapter_alone_and_of_training_alone(dora: bool, fresh: Llama, ids_BT: Tensor) -> None:
    plain = outputs(fresh, ids_BT)
    lora.apply(fresh, LoraConfig(rank=4, dropout=0.5, dora=dora))
    fresh.train()
    torch.testing.assert_close(outputs(fresh, ids_BT), plain)  # b is zero, so nothing else may be dropped
    stir(fresh)
    assert not torch.equal(outputs(fresh, ids_BT), outputs(fresh, ids_BT))
    fresh.eval()
    assert torch.equal(outputs(fresh, ids_BT), outputs(fresh, ids_BT))


def test_a_thawed_base_trains_beside_it(fresh: Llama, ids_BT: Tensor) -> None:
    lora.apply(fresh, LoraConfig(rank=4))
    frozen = outputs(fresh, ids_BT)
    fresh.requires_grad_(True)
    found = fresh(ids_BT)
    torch.testing.assert_close(found, frozen)
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in fresh.parameters())


def test_a_base_in_half_precision_has_an_adapter_in_single(fresh: Llama, ids_BT: Tensor) -> None:
    fresh.bfloat16()
    trainable = lora.apply(fresh, LoraConfig(rank=4, dora=True))
    assert {each.dtype for each in trainable} == {torch.float32}
    assert fresh(ids_BT).dtype == torch.bfloat16
    lora.bake(fresh)
    assert {each.dtype for each in fresh.parameters()} == {torch.bfloat16}


def test_pissa_begins_with_the_largest_singular_values(fresh: Llama) -> None:
    """Meng et al. 2024: b a is the best approximation of rank r."""
    lora.apply(fresh, LoraConfig(rank=5, alpha=7.0, init="pissa", targets=("down_proj",)))
    for path, part in lora.parts_of(fresh).items():
        w_RC = fresh.get_submodule(path).matrix(torch.float32).detach()
        u, s, v = torch.linalg.svd(w_RC)
        best = u[:, :5] * s[:5] @ v[:5]
        torch.testing.assert_close(part.scale * part.b_Rr @ part.a_rC, best, rtol=0, atol=2e-3 * float(s[0]))
    with pytest.raises(ConfigError, match=r"rank 49 is more than .*q_proj has, which is 48 x 48"):
        lora.apply(fresh, LoraConfig(rank=49, init="pissa", targets=("q_proj",)), "wide")


def decoder(width: int, layers: int) -> Llama:
    with torch.device("meta"):
        shape = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": 4 * width}
        config = {"model_type": "llama", "vocab_size": 50257, "num_attention_heads": 96, **shape}
        return Llama(LlamaConfig.from_hf(config))


def encoder(width: int, layers: int) -> BertEncoder:
    with torch.device("meta"):
        shape = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": 4 * width}
        sizes = {"vocab_size": 50265, "num_attention_heads": width // 64, "max_position_embeddings": 514}
        return BertEncoder(BertConfig.from_hf({**shape, **sizes, "type_vocab_size": 1}))


@pytest.mark.parametrize(
    ("rank", "count"),
    [(1, 4_718_592), (4, 18_874_368), (8, 37_748_736)],
)
def test_published_counts_of_gpt3(rank: int, count: int) -> None:
    """Hu et al. 2021, table 4: q and v of all 96 layers of GPT-3 175B."""
    trainable = lora.apply(decoder(12288, 96), LoraConfig(rank=rank, targets=("q_proj", "v_proj")))
    assert sum(each.numel() for each in trainable) == count


@pytest.mark.parametrize(("width", "layers", "count"), [(768, 12, 294_912), (1024, 24, 786_432)])
def test_published_counts_of_roberta(width: int, layers: int, count: int) -> None:
    """Hu et al. 2021, table 2: RoBERTa base (0.3M) and large (0.8M), q and v at rank 8."""
    trainable = lora.apply(encoder(width, layers), LoraConfig(rank=8, targets=("query", "value")))
    assert sum(each.numel() for each in trainable) == count


# --- several at once --------------------------------------------------------------------------------------------------


def with_two(model: Llama, **settings: Any) -> Llama:
    for seed, (name, targets) in enumerate({"one": ("q_proj", "up_proj"), "two": ("q_proj", "o_proj")}.items()):
        torch.manual_seed(seed)
        lora.apply(model, LoraConfig(rank=3 + seed, targets=targets, **settings), name)
        stir(model, seed)
    return model


def test_an_active_set(fresh: Llama, ids_BT: Tensor, assert_equal: Callable[..., None]) -> None:
    plain = outputs(fresh.double(), ids_BT)
    before = state(fresh)
    with_two(fresh)
    assert lora.names_of(fresh) == ("one", "two")
    found = {}
    for names in ((), ("one",), ("two",), ("one", "two"), ("two", "one")):
        lora.activate(fresh, *names)
        found[names] = outputs(fresh, ids_BT)
        training = {name for name, parameter in fresh.named_parameters() if parameter.requires_grad}
        assert {name.split(".adapters.")[1].split(".")[0] for name in training} == set(names)
    assert torch.equal(found[()], plain)
    assert_equal(found["one", "two"], found["two", "one"])
    assert len({round(float(each.sum()), 3) for each in found.values()}) == 4
    with lora.disabled(fresh):
        assert torch.equal(outputs(fresh, ids_BT), plain)
    assert torch.equal(outputs(fresh, ids_BT), found["two", "one"])
    lora.remove(fresh, "one")
    assert torch.equal(outputs(fresh, ids_BT), found["two",])
    lora.remove(fresh, "two")
    assert_same_state(fresh, before)


def test_disabled_ends_with_an_error_too(fresh: Llama, ids_BT: Tensor) -> None:
    with_two(fresh)
    found = outputs(fresh, ids_BT)
    with pytest.raises(RuntimeError), lora.disabled(fresh):
        raise RuntimeError
    assert torch.equal(outputs(fresh, ids_BT), found)


def test_names(fresh: Llama) -> None:
    lora.apply(fresh, LoraConfig(), "one")
    for name, said in (("one", "has an adapter 'one' already"), ("a.b", "no dot"), ("", "no dot")):
        with pytest.raises(ConfigError, match=said):
            lora.apply(fresh, LoraConfig(), name)
    for call in (lora.activate, lora.remove, lora.parts_of):
        with pytest.raises(ConfigError, match="no adapter 'two' on the model; there are: one"):
            call(fresh, "two")


# --- merging ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_merged_equals_unmerged(kind: str, fresh: Llama, ids_BT: Tensor, assert_equal: Callable[..., None]) -> None:
    fresh.double()
    before = state(fresh)
    lora.apply(fresh, LoraConfig(rank=4, **KINDS[kind]))
    stir(fresh)
    found = outputs(fresh, ids_BT)
    lora.merge(fresh)
    assert_equal(outputs(fresh, ids_BT), found)
    lora.unmerge(fresh)
    assert torch.equal(outputs(fresh, ids_BT), found)
    lora.merge(fresh)
    baked = copy.deepcopy(fresh)
    lora.bake(baked)
    assert list(baked.state_dict()) == list(before)
    assert all(type(module) is not AdaptedLinear for module in baked.modules())
    assert_equal(outputs(baked, ids_BT), found)
    lora.remove(fresh)
    assert_same_state(fresh, before)


def test_several_merged_equal_several_unmerged(fresh: Llama, ids_BT: Tensor, assert_equal: Callable[..., None]) -> None:
    """peft#3608: DoRA adapters on one matrix, merged in turn, were held against a matrix that was merged already."""
    fresh.double()
    with_two(fresh, dora=True)
    torch.manual_seed(9)
    lora.apply(fresh, LoraConfig(rank=2, targets=("q_proj",)), "three")
    stir(fresh)
    lora.activate(fresh, "three", "one", "two")
    found = outputs(fresh, ids_BT)
    lora.merge(fresh)
    assert_equal(outputs(fresh, ids_BT), found)


# --- what is no adapter -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rank": 0}, "rank must be a positive whole number"),
        ({"alpha": float("nan")}, "alpha must be a number"),
        ({"dropout": 1.0}, "drops everything"),
        ({"init": "zeros"}, "unknown init 'zeros'; there are kaiming"),
        ({"targets": "q_proj"}, "targets must be a list of patterns"),
        ({"rank_pattern": {"q_proj": 0}}, "q_proj must be a positive"),
        ({"rank_pattern": {"q_proj(": 2}}, "no regular expression"),
        ({"dora": 1}, "dora must be true or false"),
    ],
)
def test_values_that_are_no_adapter(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        LoraConfig(**values)


def test_patterns_that_match_nothing(fresh: Llama) -> None:
    before = state(fresh)
    for config, said in (
        (LoraConfig(targets=("query",)), r"'query' matches no matrix; the model has self_attn.q_proj \(3\)"),
        (LoraConfig(targets=("q_proj",), rank_pattern={"v_proj": 2}), r"rank_pattern: 'v_proj' .*adapted are .*q_proj"),
        (LoraConfig(targets=("q_proj",), alpha_pattern={"x": 2.0}), "alpha_pattern: 'x' matches no adapted matrix"),
    ):
        with pytest.raises(ConfigError, match=said):
            lora.apply(fresh, config)
    assert_same_state(fresh, before)
