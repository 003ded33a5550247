"""The native program beside the torch model of each family.

Three things separate them: weights are rounded to 8 bits, activations too, and the cache holds fp16. `rounded` does
the same to the torch model, so the two may differ only where a rounding falls the other way.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modelworks.adapt.adapter import Applied
from modelworks.adapt.read import read
from modelworks.adapt.targets import places_of
from modelworks.core.errors import ConfigError, ModelFileError
from modelworks.kernels.linear import dequantize, pack, quantize, quantize_activations, quantize_rest
from modelworks.kernels.native import native
from modelworks.kernels.program import Embed, Linear, Program
from modelworks.models.gpt2 import GPT2
from modelworks.models.llama import FULL
from modelworks.models.load import load
from modelworks.models.moe import MoE
from modelworks.models.plan import plan

WIKITEXT = Path(__file__).parents[3] / "shared" / "data" / "text" / "wikitext2_valid.txt"

pytestmark = pytest.mark.skipif(native() is None, reason="modelworks was installed without its native kernels")


def round_activations(x: torch.Tensor, *, fine: bool) -> torch.Tensor:
    flat = x.reshape(-1, x.shape[-1]).numpy()
    q, scale = quantize_activations(flat)
    rounded = q * scale[:, :, None]
    if fine:
        rest_q, rest_scale = quantize_rest(flat, q, scale)
        rounded = rounded + rest_q * rest_scale[:, :, None]
    return torch.from_numpy(rounded.reshape(len(flat), -1)[:, : x.shape[-1]]).reshape(x.shape)


def rounded(model: Any, bits: int) -> Any:
    """A copy with weights of so many bits, and activations rounded on their way into each matrix."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(torch.from_numpy(dequantize(pack(quantize(parameter.numpy(), bits)))))
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            fine = name.endswith(("q_proj", "k_proj", "v_proj"))
            module.register_forward_pre_hook(lambda _, args, fine=fine: round_activations(args[0], fine=fine))
    model.model.norm.register_forward_hook(lambda _, args, output: round_activations(output, fine=True))
    return model


