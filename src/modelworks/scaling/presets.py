"""Well-known models: their sizes and the tokens they were trained on, from their papers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """`embeddings` are the parameters of vocabulary and positions, an untied head included."""

    name: str
    parameters: float
    embeddings: float
    tokens: float
    source: str


def _llama(name: str, parameters: float, width: int, tokens: float, source: str, vocabulary: int = 32_000) -> Preset:
    return Preset(name, parameters, 2 * vocabulary * width, tokens, source)


_LLAMA1, _LLAMA2, _LLAMA3 = "arXiv:2302.13971, table 2", "arXiv:2307.09288, table 1", "arXiv:2407.21783, table 3"

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("gpt-3", 174_604_259_328, (50_257 + 2048) * 12_288, 300e9, "arXiv:2005.14165, table 2.1"),
        Preset("gopher", 280e9, 32_000 * 16_384, 300e9, "arXiv:2112.11446, table 1"),
        Preset("chinchilla", 70e9, 32_000 * 8192, 1.4e12, "arXiv:2203.15556, table 4"),
        Preset("palm", 540.35e9, 256_000 * 18_432, 780e9, "arXiv:2204.02311, table 1"),
        _llama("llama-7b", 6_738_415_616, 4096, 1.0e12, _LLAMA1),
        _llama("llama-13b", 13_015_864_320, 5120, 1.0e12, _LLAMA1),
        _llama("llama-33b", 32_528_943_616, 6656, 1.4e12, _LLAMA1),
        _llama("llama-65b", 65_285_660_672, 8192, 1.4e12, _LLAMA1),
        _llama("llama2-7b", 6_738_415_616, 4096, 2.0e12, _LLAMA2),
        _llama("llama2-13b", 13_015_864_320, 5120, 2.0e12, _LLAMA2),
        _llama("llama2-70b", 68_976_648_192, 8192, 2.0e12, _LLAMA2),
        _llama("llama3-8b", 8_030_261_248, 4096, 15e12, _LLAMA3, 128_256),
        _llama("llama3-70b", 70_553_706_496, 8192, 15e12, _LLAMA3, 128_256),
        _llama("llama3.1-405b", 405_853_388_800, 16_384, 15.6e12, _LLAMA3, 128_256),
    )
}
