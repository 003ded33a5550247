"""Markdown: the blocks of CommonMark, with offsets into the file."""

from __future__ import annotations

from collections.abc import Callable

from modelworks.data.document import Document
from modelworks.data.documents import read

SOURCE = """---
title: "The Guide"
tags: [a]
---
# First #

Some *text*
on two lines.

Second
======

- one

  more of one
- two
  ```
  # no heading
  ```

1. first
2. second

| a | b |
|---|:-:|
| 1 | 2 |
| 3 | 4 |

```python
# a comment

x = 1
```

    indented

> a quotation

***

### Deep
Text right after.
"""


def blocks(document: Document) -> list[tuple[str, int, str]]:
    return [(block.kind, block.level, document.text[block.start : block.end]) for block in document.blocks]


def test_blocks(checked: Callable[[Document], Document]) -> None:
    document = checked(read(SOURCE.encode(), ".md"))
    assert document.text == SOURCE
    assert document.title == "The Guide"
    assert blocks(document) == [
        ("code", 0, '---\ntitle: "The Guide"\ntags: [a]\n---'),
        ("heading", 1, "# First #"),
        ("paragraph", 0, "Some *text*\non two lines."),
        ("heading", 1, "Second\n======"),
        ("list", 0, "- one\n\n  more of one\n- two\n  ```\n  # no heading\n  ```\n\n1. first\n2. second"),
        ("table", 0, "| a | b |\n|---|:-:|\n| 1 | 2 |\n| 3 | 4 |"),
        ("code", 0, "```python\n# a comment\n\nx = 1\n```"),
        ("code", 0, "    indented"),
        ("paragraph", 0, "> a quotation"),
        ("paragraph", 0, "***"),
        ("heading", 3, "### Deep"),
        ("paragraph", 0, "Text right after."),
    ]
    table = next(block for block in document.blocks if block.kind == "table")
    assert SOURCE[table.start : table.header_end] == "| a | b |\n|---|:-:|"


def test_the_title_is_the_first_top_heading() -> None:
    assert read(b"Intro\n\n# The Title\n\n# Other", ".md").title == "The Title"
    assert read(b"The Title\n===\ntext", ".md").title == "The Title"


def test_windows_line_ends_count_as_they_stand(checked: Callable[[Document], Document]) -> None:
    document = checked(read(b"# A\r\n\r\ntext\r\nmore\r\n", ".md"))
    assert blocks(document) == [("heading", 1, "# A"), ("paragraph", 0, "text\r\nmore")]


def test_an_unclosed_fence_ends_with_the_file() -> None:
    assert blocks(read(b"```\ncode\n# not a heading", ".md")) == [("code", 0, "```\ncode\n# not a heading")]
