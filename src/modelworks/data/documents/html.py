"""HTML: the main content as blocks; what surrounds it (navigation, footers, scripts) is left out."""

from __future__ import annotations

import re
from typing import Any

from lxml import etree

from modelworks.core.errors import DocumentError
from modelworks.data.document import Document
from modelworks.data.documents.build import Builder, drop_controls, one_line, superscript
from modelworks.data.documents.encoding import decode, encoding_note

# lxml has no types; an element is Any here.
Element = Any

_DECLARED = re.compile(rb"""<(?:meta|\?xml)[^>]{0,256}?(?:charset|encoding)\s*=\s*["']?([\w:.-]+)""", re.I)
_BREAK = "\u2028"
"""Stands for a <br> until white space is collapsed: the line separator, the one character that means just this."""

_NO_TEXT = (
    *("script", "style", "noscript", "template", "svg", "canvas", "object", "iframe", "head", "select", "button"),
    *("input", "textarea", "nav", "rp", "audio", "video", "map"),
)
_AROUND = ("footer", "aside", "header", "form")
"""Left out only where no landmark says what the main content is: an <article> has a <header> of its own."""
# Attributes are tested one by one in C; a condition on the class of each element would cost more than the parsing.
_HIDDEN = etree.XPath(
    "//*[@hidden or @aria-hidden='true' or @style[contains(translate(., ' ', ''), 'display:none')]"
    " or @role[.='navigation' or .='search' or .='banner' or .='contentinfo']]"
)
_LENGTH = etree.XPath("string-length()")
_MARKS = frozenset(("headerlink", "viewcode-link", "linenos", "sr-only", "anchor-link"))
"""Classes of what a tool added to the author's text: pilcrows, links to sources, line numbers."""
_SURROUNDING = re.compile(
    r"(?:^|[\s_-])(?:nav|navbar|menu|sidebar|breadcrumbs?|footer|cookies?|banner|advert|social|related|pagination)(?:$|[\s_-])",
    re.I,
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_BLOCKS = frozenset(
    (
        *("p", "div", "section", "article", "main", "body", "ul", "ol", "li", "dl", "dt", "dd", "table", "pre", "h1"),
        *("h2", "h3", "h4", "h5", "h6", "blockquote", "figure", "figcaption", "address", "hr", "details", "summary"),
        *("header", "footer", "aside", "fieldset", "legend", "form", "center", "tr", "td", "th", "caption", "tbody"),
        *("thead", "tfoot", "menu", "dir", "hgroup", "search"),
    )
)
_MAX_SPAN = 200


def read(data: bytes, suffix: str) -> Document:
    declared = _DECLARED.search(data[:2048])
    text, encoding = decode(data, declared.group(1).decode("ascii") if declared else "")
    builder = Builder("text/html")
    builder.notes += encoding_note(encoding)
    add_html(builder, text)
    try:
        return builder.document()
    except DocumentError:
        detail = builder.notes[-1] if builder.notes else "a script may fill it in a browser"
        raise DocumentError(f"no text: the page itself shows none ({detail})") from None


def add_html(builder: Builder, text: str) -> None:
    """Add the blocks of an HTML page or fragment."""
    # Parsed from bytes: a str with an XML declaration is refused by libxml2.
    parser = etree.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, huge_tree=True)
    root = etree.fromstring(drop_controls(text).encode("utf-8"), parser)
    if any("depth" in entry.message for entry in parser.error_log.filter_from_fatals()):
        builder.notes.append("elements nested too deeply were left out")
    if root is None:
        return
    title = root.find(".//title")
    _drop(root.iter(*_NO_TEXT))
    _drop(_HIDDEN(root))
    _drop(e for e in root.iter("a", "span", "td") if (names := e.get("class")) and not _MARKS.isdisjoint(names.split()))
    main = _main(root)
    _mark_inline(main)
    _Walk(builder).run(main)
    if title is not None and not builder.title:
        builder.title = one_line("".join(title.itertext()))


