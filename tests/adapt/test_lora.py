"""Adapters that PEFT saved against PEFT computing them; GGUF's layout against PEFT's; and all that can be damaged."""

from __future__ import annotations

import copy
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from modelworks.adapt.lora import CONFIG, WEIGHTS, Adapter, Applied, read
from modelworks.core.errors import ModelFileError
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
    "gpt2": ("GPT2Config", GPT2),
}
IDS_BT = torch.randint(3, 97, (2, 13), generator=torch.Generator().manual_seed(1))
Q = "base_model.model.model.layers.1.self_attn.q_proj.lora_{}.weight"


@pytest.fixture(scope="module")
def pair_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Any]]:
    """The same random weights as transformers' model and as ours."""
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


def peft_model(hf: Any, folder: Path, **settings: Any) -> Any:
    """PEFT's model with a random adapter, which it saves."""
    import peft

    model = peft.get_peft_model(copy.deepcopy(hf), peft.LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return model


@torch.no_grad()
def logits(model: Any, adapter: Adapter | None = None) -> torch.Tensor:
    if adapter is None:
        return model(IDS_BT)
    with Applied(model, adapter.matrices()):
        return model(IDS_BT)


def assert_equal(ours: torch.Tensor, theirs: Any) -> None:
    with torch.no_grad():
        expected = theirs(IDS_BT).logits
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {"r": 4, "lora_alpha": 6, "target_modules": "all-linear"}),
        ("llama", {"r": 4, "lora_alpha": 6, "use_rslora": True, "target_modules": ["q_proj", "down_proj"]}),
        (
            "llama",
            {
                "r": 4,
                "lora_alpha": 6,
                "target_modules": ["k_proj", "v_proj", "gate_proj"],
                "rank_pattern": {"v_proj": 2, r"layers\.[01]\..*gate_proj": 7},
                "alpha_pattern": {"model.layers.2.self_attn.k_proj": 1},
            },
        ),
        ("llama", {"r": 3, "target_modules": ["o_proj", "up_proj"], "layers_to_transform": [0, 2]}),
        ("llama", {"r": 3, "target_modules": ["q_proj", "up_proj"], "exclude_modules": ["layers.1.mlp.up_proj"]}),
        ("llama", {"r": 3, "target_modules": r".*\.[02]\.self_attn\.[qv]_proj"}),
        ("qwen2", {"r": 5, "lora_alpha": 3, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}),
        ("gpt2", {"r": 4, "lora_alpha": 2, "target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    ],
)
def test_it_computes_what_peft_computes(
    family: str, settings: dict[str, Any], pair_of: Callable[[str], tuple[Any, Any]], tmp_path: Path
) -> None:
    hf, ours = pair_of(family)
    theirs = peft_model(hf, tmp_path, **settings)
    adapter = read(tmp_path, ours)
    found = logits(ours, adapter)
    assert_equal(found, theirs)
    assert float((found - logits(ours)).abs().max()) > 0.1
    assert_equal(logits(ours), hf)


def test_a_model_without_weights_is_enough_to_read_for(
    pair_of: Callable[[str], tuple[Any, Any]], tmp_path: Path
) -> None:
    """As a GGUF file's is, which the native program computes."""
    hf, ours = pair_of("llama")
    peft_model(hf, tmp_path / "adapter", r=2, target_modules=["q_proj"])
    hf.save_pretrained(tmp_path / "model")
    weightless = load(tmp_path / "model", device="meta")
    assert read(tmp_path / "adapter", weightless).digest == read(tmp_path / "adapter", ours).digest


def test_other_threads_compute_without_it(pair_of: Callable[[str], tuple[Any, Any]], tmp_path: Path) -> None:
    hf, ours = pair_of("llama")
    peft_model(hf, tmp_path, r=2, target_modules=["q_proj"])
    plain, seen = logits(ours), []
    with Applied(ours, read(tmp_path, ours).matrices()):
        thread = threading.Thread(target=lambda: seen.append(logits(ours)))
        thread.start()
        thread.join()
    assert torch.equal(seen[0], plain)
    assert torch.equal(logits(ours), plain)


def test_half_precision_weights(pair_of: Callable[[str], tuple[Any, Any]], tmp_path: Path) -> None:
    hf, ours = pair_of("llama")
    peft_model(hf, tmp_path, r=2, target_modules=["q_proj"])
    exact = read(tmp_path, ours).additions["layers.1.self_attn.q_proj"]
    tensors = load_file(tmp_path / WEIGHTS)
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, tmp_path / WEIGHTS)
    found = read(tmp_path, ours).additions["layers.1.self_attn.q_proj"]
    assert found.a_rC.dtype == np.float32
    np.testing.assert_allclose(found.a_rC, exact.a_rC, rtol=2**-8)


