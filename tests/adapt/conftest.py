"""For adapters: one model as transformers' and as ours, PEFT's adapters of it, and what all tests compare."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from modelworks.models.llama import Llama, LlamaConfig
from modelworks.models.load import load

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
GPT2 = {"vocab_size": 97, "n_positions": 64, "n_embd": 48, "n_layer": 2, "n_head": 6, "initializer_range": 0.3}
FAMILIES = {
    "llama": ("LlamaConfig", SHAPE),
    "qwen2": ("Qwen2Config", SHAPE | {"tie_word_embeddings": True}),
    "gpt2": ("GPT2Config", GPT2 | {"embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0}),
}


@pytest.fixture(scope="session")
def shape() -> dict[str, Any]:
    return SHAPE


@pytest.fixture(scope="session")
def ids_BT() -> torch.Tensor:
    return torch.randint(3, 97, (2, 13), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def pair_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Any]]:
    """The same random weights as transformers' model and as ours, which no test may change."""
    made: dict[str, tuple[Any, Any]] = {}

    def pair(name: str) -> tuple[Any, Any]:
        if name not in made:
            import transformers

            kind, shape = FAMILIES[name]
            torch.manual_seed(0)
            hf = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**shape)).eval()
            folder = tmp_path_factory.mktemp(name)
            hf.save_pretrained(folder)
            made[name] = hf, load(folder)
        return made[name]

    return pair


@pytest.fixture(scope="session")
def tiny() -> Llama:
    """A model that no test may change."""
    torch.manual_seed(0)
    return Llama(LlamaConfig.from_hf({"model_type": "llama", **SHAPE})).eval()


@pytest.fixture
def fresh(tiny: Llama) -> Llama:
    return copy.deepcopy(tiny)


@pytest.fixture(scope="session")
def peft_model() -> Callable[..., Any]:
    """PEFT's model with a random adapter, which it saves."""

    def make(hf: Any, folder: Path, **settings: Any) -> Any:
        import peft

        model = peft.get_peft_model(copy.deepcopy(hf), peft.LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_magnitude" in name:
                    parameter.mul_(1 + 0.3 * torch.rand(parameter.shape, generator=generator))
                elif "lora_" in name:
                    parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        model.save_pretrained(folder)
        return model

    return make


@pytest.fixture(scope="session")
def assert_equal() -> Callable[..., None]:
    """Two tensors differ by at most 1e-6 of the greatest magnitude, or by so many times that."""

    def check(found: torch.Tensor, expected: torch.Tensor, *, times: float = 1) -> None:
        torch.testing.assert_close(found, expected, rtol=0, atol=times * 1e-6 * float(expected.abs().max()))

    return check