def _drop(elements: Any) -> None:
    """Remove elements but not the text that follows them."""
    for element in list(elements):
        parent = element.getparent()
        if parent is None:
            continue
        if element.tail:
            before = element.getprevious()
            if before is not None:
                before.tail = (before.tail or "") + element.tail
            else:
                parent.text = (parent.text or "") + element.tail
        parent.remove(element)


def _main(root: Element) -> Element:
    """The element that holds the content: <main>, role=main or the only <article>, else the trimmed body."""
    body = root.find("body")
    body = root if body is None else body
    whole = _length(body)
    marked = [*root.iter("main"), *root.xpath(".//*[@role='main']")]
    articles = list(root.iter("article"))
    if not marked and len(articles) == 1:
        marked = articles
    best = max(marked, key=_length, default=None)
    if best is not None and _length(best) * 20 >= whole:
        return best
    surrounding = [e for e in body.iterdescendants("div", "ul", "section", *_AROUND) if _is_surrounding(e)]
    # A site may wrap its whole page in a <form>, or name its frame "sidebar-layout": never drop most of the text.
    _drop(e for e in surrounding if _length(e) * 2 < whole)
    return body


def _is_surrounding(element: Element) -> bool:
    return element.tag in _AROUND or bool(_SURROUNDING.search(f"{element.get('class', '')} {element.get('id', '')}"))


def _length(element: Element) -> int:
    return int(_LENGTH(element))


def _mark_inline(main: Element) -> None:
    """Make visible in the text what markup alone says: line breaks, and that 10<sup>6</sup> is 10⁶, not 106."""
    for element in main.iter("br"):
        element.tail = _BREAK + (element.tail or "")
    for element in main.iter("sup"):
        before = element.getprevious()
        text = (before.tail if before is not None else element.getparent().text) or ""
        if text[-1:].isalnum() and len(element) == 0 and re.fullmatch(r"[-−+]?\d+|n", element.text or ""):
            element.text = superscript(element.text)


def _text(element: Element) -> str:
    return _lines("".join(element.itertext()))


def _lines(text: str) -> str:
    if _BREAK not in text:
        return one_line(text)
    return "\n".join(line for part in text.split(_BREAK) if (line := one_line(part)))


