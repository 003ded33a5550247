"""A sensible Llama for a wanted number of parameters: a `config.json` that can be trained as it is.

Within wide limits the shape hardly matters for the loss (Kaplan et al. 2020, section 3.1 and figure 5), so it is chosen
for the machine. Widths are multiples of 64 (of 32 or 16 below two million parameters), heads have 64 or 128 dimensions
where that divides the width, and width over depth is near 64, as in GPT-2, less in small models, up to 128 in large.
"""

from __future__ import annotations

import math
from typing import Any

from modelworks.core.errors import ConfigError

_MOST_LAYERS = 160
_TIED_BELOW = 1e9  # parameters; and in larger models
_TIED_ABOVE = 0.1  # of them for the vocabulary, head and embedding are one
_GROUPED = 3e9  # parameters from which caches are large enough for grouped queries to matter
_GROUPS = 8  # key-value heads, as in Llama 2 70B and Llama 3


def shape_for(parameters: float, *, vocabulary: int, context: int, without_embeddings: bool = False) -> dict[str, Any]:
    """The config whose count comes nearest to `parameters`, of the sensible shapes.

    With `without_embeddings` the vocabulary is not counted. Raises ConfigError where the vocabulary leaves no room.
    """
    best: tuple[float, dict[str, Any]] | None = None
    for width in _widths(parameters):
        tied = parameters < _TIED_BELOW or vocabulary * width > _TIED_ABOVE * parameters
        embeddings = 0 if without_embeddings else vocabulary * width * (1 if tied else 2)
        config = _config(width, 1, vocabulary, context, tied, grouped=parameters >= _GROUPED)
        layer = _layer_parameters(config)
        depth = (parameters - embeddings) / layer
        for layers in {max(math.floor(depth), 1), max(math.ceil(depth), 1)}:
            if not 1 <= layers <= _MOST_LAYERS:
                continue
            count = embeddings + layers * layer + width
            off = abs(math.log(count / parameters)) * 8 + abs(math.log(width / layers / _aspect(width)))
            if best is None or off < best[0]:
                best = off, {**config, "num_hidden_layers": layers}
    assert best is not None
    counted = count_parameters(best[1], without_embeddings=without_embeddings)
    if abs(math.log(counted / parameters)) > math.log(1.3):
        raise ConfigError(
            f"no sensible shape has {parameters:.3g} parameters with a vocabulary of {vocabulary}; the nearest has "
            f"{counted:.3g}; take a smaller vocabulary or another size"
        )
    return best[1]


def count_parameters(config: dict[str, Any], *, without_embeddings: bool = False) -> int:
    """Parameters of a config that `shape_for` made: 4 C^2 of attention (less where grouped) and 3 C I a layer."""
    width = int(config["hidden_size"])
    copies = 0 if without_embeddings else 1 if config["tie_word_embeddings"] else 2
    return copies * config["vocab_size"] * width + config["num_hidden_layers"] * _layer_parameters(config) + width


def _layer_parameters(config: dict[str, Any]) -> int:
    width = int(config["hidden_size"])
    narrow = int(config["num_key_value_heads"] * config["head_dim"])
    return 2 * width * width + 2 * width * narrow + 3 * width * int(config["intermediate_size"]) + 2 * width


def _aspect(width: int) -> float:
    """Width over depth: 64 about a width of 1,000, down to 16 at 64 (no model is one layer), 128 from 8,192 on."""
    if width < 512:
        return max(64 * (width / 512) ** (2 / 3), 8.0)
    return 64 * 2 ** (min(max(math.log2(width / 1024), 0.0), 3.0) / 3)


def _widths(parameters: float) -> list[int]:
    step = 16 if parameters < 2e5 else 32 if parameters < 2e6 else 64 if parameters < _GROUPED else 128 * _GROUPS
    return [step * at for at in range(max(32 // step, 1), 65_536 // step)]


def _config(width: int, layers: int, vocabulary: int, context: int, tied: bool, *, grouped: bool) -> dict[str, Any]:
    head = next(size for size in (128, 64, 32, 16) if width % size == 0 and (size < 128 or width >= 2048))
    heads = width // head
    multiple = 256 if width >= 2048 else 64 if width >= 256 else 32
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": vocabulary,
        "hidden_size": width,
        # 8/3: as many parameters as an ungated perceptron of 4 (Shazeer 2020, arXiv:2002.05202).
        "intermediate_size": math.ceil(8 * width / 3 / multiple) * multiple,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": _GROUPS if grouped else heads,
        "head_dim": head,
        "max_position_embeddings": context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": tied,
    }
