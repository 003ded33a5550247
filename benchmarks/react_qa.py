"""Questions that need two searches: an agent that searches step by step against one retrieval at equal tokens.

The questions are made by code from the headers of Python's enhancement proposals, since the multi-hop questions of
`../shared/data/agents` come without passages. One header names another proposal by its number, whose header has the
answer: "In which year was the PEP created that supersedes 'Metadata for Python Software Packages'?". The collection is
the first 1,500 characters of each of the 733 proposals, searched by words (BM25), which suits names and titles. All are
answered by SmolLM2-135M:

- `react`: the agent's loop with the tool `search_documents`: two searches at least, then a search or the answer at each
  step (`Finishing`).
- `react, free`: the same without that, so that it may answer at once.
- `react, small`: one search in small-model mode, where code and scores fill in the call, and then plain words.
- `one-shot`: the best passages for the question, as many as the tokens of `react` pay for, and one answer.
- `closed book`: one answer without any passage.
- `program`: code in the model's place follows the header's number and reads the answer: what the search allows.

An answer of at most 32 tokens (64 from an agent, whose calls need them) is right where it has the fact as a word.

    python benchmarks/react_qa.py [--limit 143] [--threads 1]

Each question is kept when it is answered; a question takes some seconds on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import torch

from modelworks.agents.halt import Halt
from modelworks.agents.limits import Limits
from modelworks.agents.local import LocalModel
from modelworks.agents.loop import Agent
from modelworks.agents.model import ChatModel, Choice, Message, Reply, Wrapper
from modelworks.agents.planning.budget import Budget, Budgeted
from modelworks.agents.planning.finish import Finishing
from modelworks.agents.small.model import SmallModel
from modelworks.agents.steps import Answer, Call
from modelworks.agents.tool import Tool
from modelworks.agents.tools.search import DocumentSearch
from modelworks.core.log import console
from modelworks.core.paths import cache_dir
from modelworks.engine.engine import Engine
from modelworks.evals.intervals import bootstrap, wilson
from modelworks.retrieval.collection import Collection, Hit
from modelworks.retrieval.reader import parameter_reader
from support.items import Row, each

ARCHIVE = Path(__file__).parents[2] / "shared" / "data" / "text" / "peps.tar.gz"
KEPT_CHARACTERS = 1500
SHOWN, LONGEST = 4, 500
"""Passages that a search shows, and characters of each."""
ANSWER_TOKENS, MOST_PASSAGES = 32, 100
INSTRUCTIONS: Final = (
    "Answer the question in a few words. Search the documents first. Where a passage names another PEP by its number, "
    "search for that PEP, too."
)
ONE_SHOT: Final = "Answer the question in a few words from these passages."
LINKS: Final = {"Superseded-By": "supersedes", "Requires": "is required by", "Replaces": "was replaced by"}
ASKED: Final = {
    "Created": "In which year was the PEP created that {link} '{title}'?",
    "Python-Version": "For which Python version is the PEP meant that {link} '{title}'?",
    "Author": "Who is the first author of the PEP that {link} '{title}'?",
}


Search = Callable[[str, int], Sequence[Hit]]


@dataclass(frozen=True)
class Question:
    text: str
    answer: str
    first: int
    link: str
    """The header's field that names the second proposal."""
    field: str
    """Of the second proposal, which has the answer."""


def proposals() -> dict[int, str]:
    """The beginning of each proposal by its number."""
    found = {}
    with tarfile.open(ARCHIVE) as files:
        for member in files:
            file = files.extractfile(member) if member.name.endswith(".rst") else None
            text = "" if file is None else file.read().decode("utf-8", "replace")
            if match := re.match(r"PEP: (\d+)\n", text):
                found[int(match[1])] = text[:KEPT_CHARACTERS]
    return found


