"""`modelworks data tokenize`, `data show` and `data tokenizer`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from modelworks.cli.terminal import Flag, Json, note, print_json, stdout
from modelworks.core.errors import ConfigError
from modelworks.core.log import escaped, progress

if TYPE_CHECKING:
    from modelworks.data.collate import Encoded
    from modelworks.data.tokenize import Options, Report
    from modelworks.text.tokenizer import Tokenizer

_OPEN, _CLOSE = "[[", "]]"
Count = Annotated[int, Parameter(validator=Number(gte=1))]


@Parameter(name="*")
@dataclass(frozen=True)
class RowOptions:
    """How rows become samples."""

    max_length: Annotated[int | None, Parameter(validator=Number(gte=2))] = None
    "The most tokens of a sample; a longer one is cut, or left out where no answer would be left."
    columns: Annotated[dict[str, str], Parameter(show_default=False)] = field(default_factory=dict)
    "Rename columns: --columns.question prompt --columns.answer completion."
    chat: Flag = False
    "Take prompts and completions that are texts as turns of a chat."
    template: Path | None = None
    "A file with another chat template (Jinja) than the tokenizer's."
    skip_broken: Flag = False
    "Pass over rows that are broken or of no known format, and report them; otherwise the first is an error."

    def options(self) -> Options:
        """As the data layer takes them."""
        from modelworks.data.tokenize import Options

        return Options(
            max_length=self.max_length, columns=self.columns, as_chat=self.chat, skip_broken=self.skip_broken
        )

    def tokenizer(self, ref: str) -> Tokenizer:
        """The tokenizer of a reference, with the template that was asked for."""
        from modelworks.models.load import load_tokenizer

        tokenizer = load_tokenizer(ref)
        if self.template is not None:
            try:
                tokenizer.chat_template = self.template.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                raise ConfigError(f"{self.template}: not UTF-8") from None
        return tokenizer


def tokenize(
    *files: Path,
    tokenizer: str = "starter",
    out: Path,
    rows: RowOptions = RowOptions(),
    as_json: Json = False,
) -> None:
    """Turn files of training data into tokens on disk, and report what was left out and why.

    Parameters
    ----------
    files
        JSONL, JSON, Parquet or text, also as .gz or .zst; of a folder all of them.
    tokenizer
        A model or a folder with its tokenizer.
    out
        The folder to write; it appears whole or not at all.
    as_json
        Print the report as one JSON object.
    """
    from modelworks.data.tokenize import tokenize as write

    _some(files)
    with progress("tokenising", None) as advance:
        report = write(files, rows.tokenizer(tokenizer), out, rows.options(), advance=advance)
    if as_json:
        print_json(report.to_json())
    else:
        _print_report(report, out)


def _some(files: tuple[Path, ...]) -> None:
    if not files:
        raise ConfigError("no files are named")


def _print_report(report: Report, out: Path) -> None:
    share = report.learned / report.tokens
    print(f"{escaped(str(out))}: {report.documents:,} documents, {report.tokens:,} tokens, {share:.0%} of them learned")
    if report.truncated:
        print(f"{report.truncated:,} cut to the longest that is allowed")
    for reason, count in report.dropped.most_common():
        print(f"{count:,} left out: {reason}")
    if report.broken:
        print(f"{len(report.broken):,} rows passed over:")
    for broken in report.broken[:10]:
        note(f"{broken.place}: {broken.reason}")
    if len(report.broken) > 10:
        note(f"and {len(report.broken) - 10:,} more")


def show(
    file: Path,
    /,
    *,
    tokenizer: str = "starter",
    count: Count = 3,
    rows: RowOptions = RowOptions(),
) -> None:
    """Show what a model reads and learns from the first samples of a file.

    What is learned is coloured on a terminal, and stands between [[ and ]] elsewhere.

    Parameters
    ----------
    file
        JSONL, JSON, Parquet or text, also as .gz or .zst.
    tokenizer
        A model or a folder with its tokenizer.
    count
        How many samples are shown.
    """
    from modelworks.data.encode import encode_sample, fit
    from modelworks.data.sample import Pair
    from modelworks.data.tokenize import find_files, read_samples

    chosen, options = rows.tokenizer(tokenizer), rows.options()
    for sample in itertools.islice(read_samples(find_files([file]), options, []), count):
        sides = zip((" chosen:", " rejected:"), sample.completions) if isinstance(sample, Pair) else [("", sample)]
        for name, side in sides:
            encoded = encode_sample(chosen, side)
            fitted = fit(encoded, options.max_length)
            about = (
                f"left out: {fitted}" if isinstance(fitted, str) else f"{len(fitted.ids)} tokens, {_learned(fitted)}"
            )
            stdout().print(f"{escaped(sample.place)}:{name} {about}", style="bold")
            _print_sample(chosen, encoded if isinstance(fitted, str) else fitted)


def _learned(encoded: Encoded) -> str:
    weights = encoded.weights[1:]
    counted = f"{int((weights != 0).sum())} learned"
    distinct = sorted({float(weight) for weight in weights if weight})
    return counted if distinct in ([], [1.0]) else f"{counted}, by weights {', '.join(f'{w:g}' for w in distinct)}"


def _runs(tokenizer: Tokenizer, encoded: Encoded) -> Iterator[tuple[str, bool]]:
    """Stretches of a sample's text, and whether they are learned. A first token is never predicted."""
    learned = [False, *(bool(weight) for weight in encoded.weights[1:])]
    groups = itertools.groupby(zip(encoded.ids.tolist(), learned), key=lambda pair: pair[1])
    for at, (is_learned, run) in enumerate(groups):
        ids = [index for index, _ in run]
        yield tokenizer.decode(ids, skip_special=False, continuation=at > 0), is_learned


