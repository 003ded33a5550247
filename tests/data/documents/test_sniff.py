"""What a file is by its bytes, whatever its name says."""

from __future__ import annotations

import io
import zipfile

import pytest

from modelworks.core.errors import DocumentError
from modelworks.data.documents.sniff import by_content, by_signature


def zipped(*names: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return data.getvalue()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"%PDF-1.7\n", ".pdf"),
        (b"it begins with %PDF-1.4", None),
        (b"  \n%PDF-1.4", ".pdf"),
        (zipped("[Content_Types].xml", "word/document.xml"), ".docx"),
        (zipped("[Content_Types].xml", "ppt/presentation.xml"), ".pptx"),
        (zipped("[Content_Types].xml", "xl/workbook.xml"), ".xlsx"),
        (b"GIF89a is a format of pictures.", None),
        (b"plain text", None),
    ],
)
def test_signatures_decide_or_leave_it_to_the_name(data: bytes, kind: str | None) -> None:
    assert by_signature(data, ".txt") == kind


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (zipped("readme.txt"), "ZIP archive"),
        (b"\0\0\0\x18ftypmp42" + bytes(20), "media file"),
        (b"RIFF\0\0\0\0WAVE" + bytes(20), "media file"),
        (b"GGUF\3\0\0\0" + bytes(20), "GGUF model"),
        (b"{\\rtf1 some text}", "Rich Text"),
    ],
)
def test_kinds_without_a_reader_are_named(data: bytes, reason: str) -> None:
    with pytest.raises(DocumentError, match=reason):
        by_signature(data, ".dat")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"<!-- a page --><!DOCTYPE html><html></html>", ".html"),
        (b"From ada@example.org Mon Jan 1\nSubject: x\n\nHello", ".mbox"),
        (b"From: ada@example.org\nTo: alan@example.org\nSubject: x\n\nHello", ".eml"),
        (b"Subject: only one header\n\nHello", ".txt"),
        (b"#!/bin/sh\necho hello\n", ".sh"),
        ("Grüße".encode("utf-16"), ".txt"),
    ],
)
def test_text_of_unknown_kind_is_known_by_its_beginning(data: bytes, kind: str) -> None:
    assert by_content(data, "") == kind


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(DocumentError, match=r"binary file: no text reader for \.bin"):
        by_content(bytes(range(256)), ".bin")
