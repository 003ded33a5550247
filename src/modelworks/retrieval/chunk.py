"""Cutting a document into the spans that are embedded, indexed and retrieved.

A strategy is a function `(document, *, count_tokens, max_tokens, overlap) -> list[Chunk]` and a line in `STRATEGIES`.
What is counted against the budget is `Chunk.index_text`, heading path and table header included, in the tokens of
the model that will read it: nothing is cut off silently later. Offsets come from where a piece stood, never from a
search for its text.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from weakref import WeakKeyDictionary

from modelworks.core.errors import ConfigError
from modelworks.data.document import Block, BlockKind, Document, Page
from modelworks.retrieval.sentence import LineEnds, sentences
from modelworks.text.words import index_form

CountTokens = Callable[[str], int]
"""Tokens that the model sees for a text, its special tokens included."""

MAX_TOKENS = 256
"""MiniLM's window, [CLS] and [SEP] included."""
MIN_TOKENS = 32
OVERLAP = 32
_CHARACTERS_PER_TOKEN = 16
"""A chunk has at most so many characters per token of its budget: BERT takes a megabyte of base64 for one [UNK]."""
_SLICE = 4096
_SAMPLE = 4000
_LONGEST_WORD = 32
_MOST_WORDS = 500_000
_LONG_HEADING = 60
_TOP_LEVEL = 2
"""Headings down to this level begin a chunk of their own: a document's title and its sections."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A span that is indexed and retrieved as one: `document.text[start:end]`."""

    start: int
    end: int
    index_text: str
    """What is embedded and indexed for words: heading path and table header, then the span, NFKC-normalised."""
    heading: str = ""
    """The title, where no heading shows it, and the headings that the span's text stands under, the span's own first
    ones among them, outermost first, joined by " > "."""
    statements: tuple[tuple[int, int], ...] = ()
    """The sentences, items, rows and lines of code in the span, headings left out: what can be cited."""


def page_of(document: Document, offset: int) -> Page:
    """The page on which the character at `offset` stands; what separates two pages counts for the first."""
    return document.pages[max(bisect_right(document.pages, offset, key=lambda page: page.start) - 1, 0)]


def chunk(
    document: Document, *, count_tokens: CountTokens, max_tokens: int = MAX_TOKENS, overlap: int = OVERLAP
) -> list[Chunk]:
    """Chunks by structure.

    Blocks are packed up to the budget; a page and a heading of the first two levels begin a new chunk, a deeper one
    does where half the budget is used. A heading stays with what follows it. A block over the budget is cut between
    rows, lines or sentences: rows of a table with its header repeated in `index_text`, sentences of a paragraph with
    up to `overlap` tokens of the sentences before.

    Raises:
        ConfigError: a budget below `MIN_TOKENS`, or an overlap of half the budget or more.
    """
    cutter = _Cutter(document, count_tokens, max_tokens, overlap)
    return _progressing(piece for group in _pack(cutter) for piece in cutter.chunks(group))


def overlapping(
    document: Document, *, count_tokens: CountTokens, max_tokens: int = MAX_TOKENS, overlap: int = 2 * OVERLAP
) -> list[Chunk]:
    """Chunks by size alone: windows of up to `max_tokens`, each with up to `overlap` tokens of the one before.

    Windows begin and end at sentences (lines in tables, lists and code), whatever the pages and headings.

    Raises:
        ConfigError: a budget below `MIN_TOKENS`, or an overlap of half the budget or more.
    """
    cutter = _Cutter(document, count_tokens, max_tokens, overlap)
    units = [unit for block, path in cutter.blocks() for unit in cutter.units(block, path, cutter.room(path))]
    return _progressing(piece for window in _windows(cutter, units) for piece in cutter.chunks(window))


