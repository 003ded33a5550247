"""Pages that load nothing, and in which nothing from a text acts."""

from __future__ import annotations

import base64
import hashlib
import json
import re

from modelworks.core.page import document, number, passage, table, text, tiles

HOSTILE = "</script><script>alert(1)</script>\x1b[31m\ud800"


def test_without_a_script_none_may_run():
    html = document(text(HOSTILE), table(["a"], [f"<tr><td>{text(HOSTILE)}"]), css=".mine{color:red}")
    html.encode()
    assert "script-src" not in html
    assert "default-src 'none'" in html
    assert "<script" not in html
    assert ".mine{color:red}</style>" in html
    assert "prefers-color-scheme:dark" in html


def test_the_script_alone_may_run_and_finds_its_data():
    script = "console.log(1)"
    html = document("t", "", script=script, data={"said": HOSTILE})
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html
    assert html.count("<script") == 2
    held = re.search(r'type="application/json">(.*?)</script>', html)[1]
    assert json.loads(held) == {"said": HOSTILE.replace("\ud800", "?")}


def test_parts():
    assert passage("a<b\n\n\n\nc\x1b") == 'a&lt;b<span class="dim"> ↵ × 4</span>\nc\\x1b'
    assert number(None) == "—"
    assert number(1.23456, 2) == "1.23"
    assert "<thead>" not in table((), [])
    assert "<dt>Loss<dd>2<small>last</small>" in tiles([("Loss", "2", "last")])
