"""`modelworks ask`, `index` and `docs`: a folder of documents, its index, and questions to it."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from modelworks.cli.terminal import Flag, Json, check_text, flowing, note, print_indented, print_json, stdout
from modelworks.core.errors import DocumentError, ModelworksError
from modelworks.core.log import console, escaped
from modelworks.core.paths import cache_dir

if TYPE_CHECKING:
    from modelworks.agents.tool import Tool
    from modelworks.retrieval.answer import Answer, Citation
    from modelworks.retrieval.collection import Collection
    from modelworks.retrieval.sync import SyncReport

Store = Annotated[Path | None, Parameter(name="--store")]
NoSync = Annotated[bool, Parameter(name="--no-sync", show_default=False)]
Patterns = Annotated[tuple[str, ...], Parameter(show_default=False)]
Count = Annotated[int, Parameter(validator=Number(gte=1, lte=1000))]
Seconds = Annotated[float, Parameter(validator=Number(gte=0))]
Probability = Annotated[float | None, Parameter(validator=Number(gte=0, lte=1))]
_SHOWN = 300  # characters of a quote or passage on the terminal
_LISTED = 20  # skipped files that `ask` names
_NEAREST = 3  # passages that a refusal shows

docs = App(
    name="docs", help="List, remove, restore and check the documents of a folder's index.", help_format="plaintext"
)


def ask(
    folder: Path,
    question: str,
    /,
    *,
    where: str | None = None,
    passages: Count = 8,
    threshold: Probability = None,
    wait: Seconds = 10.0,
    as_it_is: NoSync = False,
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
    as_it_is
        Ask the index as it is, without looking for new and changed files first.
    store
        The folder of the index, where it is not to be in the cache.
    as_json
        Print one JSON object: question, answer, refused, citations, passages, timings.
    """
    check_text("question", question)
    if not any(character.isalnum() for character in question):
        raise ModelworksError(f"the question is {question!r}, which has no words; ask in a sentence")
    with _collection(folder, store, existing=as_it_is) as collection:
        if not as_it_is:
            _bring_up_to_date(collection, folder, wait)
        from modelworks.retrieval.answer import Answer, stream

        found = stream(
            collection, question, k=passages, where={"document": where} if where else None, threshold=threshold
        )
        # The first comes after the models are loaded and all passages are read, the others at once.
        with console().status("reading the passages") if sys.stderr.isatty() else nullcontext():
            newest = next(found)
        while not isinstance(newest, Answer):
            if not as_json:
                _print_sentence(newest)
            newest = next(found)
        if as_json:
            print_json(newest.to_json())
        elif newest.refused:
            _print_refusal(newest)
        else:
            _print_citations(newest)
        if not as_it_is:
            _finish(collection, folder, interactive=sys.stdout.isatty() and not as_json)


