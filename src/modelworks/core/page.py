"""A page of its own: one HTML file that loads nothing, in light and dark, with what all such pages are made of.

Texts from runs and models are escaped here, and a policy in the page lets nothing but the given script run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any

from modelworks.core.log import escaped
from modelworks.core.picture import COLOURS, FONT, style


def document(title: str, body: str, *, css: str = "", script: str = "", data: Any = None) -> str:
    """The page; `title` and `body` are HTML. A `script` finds `data` as JSON in the element `points`."""
    policy = scripts = ""
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy = f"; script-src 'sha256-{digest}'"
        # In a script element no "<" may begin a tag or a comment.
        values = plain(json.dumps(data, ensure_ascii=False, separators=(",", ":"))).replace("<", "\\u003c")
        scripts = f'<script id="points" type="application/json">{values}</script>\n<script>{script}</script>\n'
    template = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=title, style=_style(), font=FONT, policy=policy, css=css, body=body, scripts=scripts
    )


def _style() -> str:
    light, dark = ("".join(f"--{role}:{pair[at]};" for role, pair in COLOURS.items()) for at in (0, 1))
    ground = ("--ground:#f5f7fa;", "--ground:#0a0e14;")
    root = f":root{{{light}{ground[0]}}}@media (prefers-color-scheme:dark){{:root{{{dark}{ground[1]}}}}}"
    return root + style()


def plain(text: str) -> str:
    """Bytes that are no text, which a file in UTF-8 cannot hold, become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def text(value: object) -> str:
    """A value as one line of HTML."""
    return escape(escaped(str(value)))


def passage(text: str) -> str:
    """A text of several lines as HTML: control characters become escapes, and many empty lines their number."""
    html = escape("".join(one if one in "\n\t" else escaped(one) for one in text))
    return re.sub(r"\n{3,}", lambda ends: f'<span class="dim"> ↵ × {len(ends[0])}</span>\n', html)


def number(value: float | None, digits: int = 4) -> str:
    return "—" if value is None else f"{value:.{digits}f}"


def table(head: Sequence[str], rows: Sequence[str], kind: str = "") -> str:
    """Cells of `head` are HTML, and `rows` begin with `<tr>`; without a head there is none."""
    top = f"<thead><tr>{''.join(f'<th>{cell}' for cell in head)}</thead>" if head else ""
    return f'<div class="card scroll"><table class="{kind}">{top}<tbody>{"".join(rows)}</tbody></table></div>'


def tiles(facts: Sequence[tuple[str, str, str]]) -> str:
    """Numbers that stand out: name, value, and what there is to say beside it, all HTML."""
    cards = (f'<div class="card"><dt>{name}<dd>{value}<small>{also}</small></div>' for name, value, also in facts)
    return f'<dl class="tiles">{"".join(cards)}</dl>'
