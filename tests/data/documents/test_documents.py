"""The public documents: each loads or is refused for its true reason; phrases as seen on the rendered pages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modelworks.core.errors import DocumentError
from modelworks.data.document import Document
from modelworks.data.documents import load

REASONS = {
    "005-libreoffice-writer-password__libreoffice-writer-password.pdf": "password-protected",
    "pypdf__crazyones-encrypted-256.pdf": "password-protected",
    "pypdf__encrypted-file.pdf": "password-protected",
    "007-imagemagick-images__imagemagick-ASCII85Decode.pdf": "scanned: 1 page holds only images, no text layer",
    "007-imagemagick-images__imagemagick-CCITTFaxDecode.pdf": "scanned: 1 page holds only images, no text layer",
    "007-imagemagick-images__imagemagick-lzw.pdf": "scanned: 1 page holds only images, no text layer",
    "019-grayscale-image__grayscale-image.pdf": "scanned: 1 page holds only images, no text layer",
    "023-cmyk-image__cmyk-image.pdf": "scanned: 1 page holds only images, no text layer",
    "pypdf__encrypted_doc_no_id.pdf": "scanned: 1 page holds only images, no text layer",
} | dict.fromkeys(
    (
        *("author_snowman.xlsx", "blk-containing-table.docx", "default.docx", "default.pptx", "doc-default.docx"),
        *("doc-word-default-blank.docx", "set-no-settings-part.docx", "shp-autoshape-adjustments.pptx"),
        *("sld-background.pptx", "sty-behav-props.docx", "sty-having-no-styles-part.docx", "tbl-2x2-table.docx"),
        *("tbl-having-tables.docx", "tbl-on-off-props.docx"),
    ),
    "no text: the document is blank",
)

# What a person sees on the rendered page, in this order.
SEEN = {
    "pdf/003-pdflatex-image__pdflatex-image.pdf": [
        "1 Your Chapter\n\n",
        "sed diam nonumy eirmod tempor invidunt ut labore",
        "accusam et justo duo dolores et ea rebum.\n\nStet clita",
    ],
    "pdf/006-pdflatex-outline__pdflatex-outline.pdf": [
        "Contents\n\n1 Foo | 2\n2 Bar | 2\n3 Baz | 2",
        "\n\n1 Foo\n\nHello, here is some text",
        "\n\n2 Bar\n\nHello",
    ],
    "pdf/009-pdflatex-geotopo__GeoTopo-komprimiert.pdf": [
        "Einführung in die Geometrie und Topologie",
        "Wer es gerne in A5 (Schwarz-Weiß, Ringbindung) für 10 Euro hätte",
        "ihre Übungsaufgaben und Lösungen zu benutzen.\n\nJérôme Urhausen",
        "Die Kugeloberfläche S² lässt sich durch strecken",
        "Auch die Beweisführung mittels Widerspruchsbeweisen sollte",
    ],
    "pdf/010-pdflatex-forms__pdflatex-forms.pdf": ["Name", "Check ☐", "Submit"],
    "pdf/011-google-doc-document__google-doc-document.pdf": [
        "Beautiful is better than ugly.\n\nExplicit is better than implicit.",
        "| Indonesia | Germany | Austria | France | Vatican",
        "Capital | Jakarta | Berlin | Vienna | Paris | Vatican City",
        "Population | 273.879.750¹ | 83,190,556² | 8,935,112³ | 67,413,000 | 453",
    ],
    "pdf/012-libreoffice-form__libreoffice-form.pdf": [
        "Example for a Form\n\nFirst Name Alice Last Name\nBirthday",
        "Gender:\n\n☐ Female ☐ Male",
        "Nationality:",
        "☐ Agree to privacy policy\n☐ Other",
        "Bob",
    ],
    "pdf/013-reportlab-overlay__reportlab-overlay.pdf": [
        "Signed: 12-34-2007T12:34:56\nFingerprint: asdfSa2123\nName: Foo Bar"
    ],
    "pdf/015-arabic__habibi.pdf": ["habibi حَبيبي"],
    "pdf/015-arabic__habibi-rotated.pdf": ["habibi حَبيبي"] * 4,
    "pdf/021-pdfa__crazyones-pdfa.pdf": [
        "The Crazy Ones",
        "October 14, 1998",
        "And they have no respect for the status quo. You can quote them, disagree with them,",
        "Maybe they have to be crazy.",
    ],
    "pdf/024-annotations__annotated_pdf.pdf": [
        "Some text.",
        "Line 1\nLine 2\nNot highlighted",
        "This is a text annotation.",
    ],
    "pdf/026-latex-multicolumn__multicolumn.pdf": [
        "Two-Column Document with Lorem Ipsum\n\nYour Name\n\nJanuary 3, 2024\n\nAbstract\n\nThis is a sample",
        "consectetuer adipiscing elit. Ut purus elit",
        "Donec nonummy pellentesque ante. Phasellus adipiscing semper elit.",  # from the left column to the right one
        "Table 1: EU Countries Information\n\nCountry | Population (millions) | Area (km²) | Capital | Official",
        "Czech Republic | 10.7 | 78,866 | Prague | Czech",
    ],
    "pdf/pypdf__side-by-side-subfig.pdf": [
        "(a) South American coati (b) Brown bear",
        "Figure 1.1: Bears\n\nYou can now see",
    ],
    "office/cht-category-access.pptx": ["Foo | 4.3 | 2.4 | 2", "US CA SF | 4.3", "UK Scotland Edinburgh | 4.5"],
    "office/cht-point-props.pptx": ["| Y-Value 1\n0.7 | 2.7 (foobar)\n1.8 | 3.2", "Category 4 | 4.5"],
    "office/doc-add-section.docx": [
        "First page",
        "Third page",
        "Even Page Header content",
        "First Page Footer content",
    ],
    "office/interview.xlsx": ["type | name | label | tags", "How long do your interviews usually last?"],
    "office/num-having-numbering-part.docx": ["1. Paragraph having List Number style."],
    "office/par-hlink-frags.docx": ["Two with link to bookmark.", "Five with link to http://foo.com#introduction."],
    "office/sct-inner-content.docx": ["P1\n\nT2\n\nP3\n\nT4\n\nP5"],
    "office/sheet_visibility.xlsx": ["v | i | s | i | b | l | e\n118 | 105 | 115 | 105 | 98 | 108 | 101"],
    "office/shp-inline-shape-access.docx": ["foo\nbar\nbaz", "Category 4 | 4.5 | 2.8 | 5"],
    "office/tbl-cell-access.docx": ["1 | 2 | 3\n4 | 5 | 6\n7 | 8 | 9", "7 | 5 | 9"],
    "office/tbl-cell.pptx": [
        "vert anchor is top | vert anchor is bottom\nunladen swallows",
        "a | b | c\nd | e | f\ng | h | i",
    ],
    "office/text_and_numbers.xlsx": ["Hebrew | שלום | עולם", "1337 | 13.37 | $1,337.00"],
    "office/txt-text.pptx": ["yahoo.com", "Text run in table cell"],
}


def test_each_document_is_read_or_refused_for_its_true_reason(
    shared_documents: Path, checked: Callable[[Document], Document]
) -> None:
    files = sorted(path for path in shared_documents.rglob("*") if path.is_file())
    assert len(files) >= 83
    refused = {}
    for path in files:
        try:
            checked(load(path))
        except DocumentError as error:
            refused[path.name] = str(error)
    assert refused.keys() == REASONS.keys()
    for name, message in refused.items():
        assert message.startswith(REASONS[name])


@pytest.mark.parametrize("name", sorted(SEEN))
def test_the_text_is_what_a_person_sees(shared_documents: Path, name: str) -> None:
    text = load(shared_documents / name).text
    at = 0
    for phrase in SEEN[name]:
        found = text.find(phrase, at)
        assert found >= 0, f"not found after offset {at}: {phrase!r}"
        at = found + len(phrase)


def test_pages_carry_their_labels(shared_documents: Path) -> None:
    document = load(shared_documents / "pdf" / "009-pdflatex-geotopo__GeoTopo-komprimiert.pdf")
    assert [page.label for page in document.pages[:5]] == ["i", "ii", "iii", "1", "2"]
    assert len(document.pages) == 117
    book = load(shared_documents / "office" / "sheet_visibility.xlsx")
    assert [page.label for page in book.pages] == ["Visible"]
    assert book.notes == ("hidden sheet 'Hidden' left out", "hidden sheet 'VeryHidden' left out")


def test_pages_that_are_only_images_are_noted(shared_documents: Path) -> None:
    document = load(shared_documents / "pdf" / "007-imagemagick-images__imagemagick-images.pdf")
    assert document.notes == ("pages with only images, no text layer: 4-5",)
