"""`modelworks corpus`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from modelworks.cli.terminal import Flag, Json, print_json, stdout
from modelworks.core.errors import ConfigError
from modelworks.core.log import escaped


def _names(_: Any, tokens: Sequence[Any]) -> tuple[str, ...]:
    """ "gopher,c4" as names; "none" as no name."""
    names = [part for token in tokens for part in token.value.split(",") if part]
    return () if names == ["none"] else tuple(names)


def _weights(_: Any, tokens: Sequence[Any]) -> tuple[float, ...]:
    return tuple(float(part) for token in tokens for part in token.value.split(","))


def _similarity(_: Any, tokens: Sequence[Any]) -> float:
    """A number, or 0 for "keep"."""
    return 0.0 if tokens[0].value == "keep" else float(tokens[0].value)


_WIDE = 240
Names = Annotated[tuple[str, ...] | None, Parameter(converter=_names, n_tokens=1)]


def corpus(
    *paths: Path,
    out: Path,
    filters: Names = None,
    cleaners: Names = None,
    languages: Names = None,
    near_duplicates: Annotated[float | None, Parameter(converter=_similarity, n_tokens=1)] = None,
    evaluation: Annotated[tuple[Path, ...], Parameter(show_default=False)] = (),
    weights: Annotated[tuple[float, ...] | None, Parameter(converter=_weights, n_tokens=1)] = None,
    characters: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    text_key: str | None = None,
    format: Literal["jsonl.zst", "jsonl.gz", "jsonl", "parquet"] | None = None,
    seed: int | None = None,
    workers: Annotated[int | None, Parameter(validator=Number(gte=1, lte=1024))] = None,
    ray: Flag = False,
    as_json: Json = False,
    quiet: Flag = False,
) -> None:
    """Prepare a corpus: read, clean, filter, decontaminate, de-duplicate and mix texts, and report each step.

    A run that was stopped goes on where it was. Files that cannot be read are reported, and stop nothing.

    Parameters
    ----------
    paths
        Files and folders: documents, code, JSONL or Parquet with a text a row, compressed files, tar and zip archives.
    out
        The folder to write: texts-*.jsonl.zst, report.json, report.html, and dropped.jsonl.gz, a line for each text
        that was dropped.
    filters
        Sets of rules, such as gopher,fineweb, or none: gopher, gopher-repetition, c4, fineweb. The first two, where
        not given. Code is not filtered.
    cleaners
        What is cleaned, in order: encoding, controls, nfc, ligatures, boilerplate, repeated-lines, c4-lines, emails,
        addresses, space; or none.
    languages
        The languages to keep, such as en,de; all, where not given.
    near_duplicates
        The similarity (Jaccard's) from which of two texts the later is dropped, 0.8 where not given; keep to keep all.
    evaluation
        A file of an evaluation set; texts with 13 words in a row of it are dropped. Give it several times.
    weights
        Mix the paths by these weights, such as 3,1, in the order of the paths.
    characters
        The size of a mixture; as much as repeats nothing, where not given.
    text_key
        The field or column that holds the text of a row; text, where not given.
    format
        What is written; jsonl.zst, where not given.
    seed
        Decides the order of a mixture, and the hash functions; 0, where not given.
    workers
        Processes, or actors with --ray; one for each core, where not given.
    ray
        Work on the machines of a Ray cluster.
    as_json
        Print the report as JSON instead of a table.
    quiet
        Print nothing where all goes well.
    """
    from modelworks.data.prepare import Preparation, prepare

    if not paths:
        raise ConfigError("name at least one file or folder")
    changes: dict[str, Any] = {
        "filters": filters,
        "cleaners": cleaners,
        "languages": languages,
        "characters": characters,
        "text_key": text_key,
        "format": format,
        "seed": seed,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    if near_duplicates is not None:
        changes["near_duplicates"] = near_duplicates or None
    if weights is not None:
        if len(weights) != len(paths):
            raise ConfigError(f"there are {len(paths)} paths and {len(weights)} weights; give one for each path")
        changes["weights"] = {path.as_posix(): weight for path, weight in zip(paths, weights)}
    recipe = Preparation(**changes, evaluations=tuple(map(str, evaluation)))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    runner: Literal["local", "ray"] = "ray" if ray else "local"
    report = prepare(paths, out, recipe, workers=workers or cores, runner=runner, quiet=quiet or as_json)
    if as_json:
        print_json(report)
    elif not quiet:
        _print(report, out)


def _print(report: Mapping[str, Any], out: Path) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table("step", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for heading in ("texts in", "texts out", "characters out"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("dropped or changed, most frequent first", overflow="fold")
    for name, step in report["steps"].items():
        reasons = sorted({**step["dropped"], **step["changed"]}.items(), key=lambda pair: -pair[1])
        shown = [f"{escaped(reason)} {count:,}" for reason, count in reasons[:4]]
        if len(reasons) > len(shown):
            shown.append(f"{len(reasons) - len(shown)} more")
        counts = [f"{step[key]:,}" for key in ("texts_in", "texts_out", "characters_out")]
        table.add_row(name, *counts, ", ".join(shown))
    console = stdout()
    if not console.is_terminal:
        console.width = _WIDE  # a line for each step, for other programs to read
    console.print(table)
    for root, source in report["sources"].items():
        if "epochs" in source:
            console.print(
                f"{escaped(root)}: {source['weight']:.0%} of the mixture, {source['texts']:,} texts, "
                f"read {source['epochs']:.2f} times"
            )
    size = sum(file["bytes"] for file in report["files"])
    console.print(
        f"{escaped(str(out))}: {report['texts']:,} texts, {report['characters']:,} characters, "
        f"{len(report['files'])} file{'s' * (len(report['files']) != 1)}, {size / 1e6:,.1f} MB"
    )