def _print_sample(tokenizer: Tokenizer, encoded: Encoded) -> None:
    from rich.text import Text

    out = stdout()
    shown = Text()
    for run, is_learned in _runs(tokenizer, encoded):
        lines = "\n".join(map(escaped, run.split("\n")))
        if out.is_terminal:
            shown.append(lines, style="green" if is_learned else "dim")
        else:
            shown.append(f"{_OPEN}{lines}{_CLOSE}" if is_learned else lines)
    out.print(shown, end="\n" if shown.plain.endswith("\n") else "\n\n")


def tokenizer(
    *files: Path,
    vocab: Count,
    out: Path,
    special: Annotated[tuple[str, ...], Parameter(show_default=False)] = (),
    no_chat: Flag = False,
    columns: Annotated[dict[str, str] | None, Parameter(show_default=False)] = None,
) -> None:
    """Train a byte-level BPE tokenizer on the texts of files, and write it as Hugging Face's folders hold it.

    Parameters
    ----------
    files
        JSONL, JSON, Parquet or text, also as .gz or .zst; of a folder all of them.
    vocab
        The size of the vocabulary.
    out
        The folder to write tokenizer.json and tokenizer_config.json into.
    special
        A further control token; give it several times.
    no_chat
        Leave out the tokens and the template of ChatML.
    columns
        Rename columns, as in `modelworks data tokenize`.
    """
    from modelworks.core.paths import atomic_folder
    from modelworks.data.sample import texts_of
    from modelworks.data.tokenize import Options, find_files, read_samples
    from modelworks.text.train import CHATML, train_tokenizer

    _some(files)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: it exists and is not empty; name a new folder")
    samples = read_samples(find_files(files), Options(columns=columns or {}), [])
    with progress("reading", None) as advance:

        def texts() -> Iterator[str]:
            for sample in samples:
                advance(1)
                yield from texts_of(sample)

        made = train_tokenizer(texts(), vocab, special_tokens=special, chat_template=None if no_chat else CHATML)
    with atomic_folder(out) as scratch:
        made.save(scratch)
    print(f"{escaped(str(out))}: {made.vocab_size:,} tokens")