def test_the_digest_is_that_of_what_is_computed(tiny: Llama, save_adapter: Callable[..., Path], tmp_path: Path) -> None:
    first, again, other, scaled = (
        read(save_adapter(tmp_path / str(at), tiny, **settings), tiny).digest
        for at, settings in enumerate(({}, {}, {"seed": 1}, {"lora_alpha": 5}))
    )
    assert first == again
    assert len({first, other, scaled}) == 3


# --- GGUF -------------------------------------------------------------------------------------------------------------

PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to the rows of q and k."""
    return rows.reshape(heads, 2, len(rows) // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def to_gguf(folder: Path, path: Path, *, arch: str = "llama", metadata: dict[str, Any] | None = None) -> Path:
    """A PEFT folder as llama.cpp's `convert_lora_to_gguf.py` writes it."""
    config = json.loads((folder / CONFIG).read_text())
    writer = gguf.GGUFWriter(path, arch)
    stated = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": float(config["lora_alpha"])}
    for key, value in (stated | (metadata or {})).items():
        if value is not None:
            (writer.add_string if isinstance(value, str) else writer.add_float32)(key, value)
    for name, tensor in load_file(folder / WEIGHTS).items():
        layer, part, half = re.fullmatch(
            r"base_model\.model\.model\.layers\.(\d+)\.(.+)\.(lora_[AB])\.weight", name
        ).groups()
        values = tensor.numpy()
        if arch == "llama" and half == "lora_B" and part in ("self_attn.q_proj", "self_attn.k_proj"):
            heads = SHAPE["num_attention_heads" if "q_proj" in part else "num_key_value_heads"]
            values = np.ascontiguousarray(interleaved(values, heads))
        writer.add_tensor(f"blk.{layer}.{PARTS[part]}.weight.{half.lower()}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_gguf_file_is_the_same_adapter(
    family: str, pair_of: Callable[[str], tuple[Any, Any]], tmp_path: Path
) -> None:
    """Llama's q and k lie otherwise in GGUF, the rows of b with them; Qwen2's do not."""
    hf, ours = pair_of(family)
    theirs = peft_model(hf, tmp_path / "peft", r=4, lora_alpha=6, target_modules="all-linear")
    file = to_gguf(tmp_path / "peft", tmp_path / "adapter.gguf", arch=family)
    assert_equal(logits(ours, read(file, ours)), theirs)
    assert read(file, ours).digest == read(tmp_path / "peft", ours).digest


