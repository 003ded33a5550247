"""Word documents: headings, lists with the numbers that Word shows, tables, text boxes, notes, headers, footers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from modelworks.data.document import Document
from modelworks.data.documents.build import Builder, one_line, superscript
from modelworks.data.documents.office import chart, container, diagram_text, parse_xml

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_R = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
_MATH_TEXT = "{http://schemas.openxmlformats.org/officeDocument/2006/math}t"
_CHART_REFERENCE = "{http://schemas.openxmlformats.org/drawingml/2006/chart}chart"
_DIAGRAM_REFERENCE = "{http://schemas.openxmlformats.org/drawingml/2006/diagram}relIds"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"

_CHARACTERS = {f"{_W}tab": "\t", f"{_W}ptab": "\t", f"{_W}br": "\n", f"{_W}cr": "\n", f"{_W}noBreakHyphen": "-"}
# What a reader does not see: deleted text, field codes, the second copy of a drawing, ruby above its base.
_UNSEEN = {f"{_W}{tag}" for tag in ("del", "moveFrom", "instrText", "delText", "pPr", "rPr", "rt")} | {_FALLBACK}
_EXPONENT = re.compile(r"[-−+]?\d+|n")
_FALSE = ("0", "false", "off")


def read(data: bytes, suffix: str) -> Document:
    import docx

    document = docx.Document(container(data))
    builder = Builder("application/vnd.openxmlformats-officedocument.wordprocessingml.document")
    builder.title = document.core_properties.title or ""
    body = _Body(builder, document.part)
    body.add(document.element.body)
    body.add_notes()
    body.add_headers(document.element.body)
    result = builder.document()
    if not result.title and (first := next((b for b in result.blocks if b.kind == "heading"), None)):
        builder.title = result.text[first.start : first.end]
        result = builder.document()
    return result


class _Body:
    def __init__(self, builder: Builder, part: Any) -> None:
        self.builder = builder
        self.part = part
        self.styles = _Styles(_related(part, "styles"))
        self.numbering = _Numbering(_related(part, "numbering"))
        self.items: list[str] = []
        self.floating: list[Any] = []
        """Text boxes, charts and graphics anchored in the paragraph at hand; they are added after it."""
        self.notes: list[tuple[str, str]] = []

    def add(self, container: Any) -> None:
        for element in _blocks(container):
            if element.tag == f"{_W}tbl":
                self._flush_list()
                self._table(element)
            else:
                self._paragraph(element)
        self._flush_list()

    def add_notes(self) -> None:
        """Footnotes and endnotes in the order of their references, then comments."""
        roots = {kind: _related(self.part, f"{kind}s") for kind in ("footnote", "endnote")}
        for index, (kind, identifier) in enumerate(self.notes, 1):
            root = roots[kind]
            for note in root.iter(f"{_W}{kind}") if root is not None else ():
                if note.get(f"{_W}id") == identifier:
                    self.builder.block("paragraph", f"[{index}] {one_line(self._all_text(note))}")
        comments = _related(self.part, "comments")
        for comment in comments.iter(f"{_W}comment") if comments is not None else ():
            author = comment.get(f"{_W}author", "")
            self.builder.block("paragraph", f"Comment{f' by {author}' if author else ''}: {self._all_text(comment)}")

    def add_headers(self, body: Any) -> None:
        """Headers and footers that some page shows, each text once: what every page repeats is said once here."""
        settings = _related(self.part, "settings")
        even_and_odd = settings is not None and _is_on(settings.find(f"{_W}evenAndOddHeaders"))
        seen = set()
        for section in body.iter(f"{_W}sectPr"):
            for reference in section.iterchildren(f"{_W}headerReference", f"{_W}footerReference"):
                kind = reference.get(f"{_W}type")
                if (kind == "first" and not _is_on(section.find(f"{_W}titlePg"))) or (
                    kind == "even" and not even_and_odd
                ):
                    continue
                related = self.part.related_parts.get(reference.get(f"{_R}id"))
                text = self._all_text(parse_xml(related.blob)) if related is not None else ""
                if text.strip() and text not in seen:
                    seen.add(text)
                    self.builder.block("paragraph", text)

    def _all_text(self, container: Any) -> str:
        return "\n".join(text for p in container.iter(f"{_W}p") if (text := "".join(self._pieces(p)).strip()))

    def _paragraph(self, element: Any) -> None:
        text = "".join(self._pieces(element)).strip()
        level, number_id, depth = self.styles.of(element)
        floating, self.floating = self.floating, []
        if text:
            marker = self.numbering.marker(number_id, depth) if number_id else ""
            if level:
                self._flush_list()
                self.builder.block("heading", one_line(f"{marker} {text}"), level=level)
            elif marker:
                self.items.append("  " * depth + f"{marker} {text}")
            else:
                self._flush_list()
                self.builder.block("paragraph", text)
        for drawing in floating:
            self._flush_list()
            self._drawing(drawing)

    def _drawing(self, element: Any) -> None:
        if element.tag == f"{_W}txbxContent":
            self.add(element)
        elif element.tag == _CHART_REFERENCE:
            part = self.part.related_parts.get(element.get(f"{_R}id"))
            if part is not None:
                titles, rows = chart(part.blob)
                self.builder.block("paragraph", "\n".join(titles))
                self.builder.table(rows)
        else:
            part = self.part.related_parts.get(element.get(f"{_R}dm"))
            if part is not None:
                self.builder.block("list", diagram_text(part.blob))

    def _pieces(self, element: Any) -> Iterator[str]:
        """The visible text under `element`; anchored drawings are put aside in `floating`."""
        for child in element:
            tag = child.tag
            if tag == f"{_W}t" or tag == _MATH_TEXT:
                yield child.text or ""
            elif tag in _CHARACTERS:
                yield _CHARACTERS[tag]
            elif tag in _UNSEEN or not isinstance(tag, str) or _is_hidden(child):
                continue
            elif tag == f"{_W}r" and _is_superscript(child):
                text = "".join(self._pieces(child))
                yield superscript(text) if _EXPONENT.fullmatch(text) else text
            elif tag == f"{_W}sym":
                code = int(child.get(f"{_W}char", "20"), 16)
                yield "" if 0xE000 <= code <= 0xF8FF else chr(code)  # private codes mean glyphs of a symbol font
            elif tag in (f"{_W}footnoteReference", f"{_W}endnoteReference"):
                self.notes.append((tag[len(_W) : -len("Reference")], child.get(f"{_W}id", "")))
                yield f"[{len(self.notes)}]"
            elif tag in (f"{_W}txbxContent", _CHART_REFERENCE, _DIAGRAM_REFERENCE):
                self.floating.append(child)
            else:
                yield from self._pieces(child)

    def _table(self, table: Any) -> None:
        rows: list[list[str]] = []
        trs = list(_children(table, f"{_W}tr"))
        cells = [list(_children(tr, f"{_W}tc")) for tr in trs]
        if len(cells) == 1 and len(cells[0]) == 1:  # a frame around text
            self.add(cells[0][0])
            return
        for tr, tcs in zip(trs, cells, strict=True):
            before = _value(tr.find(f"{_W}trPr"), "gridBefore") or 0
            row = [""] * min(before, 63)
            for tc in tcs:
                merge = tc.find(f"{_W}tcPr/{_W}vMerge")
                continues = merge is not None and merge.get(f"{_W}val", "continue") == "continue"
                above = rows[-1][len(row)] if continues and rows and len(row) < len(rows[-1]) else ""
                row.append(above or self._all_text(tc))
                span = tc.find(f"{_W}tcPr/{_W}gridSpan")
                row += [""] * (min(int(span.get(f"{_W}val", "1")), 63) - 1 if span is not None else 0)
            rows.append(row)
        self.builder.table(rows)
        floating, self.floating = self.floating, []
        for drawing in floating:
            self._drawing(drawing)

    def _flush_list(self) -> None:
        if self.items:
            self.builder.block("list", "\n".join(self.items))
            self.items.clear()


def _blocks(container: Any) -> Iterator[Any]:
    """Paragraphs and tables in order, content controls and custom XML opened."""
    for child in container:
        if child.tag in (f"{_W}p", f"{_W}tbl"):
            yield child
        elif child.tag in (f"{_W}sdt", f"{_W}sdtContent", f"{_W}customXml", f"{_W}ins", f"{_W}moveTo"):
            yield from _blocks(child)


def _children(parent: Any, tag: str) -> Iterator[Any]:
    """Rows or cells, content controls around them opened."""
    for child in parent:
        if child.tag == tag:
            yield child
        elif child.tag in (f"{_W}sdt", f"{_W}sdtContent", f"{_W}customXml", f"{_W}ins"):
            yield from _children(child, tag)


def _related(part: Any, kind: str) -> Any:
    """The root of the part's related part of that kind, or None."""
    for relation in part.rels.values():
        if relation.reltype.endswith(f"/{kind}") and not relation.is_external:
            return parse_xml(relation.target_part.blob)
    return None