def header(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    name = ""
    for line in text.split("\n\n")[0].splitlines():
        if match := re.match(r"([A-Za-z-]+): *(.*)", line):
            name = match[1]
            found[name] = match[2].strip()
        elif name:
            found[name] += " " + line.strip()
    return found


def fact(fields: dict[str, str], name: str) -> str | None:
    """The answer that a header's field gives: one year, one version, one surname."""
    value = fields.get(name, "")
    if name == "Created":
        match = re.search(r"\d{4}", value)
        return match[0] if match else None
    if name == "Python-Version":
        return value if re.fullmatch(r"\d\.\d+", value) else None
    words = re.sub(r"<.*?>", "", value.split(",")[0]).split()
    return words[-1] if len(words) > 1 else None


def questions(texts: dict[int, str]) -> Iterator[Question]:
    """All that the headers give; not those whose answer stands in the first header, too, in the same field."""
    headers = {number: header(text) for number, text in sorted(texts.items())}
    for number, fields in headers.items():
        for link, words in LINKS.items():
            linked = re.findall(r"\d+", fields.get(link, ""))
            if len(linked) != 1 or int(linked[0]) not in headers:
                continue  # "the PEP that" would be more than one
            second = headers[int(linked[0])]
            for field, form in ASKED.items():
                answer = fact(second, field)
                if answer is not None and answer != fact(fields, field):
                    yield Question(form.format(link=words, title=fields["Title"]), answer, number, link, field)


def is_right(answer: str, question: Question) -> bool:
    return re.search(rf"(?<![\w.]){re.escape(question.answer)}(?!\w|\.\d)", answer, re.IGNORECASE) is not None


# --- the arms ---------------------------------------------------------------------------------------------------------


def react(model: ChatModel, search: Search, question: Question) -> Row:
    budget = Budget()
    documents = DocumentSearch(search, limit=SHOWN, longest=LONGEST)
    agent = Agent(
        Budgeted(model, budget),
        [asking(documents.tool())],
        instructions=INSTRUCTIONS,
        limits=Limits(steps=4, reply_tokens=2 * ANSWER_TOKENS),
    )
    run = agent.run(question.text)
    calls = sum(isinstance(step, Call) for step in run)
    if isinstance(run.end, Answer):
        answer = run.end.text
    else:  # it went on until its limits, and is asked for what it knows by then
        messages = [*run.messages(), {"role": "user", "content": f"Answer in a few words now. {question.text}"}]
        answer = Budgeted(model, budget).reply(messages, max_tokens=ANSWER_TOKENS).text
    shown = " ".join(excerpt.text for excerpt in documents.passages.values())
    return row(answer, question, budget) | {"searches": calls, "seen": is_right(shown, question)}


def asking(tool: Tool) -> Tool:
    """The tool with a query of some length: one that may be empty is left empty by a model this small."""
    query = {**tool.parameters["properties"]["query"], "minLength": 10}
    return replace(tool, parameters={**tool.parameters, "properties": {"query": query}})


class SearchFirst(Wrapper):
    """A model that must call a tool once, and then answers in plain words."""

    def reply(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        *,
        choice: Choice = "auto",
        max_tokens: int = 512,
        halt: Halt | None = None,
    ) -> Reply:
        has_searched = any(message["role"] == "tool" for message in messages)
        choice = "none" if has_searched or not tools else "required"
        return self._model.reply(
            messages, () if has_searched else tools, choice=choice, max_tokens=max_tokens, halt=halt
        )


def one_shot(model: ChatModel, search: Search, question: Question, tokens: int) -> Row:
    """The most passages with which prompt and answer cost no more than `tokens`; at least one."""
    hits = [hit.text[:LONGEST] for hit in search(question.text, MOST_PASSAGES)]
    messages = [told(question, hits[:1])]
    for count in range(2, len(hits) + 1):
        more = [told(question, hits[:count])]
        if model.count(more) + ANSWER_TOKENS > min(tokens, model.context_length):
            break
        messages = more
    budget = Budget()
    reply = Budgeted(model, budget).reply(messages, max_tokens=ANSWER_TOKENS)
    shown = messages[0]["content"]
    return row(reply.text, question, budget) | {"seen": is_right(shown, question)}


def told(question: Question, passages: Sequence[str]) -> dict[str, str]:
    if not passages:
        return {"role": "user", "content": f"Answer the question in a few words.\n\n{question.text}"}
    shown = "\n\n".join(f"[{at}]\n{text}" for at, text in enumerate(passages, 1))
    return {"role": "user", "content": f"{ONE_SHOT}\n\n{shown}\n\n{question.text}"}


def closed_book(model: ChatModel, question: Question) -> Row:
    budget = Budget()
    reply = Budgeted(model, budget).reply([told(question, [])], max_tokens=ANSWER_TOKENS)
    return row(reply.text, question, budget)


def program(search: Search, question: Question) -> Row:
    """What follows the header's number would find, with two searches that show as much as the agent's."""
    number = None
    for hit in search(question.text, SHOWN):
        match = re.search(rf"^{question.link}: (\d+)$", hit.text, re.MULTILINE)
        if match and f"PEP: {question.first}\n" in hit.text:
            number = match[1]
            break
    answer = ""
    if number is not None:
        for hit in search(f"PEP: {number}", SHOWN):
            if re.search(rf"^PEP: {number}$", hit.text, re.MULTILINE):
                answer = fact(header(hit.text), question.field) or ""
    return row(answer, question, Budget())


def row(answer: str, question: Question, budget: Budget) -> Row:
    return {"right": is_right(answer, question), "answer": answer, "tokens": budget.spent.tokens}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="starter", help="a model reference")
    parser.add_argument("--limit", type=int, default=143, help="questions, at most 143")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--workers", type=int, default=4, help="asked at a time")
    parser.add_argument("--work", type=Path, default=cache_dir() / "benchmarks" / "react-qa")
    options = parser.parse_args()
    if not ARCHIVE.exists():
        print(f"{ARCHIVE} is absent", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    texts = proposals()
    folder = options.work / "proposals"
    folder.mkdir(parents=True, exist_ok=True)
    for number, text in texts.items():
        (folder / f"pep-{number:04}.txt").write_text(text, encoding="utf-8")
    made = list(questions(texts))
    count = min(options.limit, len(made))
    # Spread over all of them, since neighbours ask about the same proposals.
    asked = {one.text: one for one in (made[at * len(made) // count] for at in range(count))}
    rows: dict[str, list[Row]] = {}
    with Collection(options.work / "collection") as collection, Engine(options.model) as engine:
        collection.sync(folder, embed=False, progress=True)
        search = partial(collection.search, mode="lexical")
        model = LocalModel(engine, parallel=False)
        small = SmallModel(model, embed=collection.embedder.embed, read=parameter_reader().read)

        def run(name: str, make: Callable[[str], Row]) -> list[Row]:
            path = (
                options.work / f"{name.replace(', ', '-').replace(' ', '-')}-{options.model.replace('/', '--')}.jsonl"
            )
            rows[name] = each(path, asked, make, workers=options.workers)
            console().print(f"{name}: {shown(rows[name])}", highlight=False)
            return rows[name]

        held = run("react", lambda key: react(Finishing(model, least=2), search, asked[key]))
        spent = dict(zip(asked, held))
        run("react, free", lambda key: react(model, search, asked[key]))
        run("react, small", lambda key: react(SearchFirst(small), search, asked[key]))
        run("one-shot", lambda key: one_shot(model, search, asked[key], spent[key]["tokens"]))
        run("closed book", lambda key: closed_book(model, asked[key]))
        run("program", lambda key: program(search, asked[key]))
    gaps = [float(a["right"]) - float(b["right"]) for a, b in zip(rows["react"], rows["one-shot"], strict=True)]
    low, high = bootstrap(gaps)
    ours, peer = rate(rows["react"]), rate(rows["one-shot"])
    result = {
        "name": "react-qa",
        "ours": round(ours, 4),
        "peer": round(peer, 4),
        "ratio": round(ours / peer, 3) if peer else None,
        "unit": f"right answers to {len(asked)} of {len(made)} two-hop questions",
        "bar": "ReAct above one-shot retrieval at equal tokens, by the paired 95% interval",
        "holds": low > 0,
        "notes": {
            "arms": {name: shown(found) for name, found in rows.items()},
            "react_over_one_shot": [round(ours - peer, 4), round(low, 4), round(high, 4)],
            "searches": round(sum(each["searches"] for each in rows["react"]) / len(asked), 2),
            "model": options.model,
        },
    }
    print(json.dumps(result))
    return 0 if result["holds"] else 1


def rate(rows: Sequence[Row]) -> float:
    return sum(bool(row["right"]) for row in rows) / len(rows)


def shown(rows: Sequence[Row]) -> str:
    right = sum(bool(row["right"]) for row in rows)
    low, high = wilson(right, len(rows))
    tokens = sum(row["tokens"] for row in rows) / len(rows)
    seen = [row["seen"] for row in rows if "seen" in row]
    said = f"{right} of {len(rows)} (95%: {low:.3f} to {high:.3f}), {tokens:.0f} tokens each"
    return said + (f"; the fact was in what it read in {sum(seen)}" if seen else "")


if __name__ == "__main__":
    sys.exit(main())
