"""`modelworks feedback`: comparisons made, judged on a web page, measured and exported."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from modelworks.cli.generate import SamplingOptions
from modelworks.cli.serve import Address, Several, run_page
from modelworks.cli.terminal import Flag, Json, note, print_json, print_lines, print_table, stdout
from modelworks.core.errors import ConfigError
from modelworks.core.log import escaped, progress

if TYPE_CHECKING:
    from modelworks.data.files import Broken
    from modelworks.data.tokenize import Options
    from modelworks.feedback.agreement import Agreement, Rate

Count = Annotated[int, Parameter(validator=Number(gte=1))]
_SHOWN_DISPUTED = 5


@Parameter(name="*")
@dataclass(frozen=True)
class RowOptions:
    """How rows become samples."""

    columns: Annotated[dict[str, str], Parameter(show_default=False)] = field(default_factory=dict)
    "Rename columns: --columns.question prompt."
    chat: Flag = False
    "Take prompts that are texts as messages of a user."
    skip_broken: Flag = False
    "Pass over rows that are broken or of no known format, and report them; otherwise the first is an error."

    def options(self) -> Options:
        """As the data layer takes them."""
        from modelworks.data.tokenize import Options

        return Options(columns=self.columns, as_chat=self.chat, skip_broken=self.skip_broken)


@Parameter(name="*")
@dataclass(frozen=True)
class WarmOptions(SamplingOptions):
    """How tokens are chosen, with chance, so that a model's second answer is another one."""

    temperature: float = 1.0
    "1 is the model's own distribution; 0, the likeliest token each time, is for two models."


def sample(
    store: Path,
    /,
    *prompts: Path,
    model: str = "starter",
    against: str | None = None,
    count: Count | None = None,
    judgements: Count = 1,
    retries: Annotated[int, Parameter(validator=Number(gte=0))] = 3,
    rows: RowOptions = RowOptions(),
    options: WarmOptions = WarmOptions(),
    as_json: Json = False,
) -> None:
    """Have prompts answered twice, by one model or by two, and keep the answers to be compared.

    A run that was interrupted goes on where it was.

    Parameters
    ----------
    store
        The file that keeps comparisons and judgements; it is made where it is missing.
    prompts
        JSONL, JSON or Parquet with prompts, dialogues or pairs, also as .gz or .zst; of a folder all of them.
    model
        A folder, a .gguf file, hf:org/name, pypi:package or starter.
    against
        Another model for the second answer; without it, both are the model's own.
    count
        Take that many prompts; otherwise all.
    judgements
        How many people are to judge each comparison. Agreement needs two.
    retries
        How often answers that are identical or empty are asked for again.
    as_json
        Print the report as one JSON object.
    """
    from modelworks.data.tokenize import find_files, read_samples
    from modelworks.engine.engine import Engine
    from modelworks.feedback.sample import Answerer, sample_comparisons
    from modelworks.feedback.store import Store

    files, sampling, broken = find_files(_some(prompts)), options.sampling(), list[Any]()
    with ExitStack() as stack:
        opened = stack.enter_context(Store(store, create=True))
        first = Answerer(model, stack.enter_context(Engine(model)))
        second = first if against is None else Answerer(against, stack.enter_context(Engine(against)))
        advance = stack.enter_context(progress("sampling", count))
        report = sample_comparisons(
            opened,
            read_samples(files, rows.options(), broken),
            (first, second),
            sampling,
            count=count,
            wanted=judgements,
            retries=retries,
            seed=options.seed or 0,
            advance=advance,
        )
    _print_report(report.to_json(), broken, "comparisons", store, as_json)


def import_(
    store: Path,
    /,
    *pairs: Path,
    judgements: Count = 1,
    judged_by: str | None = None,
    rows: RowOptions = RowOptions(),
    as_json: Json = False,
) -> None:
    """Take pairs of chosen and rejected answers as comparisons, to be judged anew.

    Parameters
    ----------
    store
        The file that keeps comparisons and judgements; it is made where it is missing.
    pairs
        JSONL, JSON or Parquet with preference pairs, also as .gz or .zst; of a folder all of them.
    judgements
        How many people are to judge each comparison. Agreement needs two.
    judged_by
        Keep what the data says as judgements of an annotator of this name, with which people's are compared.
    as_json
        Print the report as one JSON object.
    """
    from modelworks.data.tokenize import find_files, read_samples
    from modelworks.feedback.sample import import_pairs
    from modelworks.feedback.store import Store

    files, broken = find_files(_some(pairs)), list[Any]()
    with Store(store, create=True) as opened:
        samples = read_samples(files, rows.options(), broken)
        report = import_pairs(opened, samples, wanted=judgements, judged_by=judged_by)
    _print_report(report.to_json(), broken, "pairs", store, as_json)


def _some(files: tuple[Path, ...]) -> tuple[Path, ...]:
    if not files:
        raise ConfigError("no files are named")
    return files


def _print_report(counts: dict[str, int], broken: Iterable[Broken], what: str, store: Path, as_json: bool) -> None:
    broken = list(broken)
    if as_json:
        print_json(counts | {"broken": len(broken)})
        return
    print(f"{escaped(str(store))}: {counts.pop('added'):,} {what} added")
    for name, count in counts.items():
        if count:
            print(f"{count:,} {name.replace('_', ' ')}")
    for each in broken[:10]:
        note(f"passed over: {each.place}: {each.reason}")
    if len(broken) > 10:
        note(f"and {len(broken) - 10:,} more")