def test_a_gguf_file_that_states_no_alpha_has_the_scale_1(
    tiny: Llama, save_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    """llama.cpp's rule."""
    folder = save_adapter(tmp_path / "peft", tiny, lora_alpha=40)
    for alpha in (None, 0.0):
        file = to_gguf(folder, tmp_path / "adapter.gguf", metadata={"adapter.lora.alpha": alpha})
        assert {each.scale for each in read(file, tiny).additions.values()} == {1.0}


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"general.type": "model"}, "general.type is 'model'"),
        ({"general.type": None}, "general.type is None"),
        ({"adapter.type": "control_vector"}, "adapter.type is 'control_vector'"),
        ({"adapter.lora.alpha": "big"}, "adapter.lora.alpha is 'big'"),
        ({"adapter.lora.alpha": float("nan")}, "adapter.lora.alpha is nan"),
        ({"adapter.alora.invocation_tokens": "1 2"}, "aLoRA"),
    ],
)
def test_a_gguf_file_of_another_kind(
    metadata: dict[str, Any], said: str, tiny: Llama, save_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    file = to_gguf(save_adapter(tmp_path / "peft", tiny), tmp_path / "adapter.gguf", metadata=metadata)
    with pytest.raises(ModelFileError, match=said) as raised:
        read(file, tiny)
    assert str(file) in str(raised.value)


def test_a_gguf_file_for_another_model(tiny: Llama, save_adapter: Callable[..., Path], tmp_path: Path) -> None:
    file = to_gguf(save_adapter(tmp_path / "peft", tiny), tmp_path / "adapter.gguf", arch="qwen2")
    with pytest.raises(ModelFileError, match="an adapter for qwen2 does not fit a llama model"):
        read(file, tiny)
    wide = Llama(LlamaConfig.from_hf({"model_type": "llama", **SHAPE, "hidden_size": 96}))
    file = to_gguf(tmp_path / "peft", tmp_path / "adapter.gguf")
    with pytest.raises(ModelFileError, match=r"tensor blk.0.\w+.weight.lora_. is .*, expected .* the rank is 4"):
        read(file, wide)


# --- what is damaged or not supported ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny() -> Llama:
    torch.manual_seed(0)
    return Llama(LlamaConfig.from_hf({"model_type": "llama", **SHAPE})).eval()


@pytest.fixture
def saved(tiny: Llama, save_adapter: Callable[..., Path], tmp_path: Path) -> Path:
    """A sound adapter, to be damaged."""
    folder = save_adapter(tmp_path / "adapter", tiny, targets=("q_proj", "up_proj"))
    assert len(read(folder, tiny).additions) == 6
    return folder


def refused(folder: Path, model: Llama, *parts: str) -> None:
    with pytest.raises(ModelFileError) as raised:
        read(folder, model)
    said = str(raised.value)
    assert "\n" not in said
    for part in (str(folder), *parts):
        assert part in said, said


def change(folder: Path, **config: Any) -> None:
    stated = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(stated | config))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"peft_type": None}, "peft_type None"),
        ({"use_dora": True}, "use_dora=True"),
        ({"bias": "all"}, "bias='all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save=['lm_head']"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"lora_bias": True}, "lora_bias=True"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"target_parameters": ["experts.up"]}, "target_parameters"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"something_of_a_later_peft": True}, "something_of_a_later_peft=True"),
        ({"r": 0}, "r must be a positive"),
        ({"r": "8"}, "r must be a positive"),
        ({"lora_alpha": "x"}, "lora_alpha must be a number"),
        ({"use_rslora": 1}, "use_rslora must be true or false"),
        ({"rank_pattern": [1]}, "rank_pattern must be an object"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern['q_proj']"),
        ({"rank_pattern": {"q_proj(": 4}}, "no regular expression"),
        ({"alpha_pattern": {"q_proj": None}}, "alpha_pattern['q_proj']"),
        ({"target_modules": [1]}, "target_modules must be a list of str"),
        ({"target_modules": ["nothing"]}, "names no matrix"),
    ],
)
def test_what_a_config_may_not_ask_for(config: dict[str, Any], said: str, saved: Path, tiny: Llama) -> None:
    change(saved, **config)
    refused(saved, tiny, CONFIG, said)


def test_a_config_that_is_none(saved: Path, tiny: Llama) -> None:
    (saved / CONFIG).write_text("{")
    refused(saved, tiny, CONFIG, "not valid JSON")
    (saved / CONFIG).unlink()
    refused(saved, tiny, f"it has no {CONFIG}")


def test_no_such_place(tmp_path: Path, tiny: Llama) -> None:
    refused(tmp_path / "none", tiny, "no such file or folder", CONFIG)


