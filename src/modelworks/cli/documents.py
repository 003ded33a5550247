"""`modelworks ask`, `index` and `docs`: a folder of documents, its index, and questions to it."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from modelworks.core.errors import DocumentError, ModelworksError
from modelworks.core.log import console
from modelworks.core.paths import cache_dir

if TYPE_CHECKING:
    from modelworks.retrieval.answer import Answer, Citation
    from modelworks.retrieval.collection import Collection
    from modelworks.retrieval.sync import SyncReport

Json = Annotated[bool, Parameter(name="--json", negative="")]
Store = Annotated[Path | None, Parameter(name="--store")]
_SHOWN = 300  # characters of a quote or passage on the terminal
_LISTED = 20  # skipped files that a report names

docs = App(help="List, remove, restore and check the documents of a folder's index.", help_format="plaintext")


def ask(
    folder: Path,
    question: str,
    *,
    where: str | None = None,
    passages: int = 8,
    threshold: float | None = None,
    wait: float = 10.0,
    sync: bool = True,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Answer a question from the documents in a folder; every sentence is a quotation with its place, or there is none.

    The folder is indexed first, or the index brought up to date. In a large new folder the answer does not wait for
    all of it: words are searched at once, and search by meaning takes part as far as it has come.

    Parameters
    ----------
    folder
        The folder of documents: text, Markdown, HTML, PDF, Office files, CSV, code, e-mail.
    question
        A question in plain words.
    where
        Only documents whose name matches this pattern, such as "guides/*".
    passages
        How many passages are read.
    threshold
        Refuse below this probability that a passage answers (0 to 1); the reader's own where not given.
    wait
        Seconds that the answer waits for search by meaning to be complete.
    sync
        Bring the index up to date first.
    store
        The folder of the index, where it is not to be in the cache.
    as_json
        Print one JSON object: question, answer, refused, citations, passages, timings.
    """
    if not question.strip():
        raise ModelworksError("the question is empty; ask in plain words")
    with _collection(folder, store) as collection:
        if sync:
            report = collection.sync(folder, embed=False, progress=True)
            _complain(report)
            collection.embed(seconds=wait, progress=True)
        from modelworks.retrieval.answer import Answer, stream

        condition = {"document": where} if where else None
        answer: Answer | None = None
        for found in stream(collection, question, k=passages, where=condition, threshold=threshold):
            if isinstance(found, Answer):
                answer = found
            elif not as_json:
                _print_sentence(found)
        assert answer is not None
        if as_json:
            print(json.dumps(answer.to_json(), ensure_ascii=False))
        else:
            _print_rest(answer)
        coverage = collection.coverage()
        if coverage < 1 and sync:
            if sys.stdout.isatty() and not as_json:
                console().print("Search by meaning is still being prepared; Ctrl-C is safe, the next run goes on.")
                collection.embed(progress=True)
            else:
                _note(
                    f"{coverage:.0%} of the passages could be searched by meaning; `modelworks index {folder}` ends it"
                )


