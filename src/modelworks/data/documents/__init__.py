"""Reading files: `load(path)` gives a `Document`, or a `DocumentError` with the reason for the ingestion report.

A format is one module with `read(data, suffix) -> Document` and one line in `_FORMATS`. Readers get bytes: what is
hashed, sniffed and parsed is then the same even if the file changes meanwhile, and no handle stays open.
"""

from __future__ import annotations

import importlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from modelworks.core.errors import DocumentError
from modelworks.data.document import Document
from modelworks.data.documents.sniff import by_content, by_signature

TEXT_LIMIT = 64 << 20
"""Largest text-like file in bytes; beyond it lie logs and dumps, which nobody asks questions of."""
PACKED_LIMIT = 256 << 20
"""Largest PDF or Office file in bytes: most of such a file is pictures."""


@dataclass(frozen=True, slots=True)
class _Format:
    module: str
    packed: bool = False

    def read(self, data: bytes, suffix: str) -> Document:
        # Imported here: the libraries behind PDF, Office and HTML cost from 30 to 300 ms each.
        document: Document = importlib.import_module(f"{__name__}.{self.module}").read(data, suffix)
        return document


_TEXT, _CODE, _HTML, _MAIL = _Format("text"), _Format("code"), _Format("html"), _Format("mail")
_FORMATS: dict[str, _Format] = {
    **dict.fromkeys((".txt", ".text", ".log"), _TEXT),
    **dict.fromkeys((".md", ".markdown", ".mdown", ".mkd"), _Format("markdown")),
    **dict.fromkeys((".rst", ".rest"), _Format("rst")),
    **dict.fromkeys((".html", ".htm", ".xhtml"), _HTML),
    **dict.fromkeys((".csv", ".tsv", ".tab"), _Format("csv")),
    **dict.fromkeys((".eml", ".mbox"), _MAIL),
    ".pdf": _Format("pdf", packed=True),
    **dict.fromkeys((".docx", ".docm", ".dotx"), _Format("word", packed=True)),
    **dict.fromkeys((".pptx", ".pptm", ".ppsx"), _Format("slides", packed=True)),
    **dict.fromkeys((".xlsx", ".xlsm"), _Format("sheets", packed=True)),
    **dict.fromkeys(
        (
            *(".py", ".pyi", ".pyx", ".c", ".h", ".cc", ".cpp", ".cxx", ".hpp", ".cu", ".java", ".kt", ".scala", ".go"),
            *(".rs", ".js", ".mjs", ".jsx", ".ts", ".tsx", ".vue", ".css", ".scss", ".rb", ".php", ".pl", ".lua", ".r"),
            *(".jl", ".swift", ".cs", ".fs", ".hs", ".ml", ".ex", ".erl", ".clj", ".sh", ".bash", ".zsh", ".fish"),
            *(".ps1", ".bat", ".sql", ".proto", ".graphql", ".json", ".jsonl", ".yaml", ".yml", ".toml", ".ini"),
            *(".cfg", ".conf", ".xml", ".tex", ".bib", ".cmake", ".mk", ".dockerfile", ".diff", ".patch", ".ipynb"),
        ),
        _CODE,
    ),
}
_NAMES = {"makefile": ".mk", "dockerfile": ".dockerfile", "cmakelists.txt": ".cmake", "readme": ".txt"}


def load(path: str | os.PathLike[str], *, text_limit: int = TEXT_LIMIT, packed_limit: int = PACKED_LIMIT) -> Document:
    """Read one file.

    Args:
        path: a regular file; a symbolic link to one is followed.
        text_limit: largest size in bytes of text-like files; larger ones are refused unread.
        packed_limit: the same for PDF and Office files.

    Raises:
        DocumentError: the file is empty, too large, unreadable, gone, binary, encrypted, broken or holds no text.
    """
    path = Path(path)
    suffix = _NAMES.get(path.name.lower(), path.suffix.lower())
    known = _FORMATS.get(suffix)
    # What an unknown name holds is known only once read; `read` then applies the text limit.
    limit = text_limit if known and not known.packed else packed_limit
    return read(_bytes(path, limit), suffix, text_limit=text_limit)


def read(data: bytes, suffix: str, *, text_limit: int = TEXT_LIMIT) -> Document:
    """The document that `data` holds; `suffix` (".pdf", or "" for none) is believed unless a signature contradicts.

    Raises:
        DocumentError: as `load`.
    """
    if not data:
        raise DocumentError("empty file")
    kind = by_signature(data, suffix)
    if kind is None:
        kind = suffix if suffix in _FORMATS else by_content(data, suffix)
    reader = _FORMATS[kind]
    if not reader.packed and len(data) > text_limit:
        raise DocumentError(_too_large(len(data), text_limit))
    try:
        return reader.read(data, kind)
    except DocumentError:
        raise
    except Exception as error:  # parsers fed damaged files raise nearly anything: KeyError, zlib.error, ...
        what = str(error).strip().splitlines()
        detail = f"{type(error).__name__}: {what[0][:200]}" if what else type(error).__name__
        raise DocumentError(f"broken: its {kind[1:].upper()} structure cannot be read ({detail})") from error


def _bytes(path: Path, limit: int) -> bytes:
    """The file's bytes, or the reason why not; the size is checked before anything is read."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DocumentError("not a regular file")
        if status.st_size > limit:
            raise DocumentError(_too_large(status.st_size, limit))
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise DocumentError("missing: no such file (deleted meanwhile, or a dangling link)") from None
    except PermissionError:
        raise DocumentError("unreadable: permission denied") from None
    except OSError as error:
        raise DocumentError(f"unreadable: {error.strerror or error}") from None
    if len(data) > limit:
        raise DocumentError(_too_large(len(data), limit))
    return data


def _too_large(size: int, limit: int) -> str:
    return f"over the size limit: {size / (1 << 20):.0f} MiB, the limit is {limit / (1 << 20):g} MiB"