def test_a_file_cut_off(saved: Path, tiny: Llama) -> None:
    whole = (saved / WEIGHTS).read_bytes()
    for size in (0, 5, 200, len(whole) - 1):
        (saved / WEIGHTS).write_bytes(whole[:size])
        refused(saved, tiny, WEIGHTS, "damaged or cut short")


def test_no_weights(saved: Path, tiny: Llama) -> None:
    (saved / WEIGHTS).unlink()
    refused(saved, tiny, WEIGHTS, "missing")
    (saved / "adapter_model.bin").touch()
    refused(saved, tiny, "adapter_model.bin", "can run code")


def with_tensors(saved: Path, changed: dict[str, torch.Tensor | None]) -> None:
    tensors = {name: tensor for name, tensor in (load_file(saved / WEIGHTS) | changed).items() if tensor is not None}
    save_file(tensors, saved / WEIGHTS)


HEAD = "base_model.model.lm_head.lora_A.weight"
DORA = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector.weight"
EMBEDDING = "base_model.model.model.embed_tokens.lora_embedding_A"
LATER = "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"
UNSTATED = "base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight"
TWICE = "base_model.model.layers.1.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({Q.format("A"): torch.zeros(3, 48)}, (Q.format("A"), "(3, 48)", "expected (4, 48)", "rank is 4")),
        ({Q.format("A"): torch.zeros(4, 47)}, (Q.format("A"), "(4, 47)", "expected (4, 48)")),
        ({Q.format("B"): torch.zeros(4, 48)}, (Q.format("B"), "(4, 48)", "expected (48, 4)")),
        ({Q.format("B"): torch.zeros(48)}, (Q.format("B"), "(48,)", "expected (48, 4)")),
        ({Q.format("A"): torch.full((4, 48), torch.nan)}, (Q.format("A"), "not finite")),
        ({Q.format("B"): torch.full((48, 4), -torch.inf)}, (Q.format("B"), "not finite")),
        ({Q.format("B"): torch.full((48, 4), 1e300, dtype=torch.float64)}, (Q.format("B"), "not finite")),
        ({Q.format("A"): torch.zeros(4, 48, dtype=torch.int8)}, (Q.format("A"), "torch.int8")),
        ({Q.format("B"): None}, (Q.format("B"), "is missing, the other half of", Q.format("A"))),
        ({Q.format("A"): None}, (Q.format("A"), "is missing, the other half of", Q.format("B"))),
        ({Q.format("A"): None, Q.format("B"): None}, ("layers.1.self_attn.q_proj", "no tensors for it")),
        ({LATER: torch.zeros(4, 48)}, (LATER, "no place")),
        ({HEAD: torch.zeros(4, 48)}, (HEAD, "embedding or head is not supported")),
        ({EMBEDDING: torch.zeros(4, 97)}, (EMBEDDING, "no half of a LoRA matrix")),
        ({DORA: torch.zeros(48)}, (DORA, "no half of a LoRA matrix")),
        ({UNSTATED: torch.zeros(4, 48)}, (UNSTATED, "does not name layers.0.self_attn.k_proj")),
        ({TWICE: torch.zeros(4, 48)}, (TWICE, "the same half")),
    ],
)
def test_what_tensors_may_not_be(
    changed: dict[str, torch.Tensor | None], said: tuple[str, ...], saved: Path, tiny: Llama
) -> None:
    with_tensors(saved, changed)
    refused(saved, tiny, WEIGHTS, *said)


def test_no_tensors(saved: Path, tiny: Llama) -> None:
    save_file({}, saved / WEIGHTS)
    refused(saved, tiny, WEIGHTS, "empty")


def test_a_scale_beyond_all_numbers(saved: Path, tiny: Llama) -> None:
    change(saved, lora_alpha=1e39)
    refused(saved, tiny, WEIGHTS, "times its scale")


def test_matrices_of_another_model(tiny: Llama) -> None:
    with pytest.raises(ValueError, match=r"no matrix layers\.7"):
        Applied(tiny, {"layers.7.self_attn.q_proj": (np.zeros((1, 48), np.float32), np.zeros((48, 1), np.float32))})