def index(
    folder: Path,
    /,
    *,
    rebuild: Flag = False,
    workers: Count = 1,
    ignore: Patterns = (),
    hidden: Flag = False,
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
        A pattern of names or paths to leave out; give it several times. `ask` leaves out the same.
    hidden
        Take in files whose names begin with a dot; `ask` does the same.
    store
        The folder of the index, where it is not to be in the cache.
    as_json
        Print one JSON object: files (name, outcome, detail), chunks_added, chunks_removed, embedded, seconds.
    """
    from modelworks.retrieval.collection import Collection
    from modelworks.retrieval.database import DamagedError

    def run() -> SyncReport:
        with _collection(folder, store) as collection:
            report = collection.sync(
                folder, rebuild=rebuild, workers=workers, ignore=ignore, hidden=hidden, progress=True
            )
            if not as_json:
                _print_report(collection, report)
            return report

    try:
        report = run()
    except DamagedError as error:
        if not rebuild:
            raise
        note(f"{error}. It is made anew; documents that were removed by hand are in again")
        Collection.discard(store or default_store(folder))
        report = run()
    if as_json:
        print_json(asdict(report))


@docs.command(name="list")
def list_documents(folder: Path, /, *, store: Store = None, as_json: Json = False) -> None:
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
            print_json([asdict(document) for document in [*documents, *removed]])
            return
        for document in documents:
            state = document.reason or f"{_count(document.pages, 'page')}, {_count(document.chunks, 'passage')}"
            print(f"{document.status:<8} {escaped(document.name)}: {escaped(state)}")
        for document in removed:
            print(f"removed  {escaped(document.name)}: kept out; `modelworks docs restore` lets it in again")


@docs.command
def remove(folder: Path, /, *names: str, store: Store = None) -> None:
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
    with _named(folder, names, store) as collection:
        for name in names:
            collection.remove(name)
            print(f"removed {escaped(name)}")


@docs.command
def restore(folder: Path, /, *names: str, store: Store = None) -> None:
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
    with _named(folder, names, store) as collection:
        for name in names:
            collection.restore(name)
            print(f"restored {escaped(name)}; the next `index` or `ask` reads it")


@docs.command
def doctor(folder: Path, /, *, repair: Flag = False, store: Store = None, as_json: Json = False) -> None:
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
            print_json([asdict(check) for check in report.checks])
        else:
            for check in report.checks:
                mark = "ok      " if check.ok else "repaired" if check.repaired else "WRONG   "
                print(f"{mark} {check.name}: {escaped(check.detail)}")
        if not report.ok:
            raise ModelworksError(
                "the index is damaged; `docs doctor --repair` mends it, `index --rebuild` makes it anew"
            )


def check_folder(folder: Path) -> None:
    """Raise DocumentError where there is no such folder."""
    if not folder.expanduser().is_dir():
        raise DocumentError(
            f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}; name a folder of documents"
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
    if not existing:
        check_folder(folder)
    with Collection(path) as collection:
        yield collection


@contextmanager
def opened(folder: Path, store: Path | None = None, *, wait: float = 10.0) -> Iterator[Collection]:
    """The folder's collection, its index brought up to date."""
    with _collection(folder, store) as collection:
        _bring_up_to_date(collection, folder, wait)
        yield collection


@contextmanager
def documents_tool(folder: Path, store: Path | None = None) -> Iterator[Tool]:
    """The folder as a tool that searches it."""
    from modelworks.agents.tools.search import search_documents

    with opened(folder, store) as collection:
        yield search_documents(collection.search)


@contextmanager
def _named(folder: Path, names: tuple[str, ...], store: Path | None) -> Iterator[Collection]:
    """The folder's collection, for a verb that needs the names of documents."""
    if not names:
        raise ModelworksError("name at least one document; `modelworks docs list FOLDER` shows the names")
    with _collection(folder, store, existing=True) as collection:
        yield collection


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _bring_up_to_date(collection: Collection, folder: Path, seconds: float) -> None:
    """Index what is new, and say which new files could not be read; those of earlier runs are in `docs list`."""
    before = {document.name for document in collection.documents() if document.status == "skipped"}
    report = collection.sync(folder, embed=False, progress=True)
    skipped = [file for file in report.skipped if file.name not in before]
    for file in skipped[:_LISTED]:
        note(f"skipped {file.name}: {file.detail}")
    if len(skipped) > _LISTED:
        note(f"... and {len(skipped) - _LISTED} more; `modelworks docs list {folder}` shows all")
    if len(report.files) == len(report.skipped):
        note(f"{folder} holds no document that can be read" if report.files else f"{folder} holds no documents")
    collection.embed(seconds=seconds, progress=True)


def _finish(collection: Collection, folder: Path, *, interactive: bool) -> None:
    """Make the vectors that the answer did not wait for, where a person watches; else say how to have them made."""
    coverage = collection.coverage()
    if coverage == 1:
        return
    if interactive:
        note("Search by meaning is still being prepared. Ctrl-C is safe: the next run goes on from there.")
        collection.embed(progress=True)
    else:
        note(f"{coverage:.0%} of the passages could be searched by meaning; `modelworks index {folder}` ends it")


def _print_report(collection: Collection, report: SyncReport) -> None:
    notes = {document.name: document.notes for document in collection.documents()}
    for file in report.files:
        if file.outcome != "unchanged":
            detail = f": {file.detail}" if file.detail else ""
            print(f"{file.outcome:<9} {escaped(file.name + detail)}")
            for remark in notes.get(file.name, ()):
                print(f"{'':<9}   {escaped(remark)}")
    counts = ", ".join(f"{number} {outcome}" for outcome, number in sorted(report.counts.items())) or "no files"
    print(f"{counts}; {_count(report.embedded, 'passage')} embedded in {report.seconds:.1f} s")


def _print_sentence(citation: Citation) -> None:
    """A sentence of the answer with the words that answer in bold, as soon as it is found."""
    from rich.text import Text

    first, last = citation.answer_start - citation.start, citation.answer_end - citation.start
    quote = citation.quote
    sentence = Text(flowing(quote[:first]))
    sentence.append(flowing(quote[first:last]), style="bold")
    sentence.append(flowing(quote[last:]))
    sentence.append(f" [{citation.marker}]", style="cyan")
    stdout().print(sentence)


def _print_citations(answer: Answer) -> None:
    out = stdout()
    for citation in answer.citations:
        place = f"page {citation.page}, characters {citation.start}-{citation.end}"
        out.print(f"\n[{citation.marker}] {escaped(citation.file)}, {place}", style="cyan")
        print_indented(f'"{_short(citation.quote)}"')


def _print_refusal(answer: Answer) -> None:
    out = stdout()
    out.print(answer.answer)
    if answer.passages:
        out.print("\nNearest passages:")
    for passage in answer.passages[:_NEAREST]:
        place = f"page {passage.page}, characters {passage.start}-{passage.end}"
        out.print(f"  {escaped(passage.file)}, {place}", style="cyan")
        print_indented(_short(passage.text))


def _short(text: str) -> str:
    """The beginning of a text as one line, cut at a space where there is one."""
    line = flowing(text).strip()
    return line if len(line) <= _SHOWN else line[:_SHOWN].rsplit(" ", 1)[0] + " ..."