def _windows(cutter: _Cutter, units: list[_Piece]) -> Iterator[list[_Piece]]:
    first = 0
    while first < len(units):
        room = cutter.room(units[first].path) - (cutter.cost(units[first].header) if units[first].header else 0)
        last, used = first, 0
        while last < len(units) and (last == first or used + units[last].cost <= room):
            used += units[last].cost
            last += 1
        yield units[first:last]
        if last == len(units):
            break
        again, kept = last, 0
        while again - 1 > first and kept + units[again - 1].cost <= cutter.overlap:
            again -= 1
            kept += units[again].cost
        first = again


def _progressing(chunks: Iterable[Chunk]) -> list[Chunk]:
    """The chunks without any that holds only what the one before it holds: a whole overlap may get split off."""
    kept: list[Chunk] = []
    for piece in chunks:
        if not kept or piece.end > kept[-1].end:
            kept.append(piece)
    return kept


STRATEGIES: dict[str, Callable[..., list[Chunk]]] = {"structure": chunk, "overlapping": overlapping}

_known_words: WeakKeyDictionary[object, dict[str, int]] = WeakKeyDictionary()


def _words_of(count_tokens: CountTokens) -> dict[str, int]:
    """What words cost by this counter, kept as long as the model that counts; natural text repeats its words."""
    owner = getattr(count_tokens, "__self__", count_tokens)
    try:
        words = _known_words.setdefault(owner, {})
    except TypeError:  # an owner without weak references
        return {}
    if len(words) > _MOST_WORDS:
        words.clear()
    return words


@dataclass(slots=True)
class _Piece:
    """A span that is not cut any more, with what it costs alone."""

    start: int
    end: int
    cost: int
    kind: BlockKind
    path: tuple[str, ...]
    """The headings above it, outermost first."""
    level: int = 0
    header: str = ""
    """For a table's rows below its header, the header in index form."""
    lead: int | None = None
    """Where its chunk begins if it is the first of one: the sentences before it that are repeated."""