def collect(store: Path, /, *, address: Address = Address()) -> None:  # noqa: B008 - frozen
    """Serve the web page on which people compare the answers. Ctrl-C stops it.

    Parameters
    ----------
    store
        The file that keeps comparisons and judgements.
    """
    bound, told = address.opened()
    from modelworks.feedback.store import Store
    from modelworks.serve.compare import Comparing, create_compare_app

    opened = Store(store)
    said = f"{escaped(str(store))}: {len(opened.comparisons()):,} comparisons to judge at {{url}}"
    run_page(bound, create_compare_app(Comparing(opened, **told)), said)


def export(
    store: Path,
    out: Path,
    /,
    *,
    by: Literal["comparison", "group", "judgement"] = "comparison",
    group: Several = (),
    ratings: Flag = False,
    aspect: Several = (),
    as_json: Json = False,
) -> None:
    """Write the judgements as training data: prompt, chosen and rejected, as JSONL.

    Parameters
    ----------
    store
        The file that keeps comparisons and judgements.
    out
        The file to write; it appears whole or not at all.
    by
        A row for each comparison by its majority, for each group's majority, or for each judgement.
    group
        Only judgements of this group; several may be given.
    ratings
        Write prompt, completion and label (KTO) instead, of answers rated above or below 3.
    aspect
        With --ratings, what counts: helpfulness, accuracy or safety; otherwise all three.
    as_json
        Print the report as one JSON object.
    """
    from modelworks.feedback.export import export_pairs, export_ratings
    from modelworks.feedback.store import ASPECTS, Store

    if aspect and not ratings:
        raise ConfigError("--aspect chooses among ratings; give --ratings as well")
    if ratings and by != "comparison":
        raise ConfigError("--by is for pairs; --ratings has a row for each answer")
    with Store(store) as opened:
        if ratings:
            report = export_ratings(opened, out, aspects=aspect or ASPECTS, groups=group)
        else:
            report = export_pairs(opened, out, by=by, groups=group)
    if as_json:
        print_json(report.to_json())
        return
    print(f"{escaped(str(out))}: {report.rows:,} rows of {report.judgements:,} judgements")
    for name in ("ties", "skips", "undecided", "unrated"):
        if count := getattr(report, name):
            print(f"{count:,} {name} left out")


def agreement(store: Path, /, *, as_json: Json = False) -> None:
    """Show whether the people and their groups agree, and what else swayed them.

    Parameters
    ----------
    store
        The file that keeps comparisons and judgements.
    as_json
        Print everything as one JSON object.
    """
    from modelworks.feedback.agreement import measure, model_wins
    from modelworks.feedback.store import Store

    with Store(store) as opened:
        comparisons, judgements = opened.comparisons(), opened.judgements()
    found, wins = measure(judgements), model_wins(comparisons, judgements)
    if as_json:
        named = [{"model": a, "against": b} | rate.to_json() for (a, b), rate in wins.items()]
        print_json(found.to_json() | {"total": len(comparisons), "models": named})
        return
    _print_agreement(found, len(comparisons))
    for (model, against), rate in wins.items():
        print(f"\n{escaped(model)} wins {_share(rate)} against {escaped(against)}{_interval(rate)}")


def _print_agreement(found: Agreement, total: int) -> None:
    counted = ", ".join(f"{name} {count}" for name, count in found.choices.items())
    lines = [
        ("judged", f"{found.comparisons:,} of {total:,} comparisons: {counted}"),
        ("agreement", f"{_share(found.pairwise)} pairs of judgements of one comparison"),
        ("alpha", f"{_decimal(found.alpha)} (Krippendorff, nominal)"),
        ("shown first", f"wins {_share(found.shown_first_wins)}{_interval(found.shown_first_wins)}"),
        ("opposed", f"{found.opposed:,} comparisons"),
        ("against ratings", f"{found.against_ratings:,} judgements"),
    ]
    print_lines("Judgements", lines)
    for text in found.notes:
        note(text)
    if found.annotators:
        print()
        print_table(
            ("annotator", "judged", "ties", "skips", "seconds", "shown first", "group"),
            [
                (
                    escaped(each.name),
                    str(each.judgements),
                    str(each.ties),
                    str(each.skips),
                    "-" if each.median_seconds is None else f"{each.median_seconds:.1f}",
                    _share(each.shown_first_wins),
                    escaped(each.group or "-"),
                )
                for each in found.annotators
            ],
        )
    if found.kappa:
        print()
        print_lines("Cohen's kappa", [(escaped(pair), _decimal(kappa)) for pair, kappa in found.kappa.items()])
    groups = [(name or "no group", rate) for name, rate in found.within_groups.items()]
    groups += [(f"between {name}", rate) for name, rate in found.between_groups.items()]
    if found.between_groups:
        print()
        print_lines("Agreement of groups", [(escaped(name), _share(rate)) for name, rate in groups])
    if found.disputed:
        print()
        stdout().print("What groups disagree on most", style="bold")
        for each in found.disputed[:_SHOWN_DISPUTED]:
            votes = (
                f"{name or 'no group'}: {', '.join(f'{choice} {count}' for choice, count in said.items())}"
                for name, said in each.votes.items()
            )
            print(f"comparison {each.comparison}: {escaped('; '.join(votes))}")


def _share(rate: Rate) -> str:
    return "-" if rate.value is None else f"{rate.value:.0%} of {rate.of}"


def _interval(rate: Rate) -> str:
    from modelworks.evals.intervals import wilson

    low, high = wilson(rate.count, rate.of)
    return "" if rate.value is None else f" ({low:.0%} to {high:.0%})"


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
