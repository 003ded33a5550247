"""reStructuredText: titles by their underlines, literal blocks, tables."""

from __future__ import annotations

from collections.abc import Callable

from modelworks.data.document import Document
from modelworks.data.documents import read

SOURCE = """\
=====
Title
=====

A paragraph::

    literal
      block

After it.

Section
-------

- one
- two

=====  =====
a      b
=====  =====
1      2
=====  =====

+---+---+
| c | d |
+===+===+
| 3 | 4 |
+---+---+

.. code-block:: python

   x = 1

   y = 2

>>> 1 + 1
2

Sub
~~~

Other
-----

End.
"""


def test_blocks(checked: Callable[[Document], Document]) -> None:
    document = checked(read(SOURCE.encode(), ".rst"))
    text = document.text
    assert text == SOURCE
    assert document.title == "Title"
    found = [(block.kind, block.level, text[block.start : block.end]) for block in document.blocks]
    assert found == [
        ("heading", 1, "=====\nTitle\n====="),
        ("paragraph", 0, "A paragraph::"),
        ("code", 0, "    literal\n      block"),
        ("paragraph", 0, "After it."),
        ("heading", 2, "Section\n-------"),
        ("list", 0, "- one\n- two"),
        ("table", 0, "=====  =====\na      b\n=====  =====\n1      2\n=====  ====="),
        ("table", 0, "+---+---+\n| c | d |\n+===+===+\n| 3 | 4 |\n+---+---+"),
        ("code", 0, ".. code-block:: python\n\n   x = 1\n\n   y = 2"),
        ("code", 0, ">>> 1 + 1\n2"),
        ("heading", 3, "Sub\n~~~"),
        ("heading", 2, "Other\n-----"),
        ("paragraph", 0, "End."),
    ]
    headers = [text[b.start : b.header_end] for b in document.blocks if b.header_end]
    assert headers == ["=====  =====\na      b\n=====  =====", "+---+---+\n| c | d |\n+===+===+"]


def test_a_proposals_title_is_in_its_header() -> None:
    document = read(b"PEP: 8\nTitle: Style Guide\nAuthor: A\n\nAbstract\n========\n\nText.", ".rst")
    assert document.title == "Style Guide"
