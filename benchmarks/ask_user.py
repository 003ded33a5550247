"""Whether small-model mode asks for what a request does not say, and does not ask for what it says.

The requests are BFCL's `simple` ones in which the value of a required parameter stands word for word: as they are, and
without it. The first want a call, the others a question (`ask_user`). The value is replaced by vague words, "something"
or "some number", which the mode's code knows to be none; by words that name nothing either and that it does not know,
"stuff" or "lots"; or removed. A call that has those very words for a value is told apart from one that has another
("call"): what the user wrote where a title could stand may be one.

Rows are `bfcl`'s: `code`, `copying` (SmolLM2-135M scores) and `tuned` (`--tuned FOLDER`); beside them stands the model
alone, held by a grammar to its tool, `no_tool` or `ask_user` (`alone`, `tuned_alone`).

    python benchmarks/ask_user.py [--limit 60] [--rows code,copying] [--tuned FOLDER] [--threads 1] [--dev]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bfcl import BASE, DATA, MAX_TOKENS, MadeToChoose, cases, rate, tools_of
from modelworks.agents.local import LocalModel
from modelworks.agents.small.model import Settings, SmallModel
from modelworks.agents.talk import ASK_USER, NO_TOOL
from modelworks.core.paths import cache_dir
from modelworks.engine.engine import Engine
from modelworks.evals.function_calls import Case
from modelworks.models.base import LanguageModel
from modelworks.models.load import load
from modelworks.retrieval.embed import EncoderEmbedder
from modelworks.retrieval.reader import parameter_reader
from modelworks.text.tool_calls import ToolCall
from support.items import Row, each

ROWS = ("code", "copying", "alone", "tuned", "tuned_alone")
LACKS = {"vague": ("some number", "something"), "unknown": ("lots", "stuff"), "removed": ("", "")}
"""How a value is missing, and what stands for a number and for a text."""


@dataclass(frozen=True)
class Request:
    """A case, or what is left of it without the value of a parameter, and the words that stand there instead."""

    case: Case
    parameter: str = ""
    words: str = ""

    def did(self, calls: Sequence[ToolCall]) -> str:
        """What became of it: "call", "words" where they are the value, "no_tool" or "ask_user"."""
        names = [call.name for call in calls]
        if talk := next((name for name in (ASK_USER.name, NO_TOOL.name) if name in names), None):
            return talk
        if not calls:
            return NO_TOOL.name
        value = json.loads(calls[0].arguments).get(self.parameter) if self.words else None
        is_words = isinstance(value, str) and self.words.lower() in value.lower()
        return "words" if is_words and self.words != LACKS["vague"][True] else "call"


def lacking(case: Case, how: str) -> Request | None:
    """The case without the value of its first required parameter that stands in it once; None where none does."""
    ((name, answer),) = case.answers[0].items()
    parameters = next(schema for schema in case.schemas() if schema["name"] == name)["parameters"]
    for parameter in parameters["required"]:
        for value in answer.get(parameter, ()):
            if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
                continue
            said = f"{value:,}" if isinstance(value, int) else str(value)
            forms = {re.escape(str(value)), re.escape(said)}
            found = list(re.finditer(rf"(?<![\w.])(?:{'|'.join(forms)})(?!\w|\.\d)", case.query, re.IGNORECASE))
            if len(found) == 1:
                said = LACKS[how][isinstance(value, str)]
                text = " ".join((case.query[: found[0].start()] + said + case.query[found[0].end() :]).split())
                return Request(replace(case, messages=({"role": "user", "content": text},)), parameter, said)
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, help="cases; all where not given")
    parser.add_argument("--rows", default="code,copying", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--tuned", type=Path, help="the model that recipes/tool_sft.toml made")
    parser.add_argument("--dev", action="store_true", help="the development slice, whose figures are no result")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--workers", type=int, default=4, help="cases that are asked at a time")
    parser.add_argument("--work", type=Path, default=cache_dir() / "benchmarks" / "ask-user")
    options = parser.parse_args()
    if not DATA.exists():
        print(f"{DATA} is absent", file=sys.stderr)
        return 2
    rows = options.rows.split(",")
    if not options.tuned and {"tuned", "tuned_alone"} & set(rows):
        parser.error("the rows tuned and tuned_alone need --tuned FOLDER")
    torch.set_num_threads(options.threads)
    os.environ["MODELWORKS_THREADS"] = str(options.threads)
    whole = [case for case in cases("simple_python", dev=options.dev, limit=None) if lacking(case, "vague")]
    whole = whole[: options.limit]
    sides = {"whole": [Request(case) for case in whole]}
    sides |= {how: [less for case in whole if (less := lacking(case, how))] for how in LACKS}
    work = options.work / ("dev" if options.dev else "test")
    table, right = {}, {}
    with ExitStack() as stack:
        embed, read = EncoderEmbedder().embed, parameter_reader().read

        def opened(ref: str | Path) -> LocalModel:
            return LocalModel(stack.enter_context(Engine(load(ref, kind=LanguageModel), weights="q8")))

        base = opened(BASE)
        tuned = opened(options.tuned) if options.tuned else base
        makers: Mapping[str, Callable[[], Any]] = {
            "code": lambda: SmallModel(base, embed=embed, read=read, settings=Settings(scored=False)),
            "copying": lambda: SmallModel(base, embed=embed, read=read),
            "alone": lambda: MadeToChoose(base),
            "tuned": lambda: SmallModel(tuned, embed=embed, read=read),
            "tuned_alone": lambda: MadeToChoose(tuned),
        }
        for row in rows:
            model = makers[row]()
            done = {name: asked(row, side, model, work / name, options.workers) for name, side in sides.items()}
            table[row] = {name: told(did) for name, did in done.items()}
            right[row] = {name: share(did, "call" if name == "whole" else ASK_USER.name) for name, did in done.items()}
            print(f"{row:12}{table[row]}", flush=True)
    best = rows[-1]
    ours = (right[best]["whole"] + sum(right[best][how] for how in LACKS) / len(LACKS)) / 2
    result = {
        "name": "ask-user",
        "ours": round(ours, 4),
        "peer": 0.5,
        "ratio": round(ours / 0.5, 3),
        "unit": "right of requests that lack nothing and that lack a value, each half; the peer calls and never asks",
        "bar": f"{best} above never asking",
        "holds": ours > 0.5,
        "notes": {
            "rows": table,
            "requests": {name: len(side) for name, side in sides.items()},
            "slice": "development, no result" if options.dev else "held out",
        },
    }
    print(json.dumps(result))
    return 0 if result["holds"] else 1


def asked(row: str, side: Sequence[Request], model: Any, work: Path, workers: int) -> list[str]:
    """What became of each request."""
    by_id = {request.case.id: request for request in side}

    def answer(key: str) -> Row:
        case = by_id[key].case
        most = 1 if isinstance(model, SmallModel) else MAX_TOKENS
        reply = model.reply(case.messages, tools_of(case, model), max_tokens=most)
        return {"did": by_id[key].did(reply.calls), "calls": [[call.name, call.arguments] for call in reply.calls]}

    return [made["did"] for made in each(work / f"{row}.jsonl", by_id, answer, workers=workers)]


def share(done: Sequence[str], kind: str) -> float:
    return sum(did == kind for did in done) / len(done)


def told(done: Sequence[str]) -> dict[str, str]:
    return {kind: rate([did == kind for did in done]) for kind in ("call", "words", ASK_USER.name, NO_TOOL.name)}


if __name__ == "__main__":
    sys.exit(main())