class _Walk:
    """Turns an element tree into blocks. Elements that hold only inline content are read in one step."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self.inline: list[str] = []
        self.term = ""
        """A definition list's term or an admonition's title, waiting for the paragraph that it introduces."""
        self.items: list[str] = []
        self.lists: list[int | None] = []
        """For each open list the number of its next item; None where it is bulleted."""
        self.bullet = ""
        self.level = 0
        self.terms = 0

    def run(self, main: Element) -> None:
        walker = etree.iterwalk(main, events=("start", "end"))
        skipped = None
        for event, element in walker:
            if event == "start":
                if self._start(element):
                    walker.skip_subtree()
                    skipped = element
                elif element.text:
                    self.inline.append(element.text)
                continue
            if element is not skipped:
                self._end(element)
            skipped = None
            if element is not main and element.tail:
                self.inline.append(element.tail)
        self._paragraph()
        self._flush_list()
        self._flush_term()

    def _start(self, element: Element) -> bool:
        """Open an element; True where it was read whole."""
        tag = element.tag
        if tag not in _BLOCKS:
            return False
        self._paragraph()
        if tag == "p":
            if "admonition-title" in element.get("class", ""):
                self._flush_list()
                self.term = _text(element)
            else:
                self._add(_text(element))
            return True
        if tag in _HEADINGS:
            self._heading(_text(element), _HEADINGS[tag])
            return True
        if tag == "pre":
            self._flush_list()
            self._flush_term()
            self.builder.block("code", "".join(element.itertext()).replace(_BREAK, "\n"))
            return True
        if tag == "table":
            return self._table(element)
        if tag in ("ul", "ol", "menu", "dir"):
            # Between items "1." and "2." a term that waits is the list's introduction.
            self._flush_term()
            start = element.get("start", "1")
            self.lists.append((int(start) if re.fullmatch(r"-?\d{1,9}", start) else 1) if tag == "ol" else None)
        elif tag == "li":
            self._open_item()
        elif tag == "dl":
            self.terms += 1
        elif tag == "dt":
            return self._term(element)
        return False

    def _end(self, element: Element) -> None:
        tag = element.tag
        if tag not in _BLOCKS:
            return
        self._paragraph()
        if tag in ("ul", "ol", "menu", "dir"):
            if self.lists:
                self.lists.pop()
            if not self.lists:
                self._flush_list()
        elif tag == "dl":
            self.terms -= 1
            self._flush_term()

    def _paragraph(self) -> None:
        """End the run of inline content gathered so far."""
        if self.inline:
            text = _lines("".join(self.inline))
            self.inline.clear()
            self._add(text)

    def _add(self, text: str) -> None:
        if not text:
            return
        if self.term:
            text, self.term = f"{self.term}\n{text}", ""
        if self.lists:
            indent = "  " * (len(self.lists) - 1)
            self.items.append(indent + (self.bullet or "  ") + text)
            self.bullet = ""
        else:
            self._flush_list()
            self.builder.block("paragraph", text)

    def _open_item(self) -> None:
        if self.lists and (number := self.lists[-1]) is not None:
            self.bullet = f"{number}. "
            self.lists[-1] = number + 1
        else:
            self.bullet = "- "

    def _flush_list(self) -> None:
        if self.items:
            self.builder.block("list", "\n".join(self.items))
            self.items.clear()

    def _flush_term(self) -> None:
        if self.term:
            text, self.term = self.term, ""
            self._flush_list()
            self.builder.block("paragraph", text)

    def _heading(self, text: str, level: int) -> None:
        self._flush_list()
        self._flush_term()
        self.level = level
        if level == 1 and not self.builder.title:
            self.builder.title = text
        self.builder.block("heading", text, level=level)

    def _term(self, element: Element) -> bool:
        """A documented object (Sphinx's `dt.sig`) heads its description; any other term joins its first paragraph."""
        text = _text(element)
        if "sig" in element.get("class", "").split():
            self._flush_list()
            self._flush_term()
            self.builder.block("heading", text, level=max(self.level, 1) + self.terms)
        elif text:
            self.term = f"{self.term}\n{text}" if self.term else text
        return True

    def _table(self, table: Element) -> bool:
        """A table of data becomes a block; one that lays out a page (tables or code in its cells) is walked through."""
        if (
            table.get("role") in ("presentation", "none")
            or next(table.iterdescendants("table", "pre"), None) is not None
        ):
            return False
        self._flush_list()
        self._flush_term()
        for caption in table.iter("caption"):
            self.builder.block("paragraph", _text(caption))
        rows: list[list[str]] = []
        hanging: dict[int, tuple[int, str]] = {}
        heads = []
        for tr in table.iter("tr"):
            cells = [cell for cell in tr if cell.tag in ("td", "th")]
            rows.append(_row(cells, hanging))
            heads.append(bool(cells) and (all(cell.tag == "th" for cell in cells) or tr.getparent().tag == "thead"))
        self.builder.table(rows, header=bool(heads) and heads[0])
        return True


def _row(cells: list[Element], hanging: dict[int, tuple[int, str]]) -> list[str]:
    """The texts of a row; a cell that spans rows is repeated in each, so that every row can be read alone.

    `hanging` maps a column to the rows that its spanning cell still covers and its text.
    """
    row: list[str] = []

    def take_hanging() -> None:
        while len(row) in hanging:
            left, text = hanging.pop(len(row))
            if left > 1:
                hanging[len(row)] = (left - 1, text)
            row.append(text)

    for cell in cells:
        take_hanging()
        text = _text(cell).replace("\n", " ")
        if (rows := _span(cell, "rowspan")) > 1:
            hanging[len(row)] = (rows - 1, text)
        row.append(text)
        row += [""] * (_span(cell, "colspan") - 1)
    take_hanging()
    return row


def _span(cell: Element, name: str) -> int:
    value = cell.get(name, "1").strip()
    return min(max(int(value), 1), _MAX_SPAN) if re.fullmatch(r"\d{1,9}", value) else 1
