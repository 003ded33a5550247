"""The registry: which reader reads what, and the true reason where none does."""

from __future__ import annotations

import gzip
import io
import os
import random
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import docx
import openpyxl
import pptx
import pytest

from modelworks.core.errors import DocumentError
from modelworks.data.document import Document
from modelworks.data.documents import load, read


def reason(path: Path, **limits: int) -> str:
    with pytest.raises(DocumentError) as caught:
        load(path, **limits)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", b"", "empty file"),
        ("a.txt", b" \n\t\n", "no text: the file holds only white space"),
        ("a.bin", bytes(range(256)), "binary file: no text reader for .bin"),
        ("data", bytes(range(256)), "binary file: no text reader for it"),
        ("a.txt", b"abc\x00\x01\x02def" * 10, "binary file: its bytes are no text in any known encoding"),
        ("a.txt", b"abc\x00def\x00" * 1000, "binary file: its bytes are no text in any known encoding"),
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(50), "PNG image: no text reader for .png"),
        ("a.txt", b"\x7fELF\x02" + bytes(50), "program: no text reader for .txt"),
        ("a.gz", gzip.compress(bytes(range(256))), "gzip archive: no text reader for .gz"),
        ("a.pdf", b"%PDF-1.7\ncut short", "broken: the PDF is damaged or cut short"),
        ("a.pdf", b"not a PDF at all", "broken: the PDF is damaged or cut short"),
        ("a.docx", b"not a container", "broken: the file is cut short or its ZIP container is damaged"),
        ("a.docx", b"PK\x03\x04" + bytes(60), "broken: the file is cut short or its ZIP container is damaged"),
        ("a.zip", b"PK\x03\x04" + bytes(60), "damaged ZIP archive: no text reader for .zip"),
        ("a.html", b"<html><body><script>x()</script></body></html>", "no text: the page itself shows none"),
        ("a.mbox", b"no message here", "broken: a mailbox without a message"),
        ("a.msg", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "__substg1.0_".encode("utf-16-le"), "Outlook message: no text"),
        (
            "a.doc",
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
            "legacy binary Office file: no text reader for .doc",
        ),
        (
            "a.docx",
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600) + "EncryptedPackage".encode("utf-16-le"),
            "password-protected: the Office file is encrypted",
        ),
    ],
)
def test_the_reason_is_true(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    """Fault 12: an empty file is a line in the report, not the end of the run."""
    path = tmp_path / name
    path.write_bytes(content)
    assert reason(path).startswith(expected)


def test_an_oversized_file_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "huge.txt"
    with path.open("wb") as file:
        file.truncate(300 << 20)  # sparse: takes no space
    packed = path.rename(tmp_path / "huge.pdf")
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("the file was opened"))
    assert reason(packed) == "over the size limit: 300 MiB, the limit is 256 MiB"
    assert reason(packed.rename(path)) == "over the size limit: 300 MiB, the limit is 64 MiB"


