"""Questions: the SQuAD2 subset, split by article so that nothing reported is trained or tuned on, and others."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HELD_OUT = ("Warsaw", "Immune_system", "Steam_engine", "Normans", "Scottish_Parliament")
"""Only `benchmarks/grounding.py` sees questions about these."""
THRESHOLD = ("Yuan_dynasty", "Force")
"""Only `calibrate.py` and the progress figures of `train.py` see questions about these."""


@dataclass(frozen=True)
class Example:
    question: str
    passage: str
    start: int | None
    """First character of the answer in the passage; None where the passage does not answer."""
    end: int | None
    source: str
    answers: tuple[str, ...] = ()
    """Every wording that the annotators gave."""


def squad(data: Path, titles: tuple[str, ...] | None, without: tuple[str, ...] = ()) -> list[Example]:
    """The questions about `titles` (all where None), in the file's order."""
    found = []
    for article in _articles(data):
        if article["title"] in without or (titles is not None and article["title"] not in titles):
            continue
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                start = end = None
                answers = tuple(sorted({answer["text"] for answer in qa["answers"]}))
                if not qa["is_impossible"]:
                    given = Counter((answer["answer_start"], answer["text"]) for answer in qa["answers"])
                    start, text = given.most_common(1)[0][0]
                    end = start + len(text)
                question = qa["question"].strip()
                found.append(Example(question, paragraph["context"], start, end, article["title"], answers))
    return found


def natural_questions(data: Path) -> list[Example]:
    """Real questions, each with a passage that answers it."""
    found = []
    with gzip.open(data / "qa/nq_oracle_passages.jsonl.gz", "rt") as rows:
        for row in map(json.loads, rows):
            text = row["ctxs"][0]["text"]
            places = [(text.find(a), a) for a in sorted(row["answers"], key=len) if a in text]
            if places:
                at, answer = places[0]
                found.append(Example(row["question"], text, at, at + len(answer), "nq"))
    return found


def write_articles(data: Path, folder: Path) -> None:
    """Each article as a Markdown file of its paragraphs: the documents that questions are asked of."""
    folder.mkdir(parents=True, exist_ok=True)
    for article in _articles(data):
        title = article["title"].replace("_", " ")
        paragraphs = [paragraph["context"] for paragraph in article["paragraphs"]]
        (folder / f"{article['title']}.md").write_text("\n\n".join([f"# {title}", *paragraphs]) + "\n", "utf-8")


def _articles(data: Path) -> list[dict[str, Any]]:
    return json.loads((data / "retrieval/squad2_dev_subset.json").read_text("utf-8"))["data"]
