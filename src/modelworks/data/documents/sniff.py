"""What a file is, from its first bytes: the readers' second opinion where a name says nothing or lies."""

from __future__ import annotations

import io
import re
import zipfile

from modelworks.core.errors import DocumentError
from modelworks.data.documents.encoding import decode, is_text

_RTF = b"{\\rtf"
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n", "PNG image"),
    (b"\xff\xd8\xff", "JPEG image"),
    (b"GIF8", "GIF image"),
    (b"II*\0", "TIFF image"),
    (b"MM\0*", "TIFF image"),
    (b"\x1f\x8b", "gzip archive"),
    (b"BZh", "bzip2 archive"),
    (b"\xfd7zXZ\0", "xz archive"),
    (b"7z\xbc\xaf\x27\x1c", "7z archive"),
    (b"Rar!\x1a\x07", "RAR archive"),
    (b"\x28\xb5\x2f\xfd", "zstd archive"),
    (b"\x7fELF", "program"),
    (b"SQLite format 3\0", "SQLite database"),
    (b"GGUF", "GGUF model"),
    (b"OggS", "Ogg audio"),
    (b"ID3", "MP3 audio"),
    (b"fLaC", "FLAC audio"),
    (_RTF, "Rich Text (RTF)"),
)
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_OFFICE_ROOTS = (("word/", ".docx"), ("ppt/", ".pptx"), ("xl/", ".xlsx"))
_MAIL_HEADER = re.compile(
    rb"(From|To|Cc|Subject|Date|Message-ID|Return-Path|Received|Delivered-To|MIME-Version):", re.I
)
_HTML = re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b", re.I | re.S)


def by_signature(data: bytes, suffix: str) -> str | None:
    """The extension whose reader can read `data`, or None where no signature decides and its name must.

    Raises:
        DocumentError: a kind of file that has no reader; the message names it.
    """
    if data[:1024].lstrip().startswith(b"%PDF-"):
        return ".pdf"
    if data.startswith(b"PK\x03\x04"):
        return _zipped(data, suffix)
    if data.startswith(_OLE):
        raise DocumentError(_ole_reason(data, suffix))
    if data[4:12] in (b"ftypheic", b"ftypmp42", b"ftypisom", b"ftypavif", b"ftypM4A "):
        raise DocumentError(no_reader("media file", suffix))
    if data.startswith(b"RIFF") and data[8:12] in (b"WAVE", b"AVI ", b"WEBP"):
        raise DocumentError(no_reader("media file", suffix))
    for signature, what in _SIGNATURES:
        # Prose may begin with "GIF89a is a format", too; its bytes are then all text.
        if data.startswith(signature) and (signature == _RTF or not is_text(data)):
            raise DocumentError(no_reader(what, suffix))
    return None


def by_content(data: bytes, suffix: str) -> str:
    """The extension whose reader suits text of unknown kind.

    Raises:
        DocumentError: the bytes are no text.
    """
    head = data[:4096]
    if _HTML.match(head):
        return ".html"
    first_lines = head.split(b"\n", 12)[:12]
    if head.startswith(b"From ") and any(_MAIL_HEADER.match(line) for line in first_lines[1:]):
        return ".mbox"
    if sum(bool(_MAIL_HEADER.match(line)) for line in first_lines) >= 3:
        return ".eml"
    try:
        decode(data[: 1 << 16])
    except DocumentError:
        raise DocumentError(no_reader("binary file", suffix)) from None
    if head.startswith(b"#!"):
        return ".sh"
    return ".txt"


def no_reader(what: str, suffix: str) -> str:
    """`binary file: no text reader for .bin`."""
    return f"{what}: no text reader for {suffix or 'it'}"


def _zipped(data: bytes, suffix: str) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, UnicodeError):
        if suffix in dict.fromkeys(extension for _, extension in _OFFICE_ROOTS):
            raise DocumentError("broken: the file is cut short or its ZIP container is damaged") from None
        raise DocumentError(no_reader("damaged ZIP archive", suffix)) from None
    for root, extension in _OFFICE_ROOTS:
        if "[Content_Types].xml" in names and any(name.startswith(root) for name in names):
            return extension
    raise DocumentError(no_reader("ZIP archive", suffix))


def _ole_reason(data: bytes, suffix: str) -> str:
    if "EncryptedPackage".encode("utf-16-le") in data:
        return "password-protected: the Office file is encrypted"
    if "__substg1.0_".encode("utf-16-le") in data:
        return "Outlook message: no text reader for .msg; save it as .eml"
    return f"legacy binary Office file: no text reader for {suffix or 'it'}; save it as .docx, .pptx, .xlsx or PDF"