def test_an_unknown_name_does_not_escape_the_text_limit(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_bytes(b"words " * 1000)
    assert load(path).media_type == "text/plain"
    assert reason(path, text_limit=1000).startswith("over the size limit")


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    assert reason(tmp_path / "gone.txt").startswith("missing: no such file")
    assert reason(tmp_path) == "not a regular file"
    loop = tmp_path / "loop.txt"
    loop.symlink_to(loop)
    assert reason(loop).startswith("unreadable: ")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.txt")  # opening it would wait forever
        assert reason(tmp_path / "pipe.txt") == "not a regular file"


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.txt"
    path.write_text("text")

    def refuse(*_: object, **__: object) -> None:  # root may read anything, so no mode bits here
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert reason(path) == "unreadable: permission denied"


def test_a_file_that_vanishes_between_its_stat_and_its_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "here.txt"
    path.write_text("text")
    status = Path.stat

    def vanish(self: Path, **options: bool) -> os.stat_result:
        result = status(self, **options)
        self.unlink()
        return result

    monkeypatch.setattr(Path, "stat", vanish)
    assert reason(path).startswith("missing: no such file")


@pytest.mark.parametrize(
    ("name", "content", "media_type"),
    [
        ("README", b"Plain words.", "text/plain"),
        ("page", b"<!DOCTYPE html><p>Hello", "text/html"),
        ("message", b"From: a@b.c\nTo: d@e.f\nSubject: Hi\n\nHello", "message/rfc822"),
        ("Makefile", b"all:\n\techo hi", "text/x-mk"),
        ("run", b"#!/bin/sh\necho hi", "text/x-sh"),
        ("x.unknown", "Grüße aus Köln".encode(), "text/plain"),
        ("config.toml", b"[a]\nb = 1", "application/toml"),
        ("DATA.CSV", b"a,b\n1,2", "text/csv"),
    ],
)
def test_names_and_contents_find_their_reader(tmp_path: Path, name: str, content: bytes, media_type: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert load(path).media_type == media_type


def office_files() -> dict[str, bytes]:
    word, slides, book = docx.Document(), pptx.Presentation(), openpyxl.Workbook()
    word.add_heading("Title", 1)
    word.add_paragraph("Body", style="List Number")
    word.add_table(2, 2).cell(0, 0).text = "cell"
    slide = slides.slides.add_slide(slides.slide_layouts[1])
    slide.shapes.title.text = "Slide"
    book.active.append(["a", 1])
    files = {}
    for suffix, item in ((".docx", word), (".pptx", slides), (".xlsx", book)):
        out = io.BytesIO()
        item.save(out)
        files[suffix] = out.getvalue()
    return files


def test_prose_about_formats_is_no_such_file() -> None:
    for text in ("GIF89a is a picture format.", "ID3 tags hold titles.", "See the PDF header:\n%PDF-1.7\n"):
        assert read(text.encode(), ".txt").text == text
    with pytest.raises(DocumentError, match="Rich Text"):
        read(b"{\\rtf1 text}", ".txt")


def test_a_signature_wins_over_a_name(make_pdf: Callable[..., bytes]) -> None:
    assert read(make_pdf([[(72, 700, 12, "Hello")]]), ".txt").media_type == "application/pdf"
    for suffix, data in office_files().items():
        assert suffix[1:3] in ("do", "pp", "xl")
        assert "openxmlformats" in read(data, ".zip").media_type


def test_damaged_files_are_read_or_refused_and_nothing_else_escapes(make_pdf: Callable[..., bytes]) -> None:
    rng = random.Random(0)
    files = office_files() | {".pdf": make_pdf([[(72, 700, 12, "Hello world")], [(72, 700, 12, "Again")]])}
    files[".eml"] = (
        b"From: a\nSubject: =?utf-8?b?SGk=?=\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=x\n\n"
        b"--x\nContent-Type: text/html; charset=latin-1\n\n<b>hi</b>\n"
        b"--x\nContent-Type: message/rfc822\n\nFrom: b\n\nhi\n--x--"
    )
    files[".html"] = b"<table><tr><td rowspan=2>a<td>b</table><ul><li>x<ol start=3><li>y</ul><dl><dt class=sig>t<dd>d"
    outcomes = set()
    for suffix, data in files.items():
        for _ in range(60):
            damaged = bytearray(data[: rng.randrange(1, len(data))] if rng.random() < 0.5 else data)
            for _ in range(rng.randrange(12)):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            try:
                outcomes.add(type(read(bytes(damaged), suffix)))
            except DocumentError:
                outcomes.add(DocumentError)
    assert outcomes == {Document, DocumentError}


def repacked(data: bytes, part: str, change: Callable[[bytes], bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for item in old.infolist():
            new.writestr(item.filename, change(old.read(item)) if item.filename == part else old.read(item))
    return out.getvalue()


PARTS = {".docx": "word/document.xml", ".pptx": "ppt/slides/slide1.xml", ".xlsx": "xl/worksheets/sheet1.xml"}


@pytest.mark.parametrize("suffix", sorted(PARTS))
def test_entity_bombs_are_refused(suffix: str) -> None:
    bomb = b'<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>'
    data = repacked(office_files()[suffix], PARTS[suffix], lambda xml: bomb + xml.split(b"?>")[-1])
    with pytest.raises(DocumentError, match=r"unsafe: .* declares XML entities"):
        read(data, suffix)


@pytest.mark.parametrize("suffix", sorted(PARTS))
def test_decompression_bombs_are_refused(suffix: str) -> None:
    data = repacked(office_files()[suffix], PARTS[suffix], lambda xml: xml + b" " * (20 << 20))
    assert len(data) < 1 << 20
    with pytest.raises(DocumentError, match=r"unsafe: .* unpacks to \d+ times its size"):
        read(data, suffix)


def test_a_missing_part_is_a_broken_file() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("word/other.xml", "<x/>")
    with pytest.raises(DocumentError, match="broken: its DOCX structure cannot be read"):
        read(out.getvalue(), ".docx")


def test_importing_the_registry_loads_no_reader() -> None:
    import subprocess

    code = (
        "import sys, modelworks.data.documents; print([m for m in ('lxml', 'docx', 'pypdfium2') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
