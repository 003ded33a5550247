"""HTML: main content, structure and inline rendering as a browser shows them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modelworks.core.errors import DocumentError
from modelworks.data.document import Document
from modelworks.data.documents import load, read


def blocks(html: str) -> list[tuple[str, str]]:
    document = read(html.encode(), ".html")
    return [(block.kind, document.text[block.start : block.end]) for block in document.blocks]


def test_only_the_main_content_is_read() -> None:
    html = """<html><head><title>T - Site</title><style>x{}</style></head><body>
    <nav>Menu</nav><div class="sidebar">Side</div><main><h1>Head</h1><p>Text<script>bad()</script> here.</p>
    <p hidden>hidden</p><p style="display: none">also</p></main><footer>Foot</footer></body></html>"""
    document = read(html.encode(), ".html")
    assert document.text == "Head\n\nText here."
    assert document.title == "Head"
    assert read(html.replace("main>", "div>").encode(), ".html").text == "Head\n\nText here."
    assert read(html.replace("main>", "article>").encode(), ".html").text == "Head\n\nText here."


def test_a_frame_named_sidebar_layout_is_not_dropped() -> None:
    html = f'<body><div class="sidebar layout"><p>{"content " * 50}</p></div><p>x</p></body>'
    assert "content" in read(html.encode(), ".html").text
    form = f"<body><form><p>{'content ' * 50}</p></form><header>Site</header></body>"
    assert read(form.encode(), ".html").text == ("content " * 50).strip()


def test_inline_markup_white_space_and_breaks() -> None:
    assert blocks("<p>a <b>bold</b>\n word,<br>next&nbsp;line &amp; 10<sup>6</sup>, note<sup><a>1</a></sup></p>") == [
        ("paragraph", "a bold word,\nnext\xa0line & 10⁶, note1")
    ]


def test_lists_nest_and_count() -> None:
    html = "<p>Intro</p><ul><li>a<ul><li>b</li></ul></li><li><p>c</p><p>d</p></li></ul><ol start=3><li>x<li>y</ol>"
    assert blocks(html) == [
        ("paragraph", "Intro"),
        ("list", "- a\n  - b\n- c\n  d"),
        ("list", "3. x\n4. y"),
    ]


def test_code_keeps_its_lines_inside_a_list_too() -> None:
    assert blocks("<ul><li>Run<pre>  $ a\n  $ b\n</pre>then</ul>") == [
        ("list", "- Run"),
        ("code", "  $ a\n  $ b"),
        ("list", "then"),
    ]


def test_tables_have_headers_and_repeat_spanning_cells() -> None:
    html = """<table><caption>Cap</caption><tr><th>Country<th>City<th>Pop</tr>
    <tr><td rowspan=2>DE<td>Köln<td>1</tr><tr><td>Bonn<td>2</tr><tr><td colspan=2>all<td>3</tr></table>"""
    document = read(html.encode(), ".html")
    assert document.text == "Cap\n\nCountry | City | Pop\nDE | Köln | 1\nDE | Bonn | 2\nall |  | 3"
    table = document.blocks[1]
    assert document.text[table.start : table.header_end] == "Country | City | Pop"


def test_a_layout_table_is_walked_through() -> None:
    assert blocks("<table><tr><td><p>left</p><pre>code</pre></td><td>right</td></tr></table>") == [
        ("paragraph", "left"),
        ("code", "code"),
        ("paragraph", "right"),
    ]


def test_terms_stay_with_their_definitions() -> None:
    assert blocks("<dl><dt>term<dd>meaning<dt>other<dd><p>one</p><p>two</p></dl>") == [
        ("paragraph", "term\nmeaning"),
        ("paragraph", "other\none"),
        ("paragraph", "two"),
    ]


def test_sphinx_signatures_head_their_descriptions_without_pilcrows() -> None:
    html = """<div role="main"><h1>json<a class="headerlink" href="#x">¶</a></h1><h2>Use</h2>
    <dl class="py function"><dt class="sig sig-object py" id="f">json.<b>f</b>(x)<a class="headerlink">¶</a></dt>
    <dd><p>Does it.</p><div class="admonition note"><p class="admonition-title">Note</p><p>Careful.</p></div></dd></dl>
    <p>After.</p></div>"""
    document = read(html.encode(), ".html")
    found = [(block.kind, block.level, document.text[block.start : block.end]) for block in document.blocks]
    assert found == [
        ("heading", 1, "json"),
        ("heading", 2, "Use"),
        ("heading", 3, "json.f(x)"),
        ("paragraph", 0, "Does it."),
        ("paragraph", 0, "Note\nCareful."),
        ("paragraph", 0, "After."),
    ]


def test_the_declared_charset_is_used() -> None:
    page = '<html><head><meta charset="iso-8859-2"></head><body><p>Łódź</p></body></html>'
    document = read(page.encode("iso-8859-2"), ".html")
    assert document.text == "Łódź"
    assert document.notes == ("read as iso8859-2",)
    declared = '<?xml version="1.0" encoding="utf-8"?><html xmlns="http://www.w3.org/1999/xhtml"><body>é</body></html>'
    assert read(declared.encode(), ".xhtml").text == "é"


def test_hostile_pages_are_read_or_refused(checked: Callable[[Document], Document]) -> None:
    checked(read(b"<div>" * 500 + b"deep", ".html"))
    with pytest.raises(DocumentError, match="nested too deeply"):
        read(b"<div>" * 50_000 + b"deep", ".html")
    checked(read(b"<table><tr><td rowspan=999999999 colspan=999999999>x<td>y</table>", ".html"))
    checked(read(b"<p>nul \x00 \x0b &#0; &#xd800; &#x1f600;</p>".replace(b"\x00", b""), ".html"))
    with pytest.raises(DocumentError, match="no text: the page itself shows none"):
        read(b"<html><body><img src=x></body></html>", ".html")


PYTHON_DOCS = Path("/usr/share/doc/python3.11/html")


def test_debians_python_documentation(checked: Callable[[Document], Document]) -> None:
    if not PYTHON_DOCS.is_dir():
        pytest.skip("python3.11-doc is not installed")
    document = checked(load(PYTHON_DOCS / "library" / "json.html"))
    assert document.title == "json — JSON encoder and decoder"
    assert document.text.startswith("json — JSON encoder and decoder\n\nSource code: Lib/json/__init__.py\n\nJSON (")
    assert "¶" not in document.text
    assert "Previous topic" not in document.text
    assert "\n\njson.loads(s, *, cls=None," in document.text
    assert "\n\nDeserialize s (a str, bytes or bytearray instance" in document.text
    assert "JSON | Python\nobject | dict\narray | list" in document.text
