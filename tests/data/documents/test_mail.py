"""E-mail: headers, the readable body, attachments by name; a mailbox has a page for each message."""

from __future__ import annotations

from collections.abc import Callable
from email.message import EmailMessage

from modelworks.data.document import Document
from modelworks.data.documents import read


def message(subject: str = "Grüße") -> EmailMessage:
    mail = EmailMessage()
    mail["Subject"], mail["From"], mail["To"] = subject, "Ada <ada@example.org>", "Alan <alan@example.org>"
    mail["Date"] = "Mon, 02 Jan 2023 10:00:00 +0000"
    mail.set_content("Hello Alan.\n\nThe result is 42.")
    return mail


def test_a_message_with_alternatives_and_attachments(checked: Callable[[Document], Document]) -> None:
    mail = message()
    mail.add_alternative("<p>Hello <b>HTML</b></p>", subtype="html")
    mail.add_attachment(b"12345", maintype="application", subtype="pdf", filename="Ergebnis ä.pdf")
    inner = message("Inner")
    mail.add_attachment(inner)
    document = checked(read(mail.as_bytes(), ".eml"))
    assert document.title == "Grüße"
    assert document.text.startswith(
        "Grüße\n\nSubject: Grüße\nFrom: Ada <ada@example.org>\nTo: Alan <alan@example.org>\nDate: Mon, 02 Jan 2023"
    )
    assert "\n\nHello Alan.\n\nThe result is 42." in document.text
    assert "HTML" not in document.text
    assert "\n\nInner\n\nSubject: Inner" in document.text
    assert document.text.endswith("Attachments:\n- Ergebnis ä.pdf (application/pdf, 5 bytes)")


def test_a_message_of_html_alone_in_an_odd_encoding() -> None:
    data = b"From: a@b.c\nSubject: x\nContent-Type: text/html; charset=iso-8859-2\n\n<h1>Nad\xb1sy</h1><p>B\xf3l</p>"
    assert read(data, ".eml").text.endswith("Nadąsy\n\nBól")


def test_broken_headers_are_shown_as_they_came(checked: Callable[[Document], Document]) -> None:
    data = b"From: =?utf-8?q?\xff?= <<>>\nTo: @@@\nSubject: =?bad?x?y?=\nContent-Type: nonsense\n\nbody \xff here"
    document = checked(read(data, ".eml"))
    assert "body ÿ here" in document.text


def test_a_mailbox(checked: Callable[[Document], Document]) -> None:
    parts = [b"From ada@example.org Mon Jan  2 10:00:00 2023\n" + message(f"Mail {i}").as_bytes() for i in (1, 2)]
    quoted = b"\n>From the start it was clear.\n"
    document = checked(read(b"\n".join(part + quoted for part in parts), ".mbox"))
    assert [page.label for page in document.pages] == ["Mail 1", "Mail 2"]
    assert document.notes == ("2 messages",)
    assert document.text.count("From the start it was clear.") == 2
    assert ">From" not in document.text
