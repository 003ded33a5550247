"""A model folder in the Hugging Face layout: `config.json`, one or more `.safetensors`, and what goes with them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from modelworks.core.errors import ModelFileError
from modelworks.core.paths import read_json
from modelworks.models.registry import family_of

if TYPE_CHECKING:
    from modelworks.text.tokenizer import Tokenizer

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
GENERATION = "generation_config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class FolderModel:
    """A folder as a checkpoint: `config`, and `names` bare as in `registry.Family`.

    Raises ModelFileError for files that are missing, cut short or corrupt, and for quantised weights.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / CONFIG).exists():
            raise ModelFileError(f"{path}: it has no {CONFIG}, so it is no model folder")
        self.config = read_json(path / CONFIG)
        if quantisation := self.config.get("quantization_config"):
            method = quantisation.get("quant_method") if isinstance(quantisation, dict) else quantisation
            raise ModelFileError(f"{path}: weights quantised with {method!r} are not supported")
        self.family = family_of(self.config)
        self.names: dict[str, str] = {}
        self._files: dict[str, Any] = {}
        for shard, listed in self._shards().items():
            file = self._open(shard)
            held = set(file.keys())
            if absent := sorted(listed - held):
                raise ModelFileError(f"{shard}: it lacks {absent[0]}, which {INDEX} says it holds")
            for name in listed or held:
                bare = self.family.bare(name)
                if bare in self.names:
                    raise ModelFileError(f"{shard}: {name} and {self.names[bare]} are the same parameter")
                self.names[bare] = name
                self._files[bare] = file

    def _shards(self) -> dict[Path, set[str]]:
        """Each file, with the tensors that the index lists in it (none without an index)."""
        if (self.path / WEIGHTS).exists():
            return {self.path / WEIGHTS: set()}
        if not (self.path / INDEX).exists():
            others = [p.name for p in sorted(self.path.iterdir()) if p.suffix in (".bin", ".pt", ".pth")]
            hint = f"; {others[0]} is of a kind that is not read, as it can run code" if others else ""
            raise ModelFileError(f"{self.path}: neither {WEIGHTS} nor {INDEX} is there{hint}")
        listed = read_json(self.path / INDEX).get("weight_map")
        if not isinstance(listed, dict) or not listed:
            raise ModelFileError(f"{self.path / INDEX}: it has no weight_map")
        shards: dict[Path, set[str]] = {}
        for name, file in listed.items():
            if not isinstance(file, str) or Path(file).name != file:
                raise ModelFileError(f"{self.path / INDEX}: {name} is said to be in {file!r}, which is no file name")
            shards.setdefault(self.path / file, set()).add(name)
        return shards

    def _open(self, shard: Path) -> Any:
        try:
            return safe_open(shard, framework="pt")
        except FileNotFoundError as error:
            raise ModelFileError(f"{shard}: it is missing") from error
        except (OSError, SafetensorError) as error:
            raise ModelFileError(f"{shard}: damaged or cut short ({error}); fetch it again") from error

    def shape(self, bare: str) -> tuple[int, ...]:
        shape = tuple(self._files[bare].get_slice(self.names[bare]).get_shape())
        return shape[::-1] if self._is_transposed(bare) else shape

    def _is_transposed(self, bare: str) -> bool:
        return re.search(self.family.transposed, bare) is not None

    def read(self, bare: str, out: torch.Tensor) -> None:
        """Copy a tensor into `out`, which has its shape, converting dtype and device."""
        name = self.names[bare]
        try:
            tensor = self._files[bare].get_tensor(name)
        except SafetensorError as error:
            raise ModelFileError(f"{self.path}: {name}: {error}") from error
        if tensor.dtype not in _FLOATS:
            raise ModelFileError(f"{self.path}: {name} is {tensor.dtype}; weights of that kind are not supported")
        out.copy_(tensor.T if self._is_transposed(bare) else tensor)

    def tokenizer(self) -> Tokenizer | None:
        if not any((self.path / name).exists() for name in TOKENIZER_FILES):
            return None
        from modelworks.text.tokenizer import Tokenizer

        return Tokenizer.from_folder(self.path)

    def generation_defaults(self) -> dict[str, Any]:
        path = self.path / GENERATION
        return read_json(path) if path.exists() else {}
