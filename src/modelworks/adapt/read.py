"""Reading an adapter from disk, of either kind."""

from __future__ import annotations

from pathlib import Path

from modelworks.adapt import gguf, peft
from modelworks.adapt.adapter import Adapter, assemble
from modelworks.core.errors import ConfigError, ModelFileError
from modelworks.models.base import Pretrained


def read(path: str | Path, model: Pretrained) -> Adapter:
    """An adapter of that model from a PEFT folder or a GGUF file. The model may be on torch's meta device.

    What would change a model in another way than LoRA, rsLoRA and DoRA do is refused by name. Raises ModelFileError,
    with the file and the tensor, for what is missing, cut short, not finite, of wrong shapes or of an unsupported kind:
    biases, modules_to_save, other methods, an adapted embedding or head.
    """
    source = Path(path).expanduser()
    try:
        if source.is_dir():
            tensors = peft.tensors(source, model)
        elif source.is_file():
            tensors = gguf.tensors(source, model)
        else:
            raise ModelFileError(
                f"{source}: no such file or folder; an adapter is a folder with {peft.CONFIG}, or a .gguf file"
            )
        return Adapter(source, assemble(tensors, model), tensors.base)
    except ConfigError as error:
        raise ModelFileError(f"{source / peft.CONFIG}: {error}") from error
    except OSError as error:
        raise ModelFileError(f"{source}: {error.strerror or error}") from error