def index(
    folder: Path,
    *,
    rebuild: bool = False,
    workers: int = 1,
    ignore: tuple[str, ...] = (),
    hidden: bool = False,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Read and index a folder, or bring its index up to date. Stopping it loses nothing; the next run goes on.

    Parameters
    ----------
    folder
        The folder of documents.
    rebuild
        Read every file again and make every vector again.
    workers
        Processes that read files.
    ignore
        Patterns of names or paths to leave out; give it several times.
    hidden
        Take in files whose names begin with a dot.
    store
        The folder of the index, where it is not to be in the cache.
    as_json
        Print one JSON object: files (name, outcome, detail), chunks_added, chunks_removed, embedded, seconds.
    """
    with _collection(folder, store) as collection:
        report = collection.sync(folder, rebuild=rebuild, workers=workers, ignore=ignore, hidden=hidden, progress=True)
        if as_json:
            print(json.dumps(asdict(report), ensure_ascii=False))
            return
        for file in report.files:
            if file.outcome != "unchanged":
                print(f"{file.outcome:<9} {file.name}" + (f": {file.detail}" if file.detail else ""))
        counts = ", ".join(f"{number} {outcome}" for outcome, number in sorted(report.counts.items())) or "no files"
        print(f"{counts}; {report.embedded} passages embedded in {report.seconds:.1f} s")
        for document in collection.documents():
            for remark in document.notes:
                _note(f"{document.name}: {remark}")


@docs.command(name="list")
def list_documents(folder: Path, *, store: Store = None, as_json: Json = False) -> None:
    """List what the index holds, with the reason where a file could not be read.

    Parameters
    ----------
    folder
        The folder that was indexed.
    store
        The folder of the index, where it is not in the cache.
    as_json
        Print a JSON array.
    """
    with _collection(folder, store, existing=True) as collection:
        documents = collection.documents()
        removed = collection.documents(removed=True)
        if as_json:
            print(json.dumps([asdict(document) for document in [*documents, *removed]], ensure_ascii=False))
            return
        for document in documents:
            state = document.reason or f"{document.pages} pages, {document.chunks} passages"
            print(f"{document.status:<8} {document.name}: {state}")
        for document in removed:
            print(f"removed  {document.name}: kept out; `modelworks docs restore` lets it in again")


@docs.command
def remove(folder: Path, *names: str, store: Store = None) -> None:
    """Take documents out of the index at once, and keep them out; the files stay where they are.

    Parameters
    ----------
    folder
        The folder that was indexed.
    names
        Documents, as `docs list` names them.
    store
        The folder of the index, where it is not in the cache.
    """
    _named(names)
    with _collection(folder, store, existing=True) as collection:
        for name in names:
            collection.remove(name)
            print(f"removed {name}")


@docs.command
def restore(folder: Path, *names: str, store: Store = None) -> None:
    """Let removed documents in again at the next `index` or `ask`.

    Parameters
    ----------
    folder
        The folder that was indexed.
    names
        Documents, as `docs list` names them.
    store
        The folder of the index, where it is not in the cache.
    """
    _named(names)
    with _collection(folder, store, existing=True) as collection:
        for name in names:
            collection.restore(name)
            print(f"restored {name}")


@docs.command
def doctor(folder: Path, *, repair: bool = False, store: Store = None, as_json: Json = False) -> None:
    """Check the index against itself.

    Parameters
    ----------
    folder
        The folder that was indexed.
    repair
        Mend what can be mended.
    store
        The folder of the index, where it is not in the cache.
    as_json
        Print a JSON array of the checks.
    """
    with _collection(folder, store, existing=True) as collection:
        report = collection.doctor(repair=repair)
        if as_json:
            print(json.dumps([asdict(check) for check in report.checks], ensure_ascii=False))
        else:
            for check in report.checks:
                mark = "ok      " if check.ok else "repaired" if check.repaired else "WRONG   "
                print(f"{mark} {check.name}: {check.detail}")
        if not report.ok:
            raise ModelworksError(
                "the index is damaged; `docs doctor --repair` mends it, `index --rebuild` makes it anew"
            )


def default_store(folder: Path) -> Path:
    """Where a folder's index is kept: in the cache, by the folder's own name and its whole path."""
    resolved = folder.expanduser().resolve()
    digest = hashlib.blake2b(str(resolved).encode("utf-8", "surrogateescape"), digest_size=6).hexdigest()
    return cache_dir() / "collections" / f"{resolved.name or 'root'}-{digest}"


@contextmanager
def _collection(folder: Path, store: Path | None, *, existing: bool = False) -> Iterator[Collection]:
    from modelworks.retrieval.collection import Collection

    path = store or default_store(folder)
    if existing and not path.exists():
        raise ModelworksError(f"{folder} has no index yet; `modelworks index {folder}` makes one")
    if not existing and not folder.expanduser().is_dir():
        raise DocumentError(
            f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}; name a folder of documents"
        )
    with Collection(path) as collection:
        yield collection


def _named(names: tuple[str, ...]) -> None:
    if not names:
        raise ModelworksError("name at least one document; `modelworks docs list FOLDER` shows the names")


def _note(text: str) -> None:
    console().print(text, style="dim", highlight=False, markup=False, soft_wrap=True)


def _complain(report: SyncReport) -> None:
    """Say which new files could not be read; those of earlier runs are in `docs list`."""
    skipped = report.skipped
    for file in skipped[:_LISTED]:
        _note(f"skipped {file.name}: {file.detail}")
    if len(skipped) > _LISTED:
        _note(f"... and {len(skipped) - _LISTED} more; `modelworks docs list` shows all")


def _print_sentence(citation: Citation) -> None:
    """A sentence of the answer with the words that answer in bold, as soon as it is found."""
    from rich.text import Text

    sentence = Text(citation.quote)
    sentence.stylize("bold", citation.answer_start - citation.start, citation.answer_end - citation.start)
    sentence.append(f" [{citation.marker}]", style="cyan")
    _stdout().print(sentence, soft_wrap=not sys.stdout.isatty())


def _print_rest(answer: Answer) -> None:
    out = _stdout()
    plain: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": not sys.stdout.isatty()}
    if answer.refused:
        out.print(answer.answer, **plain)
        if answer.passages:
            out.print("\nNearest passages:", **plain)
        for passage in answer.passages[:3]:
            out.print(f"  {passage.file}, page {passage.page} ({passage.start}-{passage.end})", style="cyan", **plain)
            out.print(f"    {_short(passage.text)}", **plain)
        return
    out.print()
    for citation in answer.citations:
        place = f"[{citation.marker}] {citation.file}, page {citation.page}, characters {citation.start}-{citation.end}"
        out.print(place, style="cyan", **plain)
        out.print(f'    "{_short(citation.quote)}"', **plain)


def _stdout() -> Any:
    from rich.console import Console

    return Console()


def _short(text: str) -> str:
    flowing = " ".join(text.split())
    return flowing if len(flowing) <= _SHOWN else flowing[:_SHOWN].rsplit(" ", 1)[0] + " ..."
