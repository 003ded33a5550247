"""Source code: its top-level pieces are the blocks."""

from __future__ import annotations

from collections.abc import Callable

from modelworks.data.document import Document
from modelworks.data.documents import read

Check = Callable[[Document], Document]


def test_code_blocks_begin_at_unindented_lines(checked: Check) -> None:
    source = "import os\n\n\n@cache\ndef f():\n    a = 1\n\n    return a\n\n\nclass C:\n    x = 1\n"
    document = checked(read(source.encode(), ".py"))
    assert document.text == source
    assert [source[block.start : block.end] for block in document.blocks] == [
        "import os",
        "@cache\ndef f():\n    a = 1\n\n    return a",
        "class C:\n    x = 1",
    ]
    braces = read(b"int f() {\n  int a;\n\n}\n\nint g() { }\n", ".c")
    assert len(braces.blocks) == 2
