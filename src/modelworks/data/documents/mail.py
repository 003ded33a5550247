"""E-mail: one message (.eml) or a mailbox (.mbox, a page for each message), attachments listed by name."""

from __future__ import annotations

import re
from email import message_from_bytes, policy
from email.message import EmailMessage

from modelworks.core.errors import DocumentError
from modelworks.data.document import Document
from modelworks.data.documents.build import Builder, one_line, one_of
from modelworks.data.documents.encoding import decode
from modelworks.data.documents.html import add_html
from modelworks.data.documents.text import paragraphs

_SHOWN_HEADERS = ("Subject", "From", "To", "Cc", "Date")
_MESSAGE_START = re.compile(rb"(?:\A|\n\r?\n)From [^\r\n]+\r?\n")
_MAX_DEPTH = 5
"""Forwarded messages inside forwarded messages, as deep as they are read."""


def read(data: bytes, suffix: str) -> Document:
    if suffix == ".mbox":
        return _mailbox(data)
    builder = Builder("message/rfc822")
    message = _parse(data)
    builder.title = _header(message, "Subject")
    _add_message(builder, message, depth=0)
    return builder.document()


def _mailbox(data: bytes) -> Document:
    starts = [match.end() for match in _MESSAGE_START.finditer(data)]
    if not starts:
        raise DocumentError("broken: a mailbox without a message (no line begins with 'From ')")
    ends = [*[match.start() for match in _MESSAGE_START.finditer(data)][1:], len(data)]
    builder = Builder("application/mbox")
    for start, end in zip(starts, ends, strict=True):
        message = _parse(data[start:end].replace(b"\n>From ", b"\nFrom "))
        builder.page(_header(message, "Subject"))
        _add_message(builder, message, depth=0)
    builder.notes.append(one_of(len(starts), "message"))
    return builder.document()


def _parse(data: bytes) -> EmailMessage:
    # The policy never raises on malformed mail: it records defects and goes on.
    message = message_from_bytes(data, policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


def _header(message: EmailMessage, name: str) -> str:
    try:
        return one_line(str(message.get(name, "")))
    except (ValueError, TypeError, AttributeError, IndexError, LookupError):
        # The standard library's parser of structured headers fails on some malformed ones; show them as they came.
        return one_line(next((str(value) for key, value in message.raw_items() if key.lower() == name.lower()), ""))


def _add_message(builder: Builder, message: EmailMessage, depth: int) -> None:
    if subject := _header(message, "Subject"):
        builder.block("heading", subject, level=depth + 1)
    lines = [f"{name}: {value}" for name in _SHOWN_HEADERS if (value := _header(message, name))]
    builder.block("paragraph", "\n".join(lines))
    attachments: list[str] = []
    _add_part(builder, message, attachments, depth)
    if attachments:
        builder.block("list", "Attachments:\n" + "\n".join(f"- {line}" for line in attachments))


def _add_part(builder: Builder, part: EmailMessage, attachments: list[str], depth: int) -> None:
    kind = part.get_content_type()
    if kind == "message/rfc822" and depth < _MAX_DEPTH:
        for inner in part.get_payload() if part.is_multipart() else []:
            assert isinstance(inner, EmailMessage)
            _add_message(builder, inner, depth + 1)
    elif part.get_content_disposition() == "attachment" or part.get_filename():
        payload = part.get_payload(decode=True)
        size = f", {len(payload):,} bytes" if isinstance(payload, bytes) else ""
        attachments.append(f"{one_line(part.get_filename() or 'unnamed')} ({kind}{size})")
    elif kind == "multipart/alternative":
        body = part.get_body(preferencelist=("plain", "html"))
        for inner in [body] if body is not None else list(part.iter_parts()):
            assert isinstance(inner, EmailMessage)
            if inner is not part:
                _add_part(builder, inner, attachments, depth)
    elif part.is_multipart():
        for inner in part.get_payload():
            if isinstance(inner, EmailMessage):
                _add_part(builder, inner, attachments, depth)
    elif part.get_content_maintype() == "text":
        _add_text(builder, part, kind)
    else:
        attachments.append(f"unnamed ({kind})")


def _add_text(builder: Builder, part: EmailMessage, kind: str) -> None:
    payload = part.get_payload(decode=True)
    if not isinstance(payload, bytes) or not payload.strip():
        return
    try:
        text, encoding = decode(payload, part.get_content_charset() or "")
    except DocumentError:
        builder.notes.append("a text part holds binary data and was left out")
        return
    if encoding not in ("utf-8", part.get_content_charset()):
        builder.notes.append(f"a text part was read as {encoding}")
    if kind == "text/html":
        add_html(builder, text)
        return
    for start, end in paragraphs(text, 0, len(text)):
        builder.block("paragraph", text[start:end])
