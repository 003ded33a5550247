"""Chunks: offsets, budgets and structure; the public faults 1, 2, 3, 9, 10 and 12 are designed out here."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelworks.core.errors import ConfigError
from modelworks.data.document import Block, Document, Page
from modelworks.data.documents import read
from modelworks.retrieval.chunk import MIN_TOKENS, STRATEGIES, Chunk, chunk, overlapping, page_of


def words(text: str) -> int:
    """A model that sees words, between two special tokens."""
    return len(text.split()) + 2


def letters(text: str) -> int:
    """A model whose tokens are bytes: white space counts, and counts do not add up to words."""
    return len(text.encode("utf-8", "surrogatepass")) + 2


WILD = st.text(
    alphabet=st.one_of(st.sampled_from(" .\n\taAbß。ﬁ\u0301\u200b\ufdfa👩\u200d🔬"), st.characters(codec="utf-8")),
    min_size=0,
    max_size=400,
)


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """Pages of blocks of any kind over wild text, with text outside of every block as well."""
    text, pages, blocks = "", [], []
    for number in range(1, draw(st.integers(1, 3)) + 1):
        start = len(text)
        for _ in range(draw(st.integers(0, 4))):
            body = draw(WILD)
            kind = draw(st.sampled_from(["heading", "paragraph", "list", "table", "code", None]))
            begin = len(text)
            text += body
            if kind and body:
                header = begin + draw(st.integers(1, len(body))) if kind == "table" and draw(st.booleans()) else None
                level = draw(st.integers(1, 6)) if kind == "heading" else 0
                blocks.append(Block(kind, begin, len(text), level, header))  # type: ignore[arg-type]
            text += draw(st.sampled_from(["\n\n", "\n", ""]))
        pages.append(Page(number, start, len(text)))
    return Document(text, tuple(pages), tuple(blocks), "text/plain")


@settings(max_examples=150)
@given(
    document=documents(),
    strategy=st.sampled_from(sorted(STRATEGIES)),
    count=st.sampled_from([words, letters]),
    max_tokens=st.sampled_from([40, 64, 256]),
    overlap=st.sampled_from([0, 10]),
)
def test_chunks_cover_the_document_within_their_budget(
    document: Document, strategy: str, count: object, max_tokens: int, overlap: int
) -> None:
    chunks = STRATEGIES[strategy](document, count_tokens=count, max_tokens=max_tokens, overlap=overlap)
    headings = {i for block in document.blocks if block.kind == "heading" for i in range(block.start, block.end)}
    covered = 0
    last = Chunk(-1, 0, "")
    for piece in chunks:
        assert 0 <= piece.start < piece.end <= len(document.text)
        assert piece.start > last.start
        assert piece.end > last.end
        assert not document.text[covered : piece.start].strip()
        assert count(piece.index_text) <= max_tokens  # type: ignore[operator]
        assert piece.index_text
        at = piece.start
        for start, end in piece.statements:
            assert at <= start < end <= piece.end
            assert not headings & set(range(start, end))
            assert all(i in headings or document.text[i].isspace() for i in range(at, start))
            at = end
        assert all(i in headings or document.text[i].isspace() for i in range(at, piece.end))
        covered, last = piece.end, piece
    assert not document.text[covered:].strip()


@settings(max_examples=50)
@given(document=documents(), data=st.data())
def test_the_page_of_an_offset_is_the_page_that_holds_it(document: Document, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, max(len(document.text) - 1, 0)))
    page = page_of(document, offset)
    assert page in document.pages
    if document.text:
        assert page.start <= offset < page.end


def plain(text: str) -> Document:
    return Document(text, (Page(1, 0, len(text)),), (Block("paragraph", 0, len(text)),), "text/plain")


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_repeated_text_has_its_own_offsets(strategy: str) -> None:
    """Fault 1 (langchain#21475): the start of a chunk was the first place where its text stands."""
    text = " ".join(["chunk chunk. "] * 200)
    chunks = STRATEGIES[strategy](plain(text), count_tokens=words, max_tokens=40, overlap=0)
    assert len(chunks) > 10
    assert len({piece.start for piece in chunks}) == len(chunks)
    for before, after in pairwise(chunks):
        assert before.end <= after.start
        assert not text[before.end : after.start].strip()


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_offsets_never_go_back_or_negative(strategy: str) -> None:
    """Fault 2 (langchain#29884): a token splitter reported -1 where decoding had changed the text."""
    text = "".join(f"Наука{i} 👩‍🔬é\ufb01 東京。" for i in range(300))
    chunks = STRATEGIES[strategy](plain(text), count_tokens=letters, max_tokens=64, overlap=10)
    starts = [piece.start for piece in chunks]
    assert starts[0] == 0
    assert starts == sorted(set(starts))


def test_a_ligature_is_found_by_its_letters_and_quoted_as_it_stands() -> None:
    """Fault 3 (pypdf#598)."""
    document = plain("The Of\ufb01ce of Research.")
    [piece] = chunk(document, count_tokens=words)
    assert "Office" in piece.index_text
    assert document.text[piece.start : piece.end] == "The Of\ufb01ce of Research."


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_nothing_is_lost_behind_the_models_window(strategy: str) -> None:
    """Fault 9 (llama_index#10119): what stood beyond the model's 512 tokens was cut off in silence."""
    text = " ".join(f"word{i}" for i in range(900)) + " the launch code is 7421 " + " ".join(["end"] * 600)
    chunks = STRATEGIES[strategy](plain(text), count_tokens=words, max_tokens=256, overlap=20)
    [piece] = [piece for piece in chunks if "7421" in piece.index_text]
    assert words(piece.index_text) <= 256


def test_every_part_of_a_table_repeats_its_header() -> None:
    """Fault 10 (text-splitter#422)."""
    rows = "\n".join(f"city{i},{i * 1000},country{i}" for i in range(30))
    document = read(f"name,population,country\n{rows}\n".encode(), ".csv")
    chunks = chunk(document, count_tokens=letters, max_tokens=200)
    assert len(chunks) > 3
    for piece in chunks:
        assert piece.index_text.startswith("name,population,country\n")
        assert piece.index_text.count("name,population,country") == 1
        assert piece.index_text.endswith(document.text[piece.start : piece.end].split("\n")[-1])
        assert document.text[piece.end : piece.end + 1] in ("\n", "")  # whole rows


def test_chinese_is_cut_between_sentences_and_none_is_lost() -> None:
    """Fault 12 (llama_index#821): text without spaces was one word."""
    text = "北京是中国的首都。" * 100
    chunks = chunk(plain(text), count_tokens=letters, max_tokens=200, overlap=0)
    assert "".join(text[piece.start : piece.end] for piece in chunks) == text
    assert all(text[piece.end - 1] == "。" for piece in chunks)


MARKDOWN = b"""# Guide

Intro text.

## Install

Run the installer. It asks one question.

### Windows

Use the exe.

## Use

Call it.
"""


def test_sections_are_chunks_with_their_heading_path() -> None:
    document = read(MARKDOWN, ".md")
    chunks = chunk(document, count_tokens=words, max_tokens=100)
    texts = [document.text[piece.start : piece.end] for piece in chunks]
    assert texts[0] == "# Guide\n\nIntro text."
    assert texts[1].startswith("## Install")
    assert texts[1].endswith("Use the exe.")  # a deeper heading shares the chunk while there is room
    assert texts[2] == "## Use\n\nCall it."
    assert [piece.heading for piece in chunks] == ["Guide", "Guide > Install", "Guide > Use"]
    assert chunks[2].index_text == "Guide\n## Use\n\nCall it."
    assert [document.text[start:end] for start, end in chunks[2].statements] == ["Call it."]


def test_a_heading_stays_with_its_text() -> None:
    body = " ".join(["word"] * 60)
    document = read(f"# T\n\n{body}\n\n### Deep\n\n{body}\n\n### Last\n\n{body}".encode(), ".md")
    for piece in chunk(document, count_tokens=words, max_tokens=100):
        assert "word" in document.text[piece.start : piece.end]
        assert document.text[piece.start : piece.end].rstrip().endswith("word")


def test_a_chunk_stays_on_its_page() -> None:
    text = "First page.\n\nSecond page."
    pages = (Page(1, 0, 11, "i"), Page(2, 13, 25, "ii"))
    document = Document(text, pages, (Block("paragraph", 0, 11), Block("paragraph", 13, 25)), "application/pdf")
    chunks = chunk(document, count_tokens=words)
    assert [page_of(document, piece.start).label for piece in chunks] == ["i", "ii"]
    assert page_of(document, 12) == pages[0]
    assert len(overlapping(document, count_tokens=words)) == 1


def test_a_cut_paragraph_repeats_whole_sentences() -> None:
    text = " ".join(f"This is sentence number {i}." for i in range(60))
    chunks = chunk(plain(text), count_tokens=words, max_tokens=60, overlap=12)
    for before, after in pairwise(chunks):
        shared = text[after.start : before.end]
        assert shared.startswith("This is")
        assert 5 <= len(shared.split()) <= 12


def test_windows_overlap_by_their_budget() -> None:
    text = " ".join(f"This is sentence number {i}." for i in range(60))
    chunks = overlapping(plain(text), count_tokens=words, max_tokens=60, overlap=15)
    assert len(chunks) > 4
    for before, after in pairwise(chunks):
        assert len(text[after.start : before.end].split()) == 15


def test_code_is_kept_whole_where_it_fits() -> None:
    source = "\n\n\n".join(f"def f{i}():\n    a = {i}\n\n    return a" for i in range(20))
    document = read(source.encode(), ".py")
    for piece in chunk(document, count_tokens=words, max_tokens=32, overlap=0):
        text = document.text[piece.start : piece.end]
        assert text.startswith("def ")
        assert text.endswith("return a")


def test_a_huge_line_without_spaces_is_cut_in_linear_time() -> None:
    text = "ab1" * 100_000
    chunks = chunk(plain(text), count_tokens=words, max_tokens=256)
    assert "".join(text[piece.start : piece.end] for piece in chunks) == text
    assert max(len(piece.index_text) for piece in chunks) <= 16 * 256


def test_a_long_heading_path_leaves_room_for_the_text() -> None:
    long = " ".join(["heading"] * 200)
    document = read(f"# {long}\n\n## {long}\n\n### Short\n\n{'word ' * 300}".encode(), ".md")
    chunks = chunk(document, count_tokens=words, max_tokens=64, overlap=10)
    assert all(words(piece.index_text) <= 64 for piece in chunks)
    assert any(piece.index_text.startswith("Short\nword") for piece in chunks)


@pytest.mark.parametrize(("max_tokens", "overlap"), [(MIN_TOKENS - 1, 0), (64, 32), (64, -1)])
def test_an_impossible_budget_is_refused(max_tokens: int, overlap: int) -> None:
    with pytest.raises(ConfigError, match="max_tokens"):
        chunk(plain("x"), count_tokens=words, max_tokens=max_tokens, overlap=overlap)


def test_a_document_without_text_has_no_chunks() -> None:
    assert chunk(Document(" \n", (Page(1, 0, 2),), (), "text/plain"), count_tokens=words) == []
    assert overlapping(Document("", (Page(1, 0, 0),), (), "text/plain"), count_tokens=words) == []
