"""What the steps of a preparation keep and drop, counted, with examples; tallies of parts add up."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

STEPS = ("read", "clean", "filter", "decontaminate", "exact duplicates", "near duplicates")
EXAMPLES = 3
_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Drop:
    """A text that a step dropped."""

    source: str
    step: str
    reason: str
    """One of few, to count by: a rule's name."""
    detail: str = ""


@dataclass(slots=True)
class Step:
    """What went into a step and what came out."""

    texts_in: int = 0
    texts_out: int = 0
    characters_in: int = 0
    characters_out: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    """Texts by the reason for which they were dropped."""
    changed: dict[str, int] = field(default_factory=dict)
    """Texts by the cleaner that changed them."""
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    """For each reason, the first few texts: source, detail, and how the text begins."""

    def add(self, other: Step) -> None:
        self.texts_in += other.texts_in
        self.texts_out += other.texts_out
        self.characters_in += other.characters_in
        self.characters_out += other.characters_out
        for mine, more in ((self.dropped, other.dropped), (self.changed, other.changed)):
            for reason, count in more.items():
                mine[reason] = mine.get(reason, 0) + count
        for reason, examples in other.examples.items():
            kept = self.examples.setdefault(reason, [])
            kept += examples[: EXAMPLES - len(kept)]


@dataclass(slots=True)
class Tally:
    """The counts of all steps."""

    steps: dict[str, Step] = field(default_factory=lambda: {name: Step() for name in STEPS})

    def keep(self, step: str, before: int, after: int | None = None, *, texts: int = 1) -> None:
        """Count texts that a step let pass, with their characters before and after; after as before if not given."""
        counts = self.steps[step]
        counts.texts_in += texts
        counts.texts_out += texts
        counts.characters_in += before
        counts.characters_out += before if after is None else after

    def drop(self, drop: Drop, characters: int, text: str = "") -> None:
        """Count a text that a step dropped."""
        counts = self.steps[drop.step]
        counts.texts_in += 1
        counts.characters_in += characters
        counts.dropped[drop.reason] = counts.dropped.get(drop.reason, 0) + 1
        examples = counts.examples.setdefault(drop.reason, [])
        if len(examples) < EXAMPLES:
            examples.append({"source": drop.source, "detail": drop.detail, "text": text[:_SHOWN]})

    def change(self, step: str, what: str) -> None:
        """Count a text that a step let pass, and changed."""
        changed = self.steps[step].changed
        changed[what] = changed.get(what, 0) + 1

    def add(self, other: Tally) -> None:
        """Count what another tally counted, after what this one did."""
        for name, step in other.steps.items():
            self.steps[name].add(step)

    def to_json(self) -> dict[str, Any]:
        return {name: asdict(step) for name, step in self.steps.items()}

    @staticmethod
    def from_json(steps: Mapping[str, Any]) -> Tally:
        return Tally({name: Step(**step) for name, step in steps.items()})


def page(report: Mapping[str, Any]) -> str:
    """A report as one HTML page that needs nothing else."""
    head = "<tr><th>step<th>texts in<th>texts out<th>characters in<th>characters out<th>why</tr>"
    rows, examples = [], []
    for name, step in report["steps"].items():
        counts = [step[key] for key in ("texts_in", "texts_out", "characters_in", "characters_out")]
        reasons = sorted((*step["dropped"].items(), *step["changed"].items()), key=lambda pair: -pair[1])
        why = "<br>".join(f"{html.escape(reason)}: {count:,}" for reason, count in reasons)
        rows.append(f"<tr><td>{name}{''.join(f'<td class=n>{count:,}' for count in counts)}<td>{why}</tr>")
        for reason, found in step["examples"].items():
            examples.append(f"<h3>{name}: {html.escape(reason)}</h3>")
            examples += [
                f"<p><b>{html.escape(one['source'])}</b> {html.escape(one['detail'])}</p>"
                f"<pre>{html.escape(one['text'])}</pre>"
                for one in found
            ]
    files = "".join(
        f"<tr><td>{html.escape(file['name'])}<td class=n>{file['texts']:,}<td class=n>{file['characters']:,}"
        f"<td class=n>{file['bytes']:,}</tr>"
        for file in report["files"]
    )
    recipe = "".join(
        f"<tr><td>{html.escape(name)}<td>{html.escape(str(value))}</tr>" for name, value in report["recipe"].items()
    )
    return f"""<!doctype html><html lang=en><meta charset=utf-8><title>Corpus report</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse; margin: 1rem 0 }} td, th {{ padding: .2rem .8rem; border-bottom: 1px solid #ddd;
text-align: left; vertical-align: top }} .n {{ text-align: right; font-variant-numeric: tabular-nums }}
pre {{ background: #f5f5f5; padding: .6rem; white-space: pre-wrap; overflow-wrap: anywhere }}
</style><h1>Corpus: {report["texts"]:,} texts, {report["characters"]:,} characters</h1>
<h2>Steps</h2><table>{head}{"".join(rows)}</table>
<h2>Files</h2><table><tr><th>file<th>texts<th>characters<th>bytes</tr>{files}</table>
<h2>Recipe</h2><table>{recipe}</table><h2>Examples of what was dropped</h2>{"".join(examples)}</html>
"""