class HalfCache:
    """Keys and values rounded to fp16, for one forward pass."""

    length = 0

    def update(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return k.half().float(), v.half().float()


def run(
    program: Program, ids: list[int], chunks: list[int], blocks: list[int] | None = None, adapter: int = -1
) -> np.ndarray:
    """Logits of all tokens of one sequence, given in steps of so many tokens each."""
    table = np.array([blocks or range(program.num_blocks)], np.int32)
    found, held = [], 0
    for count in chunks:
        new = np.array(ids[held : held + count], np.int32)
        everything = np.arange(len(new), dtype=np.int32)
        found.append(
            program.step(new, np.array([0, len(new)]), np.array([held]), table, everything, np.array([adapter]))
        )
        held += len(new)
    return np.concatenate(found)


def some_ids(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(3, 97, count).tolist()


def with_plan(pair: Any) -> Any:
    if isinstance(pair.ours, GPT2 | MoE) or pair.ours.config.rope[FULL].rope_type == "dynamic":
        pytest.skip("it has no plan: see test_what_has_no_plan_is_an_error")
    return plan(pair.ours)


@torch.inference_mode()
def check_beside_torch(model: Any, bits: int) -> float:
    """Hold the program against the rounded model; return its distance from the model itself, in deviations."""
    ids = some_ids(50)
    found = run(Program(plan(model, "q8" if bits == 8 else "q4"), num_blocks=2), ids, [50])
    wanted = rounded(model, bits)(torch.tensor([ids]), cache=HalfCache())[0].numpy()
    exact = model(torch.tensor([ids]))[0].numpy()
    error = np.abs(found - wanted) / exact.std()
    # Where roundings agree, so do the logits; one that falls the other way is a step of 1/254 in one activation, which
    # these random weights, ten times the size of a trained model's, amplify.
    assert np.median(error) < 0.005
    assert error.max() < 0.15
    return float(np.sqrt(((found - exact) ** 2).mean()) / exact.std())


def test_every_family_equals_its_torch_model(pair: Any) -> None:
    with_plan(pair)
    assert check_beside_torch(pair.ours, 8) < 0.15


def test_chunks_and_single_tokens_equal_one_prefill_bit_for_bit(pair: Any) -> None:
    made = with_plan(pair)
    ids = some_ids(50)
    whole = run(Program(made, num_blocks=2), ids, [50])
    for chunks in ([1] * 50, [31, 19], [32, 18], [33, 2, 15], [7, 43]):
        np.testing.assert_array_equal(run(Program(made, num_blocks=2), ids, chunks), whole)
    np.testing.assert_array_equal(run(Program(made, num_blocks=2, num_threads=1), ids, [50]), whole)
    np.testing.assert_array_equal(run(Program(made, num_blocks=9, num_threads=3), ids, [20, 30], [7, 3]), whole)


@pytest.mark.parametrize("wanted", [[], [49], [3, 20, 49], [0, 1, 2], [20, 3], [7, 7], list(range(50))])
def test_tokens_that_are_not_wanted_change_nothing(pair: Any, wanted: list[int]) -> None:
    """After the last attention only wanted rows are computed; what the cache holds is the same."""
    made = with_plan(pair)
    ids = some_ids(51)
    whole = run(Program(made, num_blocks=2), ids, [50, 1])
    program, table = Program(made, num_blocks=2), np.array([[0, 1]])
    some = program.step(np.array(ids[:50]), np.array([0, 50]), np.array([0]), table, np.array(wanted, np.int32))
    np.testing.assert_array_equal(some, whole[wanted])
    np.testing.assert_array_equal(
        program.step(np.array(ids[50:]), np.array([0, 1]), np.array([50]), table, np.array([0])), whole[50:]
    )


@torch.inference_mode()
def test_spans_of_a_long_context_are_joined_to_the_same_bits(pair: Any) -> None:
    """Computed one after the other, or at the same time where a step has less rows than threads can share."""
    made = with_plan(pair)
    ids = some_ids(300)
    whole = run(Program(made, num_blocks=10, num_threads=1), ids, [300])
    alone = run(Program(made, num_blocks=10, num_threads=8), ids, [120, 10, 160, *[1] * 10])
    np.testing.assert_array_equal(alone, whole)
    wanted = rounded(pair.ours, 8)(torch.tensor([ids]), cache=HalfCache())[0].numpy()
    error = np.abs(whole - wanted) / wanted.std()
    # Roundings that fall the other way add up over the context (see check_beside_torch); a lost span would be far more.
    assert np.median(error) < 0.02


def test_neighbours_change_no_bit(pair: Any) -> None:
    """vllm#48271: a row in a batch of unlike sequences, prefills and single tokens, is the row alone."""
    made = with_plan(pair)
    sequences = [some_ids(count, seed) for seed, count in enumerate((40, 1, 33, 17, 5))]
    alone = [run(Program(made, num_blocks=2), ids, [len(ids)]) for ids in sequences]
    program = Program(made, num_blocks=10)
    table = np.arange(10, dtype=np.int32).reshape(5, 2)[::-1].copy()
    held = [0] * 5
    for counts in ([30, 0, 32, 16, 4], [10, 1, 1, 1, 1]):
        parts = [ids[h : h + n] for ids, h, n in zip(sequences, held, counts)]
        starts = np.cumsum([0, *counts])
        found = program.step(np.concatenate(parts), starts, np.array(held), table, np.arange(starts[-1]))
        for b, logits in enumerate(alone):
            rows = found[starts[b] : starts[b + 1]]
            np.testing.assert_array_equal(rows, logits[held[b] : held[b] + counts[b]], err_msg=f"sequence {b}")
        held = [h + n for h, n in zip(held, counts)]


# --- adapters ---------------------------------------------------------------------------------------------------------


def adapter_of(model: Any, save_adapter: Callable[..., Path], folder: Path, **settings: Any) -> dict[str, Any]:
    return read(save_adapter(folder, model, **settings), model).matrices()


def with_adapter(rounded_model: Any, matrices: dict[str, Any]) -> None:
    """Let matrices of a `rounded` model have additions, of their inputs as they are before they are rounded."""
    for place in places_of(rounded_model):
        module = rounded_model.get_submodule(place.name)
        a, b = map(torch.from_numpy, matrices[place.bare])
        inputs: list[torch.Tensor] = []
        module.register_forward_pre_hook(lambda _, args, seen=inputs: seen.append(args[0]), prepend=True)
        module.register_forward_hook(lambda _, args, out, seen=inputs, a=a, b=b: out + seen.pop() @ a.T @ b.T)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["llama", "llama-tied-biased", "qwen3", "gemma3"])
def test_an_adapter_equals_the_torch_models(
    name: str, pair_of: Callable[[str], Any], save_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    """As close as without one (`check_beside_torch`): every part of every layer finds its own matrices."""
    model, ids = pair_of(name).ours, some_ids(50)
    matrices = adapter_of(model, save_adapter, tmp_path, strength=0.2)
    program = Program(plan(model), num_blocks=2)
    plain = run(program, ids, [50])
    found = run(program, ids, [50], adapter=program.add_adapter(matrices))
    reference = rounded(model, 8)
    with_adapter(reference, matrices)
    wanted = reference(torch.tensor([ids]), cache=HalfCache())[0].numpy()
    with Applied(model, matrices):
        exact = model(torch.tensor([ids]))[0].numpy()
    error = np.abs(found - wanted) / exact.std()
    assert np.median(error) < 0.005
    assert error.max() < 0.15
    assert np.median(np.abs(found - plain) / exact.std()) > 0.05


def test_neighbours_with_other_adapters_change_no_bit(
    pair_of: Callable[[str], Any], save_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    """Prefills and single tokens of two adapters and of none, in any company, chunks and number of threads."""
    model = pair_of("llama").ours
    made = plan(model)
    adapters = [
        adapter_of(model, save_adapter, tmp_path / "all", rank=9),
        adapter_of(model, save_adapter, tmp_path / "some", seed=1, rank=2, targets=("k_proj", "up_proj", "down_proj")),
    ]
    chosen = [0, 1, -1, 1, 0]
    sequences = [some_ids(count, seed) for seed, count in enumerate((40, 1, 33, 17, 5))]

    def programs(threads: int, blocks: int) -> Program:
        program = Program(made, num_blocks=blocks, num_threads=threads)
        assert [program.add_adapter(matrices) for matrices in adapters] == [0, 1]
        return program

    alone = [
        run(programs(1, 2), ids, [len(ids)], adapter=number) for ids, number in zip(sequences, chosen, strict=True)
    ]
    without = [run(Program(made, num_blocks=2), ids, [len(ids)]) for ids in sequences]
    np.testing.assert_array_equal(alone[2], without[2])
    assert all(np.abs(alone[b] - without[b]).max() > 0.1 for b in (0, 1, 3, 4))
    np.testing.assert_array_equal(run(programs(3, 2), sequences[0], [7, 20, 1, 1, 11], adapter=0), alone[0])
    for threads in (1, 2, 3):
        program = programs(threads, 10)
        table = np.arange(10, dtype=np.int32).reshape(5, 2)
        held = [0] * 5
        for counts in ([30, 0, 32, 16, 4], [10, 1, 1, 1, 1]):
            parts = [ids[h : h + n] for ids, h, n in zip(sequences, held, counts)]
            starts = np.cumsum([0, *counts])
            found = program.step(
                np.concatenate(parts), starts, np.array(held), table, np.arange(starts[-1]), np.array(chosen)
            )
            for b, logits in enumerate(alone):
                rows = found[starts[b] : starts[b + 1]]
                np.testing.assert_array_equal(rows, logits[held[b] : held[b] + counts[b]], err_msg=f"sequence {b}")
            held = [h + n for h, n in zip(held, counts)]


def test_a_copied_block_serves_another_sequence(pair_of: Callable[[str], Any]) -> None:
    """A shared prefix: the copy is written on, the original is not."""
    made = plan(pair_of("llama").ours)
    ids, other = some_ids(40), some_ids(40)[:20] + some_ids(20, 9)
    whole, wanted = (run(Program(made, num_blocks=2), x, [40]) for x in (ids, other))
    program = Program(made, num_blocks=4)
    run(program, ids, [32, 8], [0, 1])
    program.copy_block(0, 2)
    table = np.array([[2, 3]], np.int32)
    found = program.step(np.array(other[20:]), np.array([0, 20]), np.array([20]), table, np.arange(20))
    np.testing.assert_array_equal(found, wanted[20:])
    last = program.step(np.array(ids[39:]), np.array([0, 1]), np.array([39]), np.array([[0, 1]]), np.array([0]))
    np.testing.assert_array_equal(last[0], whole[39])


@pytest.mark.parametrize("name", ["llama-tied-biased", "llama-llama3", "qwen2", "qwen3", "gemma3"])
@pytest.mark.parametrize("matrices", ["F32", "Q8_0"])
def test_a_file_gives_the_plan_of_its_model(
    name: str, matrices: str, make_hf: Callable[..., Any], to_gguf: Callable[..., Path]
) -> None:
    """Blocks are taken as they are, and Llama's rows back to our order, exactly."""
    path = to_gguf(make_hf(name, hidden_size=96, intermediate_size=128, head_dim=32), matrices=matrices)
    ids = some_ids(40)
    from_file, from_model = plan(path), plan(load(path))
    assert bool(from_file.requantized) == (matrices == "F32")
    found, wanted = (run(Program(made, num_blocks=2), ids, [40]) for made in (from_file, from_model))
    # The model's weights are rounded anew: to the same levels, with scales that may differ in fp16's last bit.
    np.testing.assert_allclose(found, wanted, atol=0.02 * wanted.std())


def test_a_tied_head_is_one_matrix(pair_of: Callable[[str], Any]) -> None:
    """llm-compressor#2835, transformers#37905: the head shares the embedding's packed matrix."""
    for name, tied in (("qwen2", True), ("llama", False)):
        steps = plan(pair_of(name).ours).steps
        assert isinstance(steps[0], Embed)
        assert isinstance(steps[-1], Linear)
        assert (steps[0].table is steps[-1].parts[0]) == tied


def test_four_bits_are_smaller_and_as_exact(pair_of: Callable[[str], Any]) -> None:
    model = pair_of("llama-multi-query").ours
    assert plan(model, "q4").weight_bytes < 0.65 * plan(model, "q8").weight_bytes
    assert check_beside_torch(model, 4) > 0.15


def test_what_is_no_batch_is_refused(pair_of: Callable[[str], Any]) -> None:
    program = Program(plan(pair_of("llama").ours), num_blocks=2)
    good = {"ids_N": [5, 6], "starts_B1": [0, 2], "held_B": [0], "table_BM": [[0, 1]], "wanted_R": [1]}
    bad = {
        "vocabulary": {"ids_N": [5, 97]},
        "run from 0": {"starts_B1": [0, 1]},
        "cache block 2": {"table_BM": [[2, 1]]},
        "cache block -1": {"table_BM": [[0, -1]], "held_B": [31]},
        "needs 3 cache blocks": {"held_B": [64]},
        "negative": {"held_B": [-1]},
        "indices": {"wanted_R": [2]},
        "one entry more": {"held_B": [0, 0]},
    }
    for message, change in bad.items():
        with pytest.raises(ValueError, match=message):
            program.step(**{name: np.array(value, np.int32) for name, value in (good | change).items()})
    for source, target in ((0, 2), (-1, 0)):
        with pytest.raises(ValueError, match="no cache block"):
            program.copy_block(source, target)
    assert program.step(**{name: np.array(value, np.int32) for name, value in good.items()}).shape == (1, 97)


def test_what_has_no_plan_is_an_error(pair_of: Callable[[str], Any]) -> None:
    with pytest.raises(ConfigError, match="dynamic"):
        plan(pair_of("llama-dynamic").ours)
    with pytest.raises(ConfigError, match="GPT2 has no plan"):
        plan(pair_of("gpt2").ours)
    with pytest.raises(ConfigError, match="MoE has no plan"):
        plan(pair_of("mixtral").ours)
    with pytest.raises(ConfigError, match="q5"):
        plan(pair_of("llama").ours, "q5")  # type: ignore[arg-type]


def test_a_file_of_the_wrong_shape_names_its_tensor(make_hf: Callable[..., Any], to_gguf: Callable[..., Path]) -> None:
    path = to_gguf(make_hf("qwen3"), metadata={"qwen3.feed_forward_length": 81})
    with pytest.raises(ModelFileError, match=r"tiny\.gguf.*ffn_gate.*81"):
        plan(path)


def test_a_packed_file_needs_no_torch(starter: Path) -> None:
    """A process that only generates from a file stays small."""
    script = (
        "import sys\nfrom modelworks.models.plan import plan\nfrom modelworks.kernels.program import Program\n"
        "Program(plan(sys.argv[1]), num_blocks=4)\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, str(_file(starter))], check=True)


def _file(starter: Path) -> Path:
    return next(starter.glob("*.gguf")) if starter.is_dir() else starter


def test_the_starter_model_continues_sensibly(starter: Path) -> None:
    tokenizer = load(starter).tokenizer
    program = Program(plan(_file(starter)), num_blocks=2)
    table, held, new, found = np.array([[0, 1]], np.int32), 0, tokenizer.encode("The capital of France is"), []
    for _ in range(4):
        logits = program.step(np.array(new), np.array([0, len(new)]), np.array([held]), table, np.array([len(new) - 1]))
        held, new = held + len(new), [int(logits.argmax())]
        found += new
    assert tokenizer.decode(found).startswith(" Paris")


@pytest.mark.slow
@torch.inference_mode()
def test_perplexity_is_within_half_a_percent_of_the_dequantised_model(starter: Path) -> None:
    if not WIKITEXT.exists():
        pytest.skip("wikitext2_valid.txt is not in ../shared/data/text")
    model = load(starter)
    ids = model.tokenizer.encode(WIKITEXT.read_text()[:12_000])[:2048]
    program = Program(plan(_file(starter)), num_blocks=32)

    def perplexity(logits_of: Callable[[list[int]], torch.Tensor]) -> float:
        losses = [
            torch.nn.functional.cross_entropy(logits_of(ids[at : at + 512])[:-1], torch.tensor(ids[at + 1 : at + 512]))
            for at in range(0, len(ids), 512)
        ]
        return float(torch.stack(losses).mean().exp())

    ours = perplexity(lambda ids: torch.from_numpy(run(program, ids, [len(ids)])))
    exact = perplexity(lambda ids: model(torch.tensor([ids]))[0])
    print(f"perplexity {ours:.4f}, de-quantised {exact:.4f}")
    assert abs(ours / exact - 1) < 0.005