def _is_hidden(run: Any) -> bool:
    return run.tag == f"{_W}r" and _is_on(run.find(f"{_W}rPr/{_W}vanish"))


def _is_superscript(run: Any) -> bool:
    position = run.find(f"{_W}rPr/{_W}vertAlign")
    return position is not None and position.get(f"{_W}val") == "superscript"


def _is_on(element: Any) -> bool:
    return element is not None and element.get(f"{_W}val", "1") not in _FALSE


class _Styles:
    """Heading levels and list membership, looked up through the styles that a style is based on."""

    def __init__(self, root: Any) -> None:
        self.styles = {} if root is None else {s.get(f"{_W}styleId"): s for s in root.iter(f"{_W}style")}
        self.default = next(
            (i for i, s in self.styles.items() if s.get(f"{_W}default") == "1" and s.get(f"{_W}type") == "paragraph"),
            None,
        )

    def of(self, paragraph: Any) -> tuple[int, str, int]:
        """Heading level (0 for none), numbering id ("" for none) and list depth from 0."""
        own = paragraph.find(f"{_W}pPr")
        properties = [own] if own is not None else []
        named = own.find(f"{_W}pStyle") if own is not None else None
        style = self.styles.get(named.get(f"{_W}val") if named is not None else self.default)
        level = 0
        for _ in range(20):  # a chain of bases may be circular in a damaged file
            if style is None:
                break
            name = style.find(f"{_W}name")
            level = level or _heading_level(name.get(f"{_W}val", "") if name is not None else "")
            if (of_style := style.find(f"{_W}pPr")) is not None:
                properties.append(of_style)
            base = style.find(f"{_W}basedOn")
            style = self.styles.get(base.get(f"{_W}val")) if base is not None else None
        outline = next((v for p in properties if (v := _value(p, "outlineLvl")) is not None), None)
        if not level and outline is not None and outline < 9:
            level = outline + 1
        numbers = [n for p in properties if (n := p.find(f"{_W}numPr")) is not None]
        number_id = next((str(v) for n in numbers if (v := _value(n, "numId")) is not None), "")
        depth = next((v for n in numbers if (v := _value(n, "ilvl")) is not None), 0)
        return level, "" if number_id == "0" else number_id, min(max(depth, 0), 8)