class _Cutter:
    """Costs and cuts for one document under one budget."""

    def __init__(self, document: Document, count_tokens: CountTokens, max_tokens: int, overlap: int) -> None:
        if max_tokens < MIN_TOKENS:
            raise ConfigError(f"max_tokens is {max_tokens}; a chunk needs at least {MIN_TOKENS}")
        if not 0 <= overlap < max_tokens // 2:
            raise ConfigError(f"overlap is {overlap}; it must be at least 0 and below half of max_tokens={max_tokens}")
        self.document = document
        self.text = document.text
        self.count = count_tokens
        self.max_tokens = max_tokens
        self.overlap = overlap
        self.special = count_tokens("")
        self._words = _words_of(count_tokens)
        sample = index_form(self.text[:_SAMPLE])
        # How much more the model's tokens are than its words' tokens alone: 1 for BERT, which drops white space.
        self._ratio = max((count_tokens(sample) - self.special) / max(self._word_cost(sample), 1), 1.0)
        self._prefixes: dict[tuple[str, ...], tuple[str, int]] = {}
        self._statements = [
            span for block, _ in self.blocks() if block.kind != "heading" for span in self.sentences(block)
        ]

    # --- costs --------------------------------------------------------------------------------------------------------

    def cost(self, text: str) -> int:
        """Tokens of `text` within a longer one, about: the sum over its words, each counted once in a process.

        An estimate, so that a document is tokenised only once in whole, when its finished chunks are checked.
        """
        form = index_form(text)
        return max(ceil(self._word_cost(form) * self._ratio), len(form) // _CHARACTERS_PER_TOKEN + 1)

    def _word_cost(self, form: str) -> int:
        words, total = self._words, 0
        for word in form.split():
            cost = words.get(word)
            if cost is None:
                cost = self.count(word) - self.special
                if len(word) <= _LONGEST_WORD:
                    words[word] = cost
            total += cost
        return total

    def room(self, path: tuple[str, ...]) -> int:
        """What the heading path leaves of the budget for the body."""
        return self.max_tokens - self.special - self.prefix(path)[1]

    def prefix(self, path: tuple[str, ...]) -> tuple[str, int]:
        """The heading path as it stands in `index_text`, at most a quarter of the budget, and its cost.

        The innermost headings say most; the outermost give way first.
        """
        if path not in self._prefixes:
            self._prefixes[path] = ("", 0)
            for first in range(len(path)):
                text = index_form(" > ".join(path[first:]))
                if (cost := self.cost(text)) <= self.max_tokens // 4:
                    self._prefixes[path] = (text, cost)
                    break
                if first == len(path) - 1:
                    text = self._shortened(text, self.max_tokens // 4)
                    self._prefixes[path] = (text, self.cost(text) if text else 0)
        return self._prefixes[path]

    def _shortened(self, text: str, limit: int) -> str:
        """The beginning of `text` that costs at most `limit`."""
        while text and self.cost(text) > limit:
            text = text[: len(text) * 2 // 3].rstrip()
        return text

    # --- pieces -------------------------------------------------------------------------------------------------------

    def blocks(self) -> Iterator[tuple[Block, tuple[str, ...]]]:
        """The blocks with the headings above each; text outside of every block counts as paragraphs.

        A title that no heading shows (a PDF's, a mail folder's) stands above them all.
        """
        above: list[tuple[int, str]] = []
        title = self.document.title
        if title and title not in (_heading_text(self.text[b.start : b.end]) for b in self.document.blocks if b.level):
            above.append((0, title))
        at = 0
        for block in (*self.document.blocks, Block("paragraph", len(self.text), len(self.text))):
            if self.text[at : block.start].strip():
                yield Block("paragraph", at, block.start), tuple(text for _, text in above)
            at = max(at, block.end)
            if block.kind == "heading":
                while above and above[-1][0] >= max(block.level, 1):
                    above.pop()
            if self.text[block.start : block.end].strip():
                yield block, tuple(text for _, text in above)
            if block.kind == "heading":
                above.append((block.level, _heading_text(self.text[block.start : block.end])))

    def sentences(self, block: Block) -> list[tuple[int, int]]:
        """The spans of a block's sentences, items, rows or lines."""
        line_ends: LineEnds = "guess"
        if block.kind in ("table", "code"):
            line_ends = "end"
        elif self.document.reflows:
            line_ends = "space"
        found = sentences(self.text[block.start : block.end], line_ends=line_ends)
        return [(block.start + start, block.start + end) for start, end in found]

    def statements(self, start: int, end: int) -> tuple[tuple[int, int], ...]:
        """What of a span can be cited; the sentences at its ends are cut to it."""
        first = bisect_right(self._statements, start, key=lambda span: span[1])
        last = bisect_left(self._statements, end, key=lambda span: span[0])
        return tuple((max(s, start), min(e, end)) for s, e in self._statements[first:last])

    def pieces(self, block: Block, path: tuple[str, ...], room: int, cost: int) -> list[_Piece]:
        """The block, which costs `cost`, whole if it fits into `room`, else cut."""
        start, end = _trimmed(self.text, block.start, block.end)
        if cost <= room:
            return [_Piece(start, end, cost, block.kind, path, block.level)]
        overlap = self.overlap if block.kind == "paragraph" else 0
        units = self.units(block, path, room - overlap)
        pieces: list[_Piece] = []
        group: list[_Piece] = []
        used = 0
        for unit in units:
            if group and used + unit.cost > room - overlap:
                pieces.append(_merged(group))
                lead = _lead(group, overlap)
                group, used = [], 0
                unit.lead = lead
            group.append(unit)
            used += unit.cost
        return [*pieces, _merged(group)]

    def units(self, block: Block, path: tuple[str, ...], room: int) -> list[_Piece]:
        """The block's rows, lines or sentences; one that costs more than `room` is cut further."""
        text = self.text[block.start : block.end]
        header, header_end = "", block.start
        if block.header_end is not None and block.header_end < block.end:
            header = self._shortened(index_form(self.text[block.start : block.header_end].strip()), room // 2)
            header_end = block.header_end
        limit = room - (self.cost(header) if header else 0)
        if block.kind in ("paragraph", "heading"):
            spans = [(start - block.start, end - block.start) for start, end in self.sentences(block)]
        else:
            spans = [_trimmed(text, *match.span()) for match in re.finditer(r"[^\n]+", text)]
        units: list[_Piece] = []
        for start, end in spans:
            if start == end:
                continue
            cost = self.cost(text[start:end])
            parts = [(start, end, cost)] if cost <= limit else self._cut(text, start, end, limit)
            for s, e, c in parts:
                below = header if block.start + s >= header_end else ""
                units.append(_Piece(block.start + s, block.start + e, c, block.kind, path, block.level, below))
        return units

    def _cut(self, text: str, start: int, end: int, limit: int) -> list[tuple[int, int, int]]:
        """Cut one sentence, row or line at clauses, words, or, as the last resort, between characters."""
        from semantic_text_splitter import TextSplitter

        splitter = TextSplitter.from_callback(self.cost, max(limit, 1))
        starts = [
            slice_start + offset
            for slice_start, slice_end in _slices(text, start, end)
            for offset, _ in splitter.chunk_indices(text[slice_start:slice_end])
        ]
        # Up to where the next part starts: the splitter trims some characters that Python takes for no white space.
        spans = (_trimmed(text, s, e) for s, e in pairwise([start, *starts[1:], end]))
        return [(s, e, self.cost(text[s:e])) for s, e in spans if s < e]

    # --- chunks -------------------------------------------------------------------------------------------------------

    def chunks(self, pieces: Sequence[_Piece]) -> Iterator[Chunk]:
        """The chunk that spans `pieces`; more than one where the whole counts more than the sum of its parts."""
        first = pieces[0]
        start = first.start if first.lead is None else first.lead
        yield from self._checked(start, pieces[-1].end, first.path, first.header, pieces)

    def _checked(
        self, start: int, end: int, path: tuple[str, ...], header: str, pieces: Sequence[_Piece]
    ) -> Iterator[Chunk]:
        body = self.text[start:end]
        form = index_form(body)
        if not form.strip():  # invisible characters only
            form = body
        index_text = "\n".join(part for part in (self.prefix(path)[0], header, form) if part)
        if end - start == 1 and not self._fits(index_text):
            index_text = form  # one character may be eighteen in NFKC (U+FDFA): nothing but itself, then
        if self._fits(index_text):
            heading = next((piece.path for piece in pieces if piece.kind != "heading"), path)
            yield Chunk(start, end, index_text, " > ".join(heading), self.statements(start, end))
        elif len(pieces) > 1:
            middle = len(pieces) // 2
            yield from self._checked(start, pieces[middle - 1].end, path, header, pieces[:middle])
            yield from self.chunks(pieces[middle:])
        elif end - start > 1:
            # A tokenizer whose counts do not add up: halve at a space near the middle.
            middle = start + (end - start) // 2
            cut = next((i for i in range(middle, start, -1) if self.text[i].isspace()), middle)
            for part_start, part_end in (_trimmed(self.text, start, cut), _trimmed(self.text, cut, end)):
                if part_start < part_end:
                    yield from self._checked(part_start, part_end, path, header, pieces)
        else:
            raise ConfigError(f"max_tokens={self.max_tokens} is too little for the character {body!r}")

    def _fits(self, index_text: str) -> bool:
        if len(index_text) > _CHARACTERS_PER_TOKEN * self.max_tokens:
            return False
        return self.count(index_text) <= self.max_tokens


def _pack(cutter: _Cutter) -> Iterator[list[_Piece]]:
    """Pieces in groups that make a chunk each."""
    group: list[_Piece] = []
    used = 0
    page = cutter.document.pages[0]
    blocks = list(cutter.blocks())
    costs = [cutter.cost(cutter.text[block.start : block.end]) for block, _ in blocks]
    sections = _section_costs([block for block, _ in blocks], costs)
    for (block, path), cost, section in zip(blocks, costs, sections, strict=True):
        headings = sum(piece.cost for piece in group[_text_end(group) :])
        room = cutter.room(path) - headings
        if room < cutter.max_tokens // 2:  # too many headings in a row to keep with their text
            room = cutter.room(path)
        for piece in cutter.pieces(block, path, room, cost):
            here = page_of(cutter.document, piece.start)
            if group and (here.number != page.number or _begins_chunk(piece, section, group, used, cutter)):
                end = _text_end(group)
                if end:
                    yield group[:end]
                group = group[end:]
                used = sum(p.cost for p in group)
                if group and (here.number != page.number or used + piece.cost > cutter.room(group[0].path)):
                    yield group
                    group, used = [], 0
            page = here
            group.append(piece)
            used += piece.cost
    if group:
        yield group


def _section_costs(blocks: list[Block], costs: list[int]) -> list[int]:
    """For each heading what it costs with all that stands under it; 0 for other blocks."""
    sections = [0] * len(blocks)
    open_headings: list[int] = []
    for index, block in enumerate(blocks):
        if block.kind == "heading":
            while open_headings and blocks[open_headings[-1]].level >= block.level:
                open_headings.pop()
            open_headings.append(index)
        for heading in open_headings:
            sections[heading] += costs[index]
    return sections


def _begins_chunk(piece: _Piece, section: int, group: list[_Piece], used: int, cutter: _Cutter) -> bool:
    """Whether `piece` belongs into a new chunk: it does not fit, or its section had better stay together."""
    room = cutter.room(group[0].path) - (cutter.cost(group[0].header) if group[0].header else 0)
    if group[0].lead is not None:
        room -= cutter.overlap
    if used + piece.cost > room:
        return True
    if piece.kind != "heading" or _only_headings(group):
        return False
    return piece.level <= _TOP_LEVEL or used > cutter.max_tokens // 2 or used + section > room


def _only_headings(group: list[_Piece]) -> bool:
    return all(piece.kind == "heading" for piece in group)


def _text_end(group: list[_Piece]) -> int:
    """Where the headings at the group's end begin: they go with what follows; 0 where there is nothing else."""
    index = len(group)
    while index and group[index - 1].kind == "heading":
        index -= 1
    return index


def _merged(group: list[_Piece]) -> _Piece:
    first = group[0]
    cost = sum(unit.cost for unit in group)
    return _Piece(first.start, group[-1].end, cost, first.kind, first.path, first.level, first.header, first.lead)


def _lead(group: list[_Piece], overlap: int) -> int | None:
    """Where the last sentences of `group` begin that together cost at most `overlap`; its first never counts."""
    start, kept = None, 0
    for unit in reversed(group[1:]):
        kept += unit.cost
        if kept > overlap:
            break
        start = unit.start
    return start


def _heading_text(text: str) -> str:
    """A heading as one line, without the markup of Markdown and reStructuredText; of a long signature its name."""
    lines = [line.strip() for line in text.splitlines() if re.search(r"\w", line)]
    line = re.sub(r"^#{1,6}\s+|\s+#+$", "", " ".join(" ".join(lines).split()))
    if len(line) > _LONG_HEADING and (opening := line.find("(")) > 0:
        return line[:opening].rstrip()
    return line


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without white space at its ends; an empty one where there is nothing else."""
    part = text[start:end]
    start += len(part) - len(part.lstrip())
    return start, start + len(part.strip())


def _slices(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Pieces of a long line, so that the splitter's work stays linear; cut at spaces where there are any."""
    while end - start > _SLICE:
        cut = max(text.rfind(" ", start + 1, start + _SLICE), text.rfind("\n", start + 1, start + _SLICE))
        cut = cut if cut > start + _SLICE // 2 else start + _SLICE
        yield start, cut
        start = cut
    yield start, end