def _heading_level(name: str) -> int:
    if name.lower() == "title":
        return 1
    found = re.fullmatch(r"heading ([1-9])", name.lower())
    return int(found[1]) if found else 0


def _value(parent: Any, tag: str) -> int | None:
    child = parent.find(f"{_W}{tag}") if parent is not None else None
    value = child.get(f"{_W}val", "") if child is not None else ""
    return int(value) if re.fullmatch(r"-?\d{1,9}", value) else None


class _Numbering:
    """The running numbers of lists: each abstract list counts on through all paragraphs that use it."""

    def __init__(self, root: Any) -> None:
        self.levels: dict[str, dict[int, Any]] = {}
        self.abstract: dict[str, str] = {}
        self.counts: dict[str, list[int | None]] = {}
        if root is None:
            return
        for definition in root.iter(f"{_W}abstractNum"):
            levels = {int(level.get(f"{_W}ilvl", "0")): level for level in definition.iterchildren(f"{_W}lvl")}
            self.levels[definition.get(f"{_W}abstractNumId")] = levels
        for number in root.iter(f"{_W}num"):
            target = number.find(f"{_W}abstractNumId")
            if target is None:
                continue
            identifier, abstract = number.get(f"{_W}numId"), target.get(f"{_W}val")
            if number.find(f"{_W}lvlOverride/{_W}startOverride") is not None:  # a list that starts anew
                abstract, original = f"{abstract}/{identifier}", abstract
                self.levels[abstract] = self.levels.get(original, {})
            self.abstract[identifier] = abstract

    def marker(self, number_id: str, depth: int) -> str:
        """What stands before the paragraph at hand; counts it."""
        abstract = self.abstract.get(number_id, "")
        levels = self.levels.get(abstract, {})
        if depth not in levels:
            return "-"
        counts = self.counts.setdefault(abstract, [None] * 9)
        for level in range(depth + 1):
            if counts[level] is None:
                start = _value(levels[level], "start") if level in levels else None
                counts[level] = (1 if start is None else start) - (level == depth)
        counts[depth] = (counts[depth] or 0) + 1
        counts[depth + 1 :] = [None] * (8 - depth)
        template = levels[depth].find(f"{_W}lvlText")
        text = template.get(f"{_W}val", "") if template is not None else ""
        if _format(levels[depth]) in ("bullet", "none") or "%" not in text:
            return "-"

        def number(found: re.Match[str]) -> str:
            level = int(found[1]) - 1
            return _in_format(counts[level] or 1, _format(levels[level]) if level in levels else "decimal")

        return re.sub(r"%([1-9])", number, text)


def _format(level: Any) -> str:
    element = level.find(f"{_W}numFmt")
    return element.get(f"{_W}val", "decimal") if element is not None else "decimal"


def _in_format(number: int, kind: str) -> str:
    if kind in ("lowerLetter", "upperLetter"):
        letter = chr(ord("a") + (number - 1) % 26) * ((number - 1) // 26 % 10 + 1)
        return letter if kind == "lowerLetter" else letter.upper()
    if kind in ("lowerRoman", "upperRoman"):
        roman = _roman(number % 4000)
        return roman.lower() if kind == "lowerRoman" else roman
    return f"{number:02d}" if kind == "decimalZero" else str(number)


_ROMAN = (
    *((1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL")),
    *((10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")),
)


def _roman(number: int) -> str:
    text = ""
    for value, letters in _ROMAN:
        text += letters * (number // value)
        number %= value
    return text
