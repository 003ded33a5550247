"""Function calling: SmolLM2-135M on five categories of the Berkeley leaderboard, from plain to small-model mode.

Rows:

- `plain`: told of the tools, nothing held. So asked SmolLM2-135M answers in words and never calls.
- `constrained`: held by a grammar to calls that satisfy their schemas, of `no_tool` and `ask_user`, too.
- `retrieval`: offered only the tools that search finds the request to be about; where that is none, not asked.
- `copying`: small-model mode; code plans the calls, and the model scores tools, and values copied from the query.
- `shots`, `draft`: the same with two examples of `--examples FILE` shown, or after at most 32 tokens written freely.
- `tuned`: `copying` after fine-tuning by `recipes/tool_sft.toml` (`--tuned FOLDER`).
- `tuned_alone`: that model as in `constrained`.

Beside them stand `bm25`, how often word search alone picks the right function, `never`, which calls no tool at all, and
`code`, which is `copying` without a model's opinion. Two of every five cases are the development slice, on which
 everything was decided; figures are of the rest.

    python benchmarks/bfcl.py [--limit 100] [--rows copying,tuned --tuned runs/tool_sft/model] [--threads 1] [--dev]

Every answer is kept in the work folder, and a run that was cut goes on with the next case. Several cases are asked at a
time (`--workers`), so that seconds a case are those until its answer, and not of work.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import torch

from modelworks.agents.local import LocalModel
from modelworks.agents.model import ChatModel, Reply
from modelworks.agents.small.examples import read_examples
from modelworks.agents.small.model import Settings, SmallModel
from modelworks.agents.small.rank import bm25, spoken
from modelworks.agents.small.words import stems
from modelworks.agents.talk import ASK_USER, NO_TOOL
from modelworks.agents.tool import Tool
from modelworks.core.paths import cache_dir
from modelworks.engine.engine import Engine
from modelworks.evals.function_calls import CATEGORIES, Call, Case, development_cases, is_right, load_cases
from modelworks.evals.intervals import bootstrap, wilson
from modelworks.models.base import LanguageModel
from modelworks.models.load import load
from modelworks.retrieval.embed import EncoderEmbedder
from modelworks.retrieval.reader import parameter_reader
from modelworks.text.tool_calls import ToolCall
from support.items import Row, each

DATA = Path(__file__).parents[2] / "shared" / "data" / "agents"
BASE = "starter"
ROWS = {  # each with the row that it adds something to
    "plain": None,
    "constrained": "plain",
    "retrieval": "constrained",
    "code": "retrieval",
    "copying": "code",
    "shots": "copying",
    "draft": "copying",
    "tuned": "copying",
    "tuned_alone": "constrained",
}
TALK = (NO_TOOL, ASK_USER)
MAX_TOKENS = 160


def cases(category: str, *, dev: bool, limit: int | None) -> list[Case]:
    """The development slice, or the others, spread evenly over the category where there is a limit.

    Categories share some queries: a case whose query the development slice has, in whichever, is none of the others.
    """
    found = development_cases(DATA, category)
    if not dev:
        known = {case.id for case in found}
        found = [case for case in load_cases(DATA, category) if case.id not in known]
    step = max(1.0, len(found) / limit) if limit else 1.0
    chosen = [found[int(at * step)] for at in range(min(len(found), limit or len(found)))]
    return chosen if dev else [case for case in chosen if case.query not in _seen()]


@cache
def _seen() -> frozenset[str]:
    return frozenset(case.query for category in CATEGORIES for case in cases(category, dev=True, limit=None))


def tools_of(case: Case, model: object = None) -> list[Tool]:
    """The case's functions; small-model mode may ask, too."""
    made = [
        Tool(each["name"], each["description"], each["parameters"], lambda **_: None, frozenset())
        for each in case.schemas()
    ]
    return [*made, ASK_USER] if isinstance(model, SmallModel) else made


class MadeToChoose:
    """A model held to calls: of its tools, or those of them that `small` leaves, or of `no_tool` or `ask_user`."""

    def __init__(self, model: LocalModel, small: SmallModel | None = None) -> None:
        self._model, self._small = model, small

    def reply(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool], *, max_tokens: int) -> Reply:
        offered = tools if self._small is None else self._small.offered(messages, tools)
        if not offered:
            return Reply("", (ToolCall(NO_TOOL.name, "{}"),))
        return self._model.reply(messages, [*offered, *TALK], choice="required", max_tokens=max_tokens)


def called(calls: Sequence[Sequence[str]]) -> list[Call] | None:
    """The calls of a reply, none twice: a small model repeats itself, and to do the same again is no harm to it here.

    None where the arguments of one are no object. A question to the user calls nothing.
    """
    made: list[Call] = []
    for name, text in calls:
        try:
            arguments = json.loads(text)
        except ValueError:
            return None
        if not isinstance(arguments, dict):
            return None
        if name not in {tool.name for tool in TALK} and (name, arguments) not in made:
            made.append((name, arguments))
    return made


def answers(
    row: str, asked: Sequence[Case], model: ChatModel | MadeToChoose, work: Path, workers: int
) -> list[dict[str, Any]]:
    """What a row answers to each case, and whether it is right; answers are kept by line, so none is asked twice."""
    by_id = {case.id: case for case in asked}
    # What small-model mode says in words is no call, so it need not be written out.
    most = 1 if isinstance(model, SmallModel) else MAX_TOKENS

    def answer(key: str) -> Row:
        began = time.monotonic()
        reply = model.reply(by_id[key].messages, tools_of(by_id[key], model), max_tokens=most)
        calls = [[call.name, call.arguments] for call in reply.calls]
        return {"calls": calls, "margin": reply.margin, "seconds": round(time.monotonic() - began, 3)}

    found = each(work / f"{row}.jsonl", by_id, answer, workers=workers)
    return [judged(case, given) for case, given in zip(asked, found, strict=True)]


def judged(case: Case, answer: Mapping[str, Any]) -> dict[str, Any]:
    calls = called(answer["calls"])
    return {
        "right": calls is not None and is_right(case, calls),
        "asked": any(name == ASK_USER.name for name, _ in answer["calls"]),
        "seconds": answer["seconds"],
    }


def picked_by_words(case: Case) -> bool:
    """Whether word search alone puts a function first that the case wants."""
    tools = tools_of(case)
    scores = bm25(list(dict.fromkeys(stems(case.query))), [stems(spoken(tool)) for tool in tools])
    return any(tools[scores.index(max(scores))].name in answer for answer in case.answers)


def rate(right: Sequence[bool]) -> str:
    low, high = wilson(sum(right), len(right))
    share = sum(right) / max(1, len(right))
    return f"{100 * share:.1f}% ({sum(right)} of {len(right)}; 95%: {100 * low:.1f} to {100 * high:.1f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, help="cases of each category; all where not given")
    parser.add_argument("--rows", default="plain,constrained,retrieval,code,copying", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--categories", default=",".join(CATEGORIES))
    parser.add_argument("--tuned", type=Path, help="the model that recipes/tool_sft.toml made")
    parser.add_argument("--examples", type=Path, help="dialogues of recipes/tools/dialogues.py")
    parser.add_argument("--dev", action="store_true", help="the development slice, whose figures are no result")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--workers", type=int, default=4, help="cases that are asked at a time")
    parser.add_argument("--work", type=Path, default=cache_dir() / "benchmarks" / "bfcl")
    options = parser.parse_args()
    if not DATA.exists():
        print(f"{DATA} is absent", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    os.environ["MODELWORKS_THREADS"] = str(options.threads)
    asked = {name: cases(name, dev=options.dev, limit=options.limit) for name in options.categories.split(",")}
    rows = options.rows.split(",")
    if not options.tuned and {"tuned", "tuned_alone"} & set(rows):
        parser.error("the rows tuned and tuned_alone need --tuned FOLDER")
    if "shots" in rows and not options.examples:
        parser.error("the row shots needs --examples FILE")
    examples = read_examples(options.examples)[:500] if options.examples else []
    work = options.work / ("dev" if options.dev else "test")
    with ExitStack() as stack:
        embed, read = EncoderEmbedder().embed, parameter_reader().read

        def engine(ref: str | Path) -> Engine:
            return stack.enter_context(Engine(load(ref, kind=LanguageModel), weights="q8"))

        base = engine(BASE)
        tuned = engine(options.tuned) if options.tuned else base
        makers: Mapping[str, Callable[[], Any]] = {
            "plain": lambda: LocalModel(base, constrained=False),
            "constrained": lambda: MadeToChoose(LocalModel(base)),
            "retrieval": lambda: MadeToChoose(LocalModel(base), SmallModel(LocalModel(base), embed=embed)),
            "code": lambda: SmallModel(LocalModel(base), embed=embed, read=read, settings=Settings(scored=False)),
            "copying": lambda: SmallModel(LocalModel(base), embed=embed, read=read),
            "shots": lambda: SmallModel(LocalModel(base), embed=embed, read=read, examples=examples),
            "draft": lambda: SmallModel(LocalModel(base), embed=embed, read=read, settings=Settings(draft_tokens=32)),
            "tuned": lambda: SmallModel(LocalModel(tuned), embed=embed, read=read),
            "tuned_alone": lambda: MadeToChoose(LocalModel(tuned)),
        }
        found = {
            row: {
                name: answers(row, those, makers[row](), work / name, options.workers) for name, those in asked.items()
            }
            for row in rows
        }
    table: dict[str, dict[str, str]] = {}
    for row, by_category in found.items():
        table[row] = {name: rate([answer["right"] for answer in given]) for name, given in by_category.items()}
        table[row]["mean"] = f"{100 * mean(by_category):.1f}%"
    never = {name: rate([not case.answers for case in each]) for name, each in asked.items()}
    words = {name: rate([picked_by_words(case) for case in each]) for name, each in asked.items() if each[0].answers}
    for row, scores in table.items():
        print(f"{row:12}" + "  ".join(f"{name} {score}" for name, score in scores.items()))
    best = next((row for row in ("tuned", "copying") if row in rows), rows[-1])
    gaps = {
        f"{after} over {before}": gain(found[before], found[after])
        for after in rows
        if (before := ROWS[after]) is not None and before in found
    }
    ours, peer = mean(found[best]), mean(found[rows[0]])
    calls_none = sum(not each[0].answers for each in asked.values())
    result = {
        "name": "bfcl",
        "ours": round(ours, 4),
        "peer": round(peer, 4),
        "ratio": round(ours / peer, 3) if peer else None,
        "unit": "mean over categories of right cases",
        "bar": f"{best} above {rows[0]} and above never calling, by the 95% interval",
        "holds": gain(found[rows[0]], found[best])[1] > 0 and ours > calls_none / len(asked),
        "notes": {
            "rows": table,
            "never": never,
            "bm25_picks_the_function": words,
            "gains": gaps,
            "asked_the_user": {
                row: sum(a["asked"] for each in given.values() for a in each) for row, given in found.items()
            },
            "seconds_a_case": {row: seconds(given) for row, given in found.items()},
            "cases": {name: len(each) for name, each in asked.items()},
            "slice": "development, no result" if options.dev else "held out",
        },
    }
    print(json.dumps(result))
    return 0 if result["holds"] else 1


def mean(by_category: Mapping[str, Sequence[Mapping[str, Any]]]) -> float:
    return sum(sum(a["right"] for a in given) / len(given) for given in by_category.values()) / len(by_category)


def gain(
    before: Mapping[str, Sequence[Mapping[str, Any]]], after: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[float]:
    """How much higher the rate over all cases is, and the 95% bootstrap of the pairs."""
    pairs = [
        float(a["right"]) - float(b["right"]) for name in after for a, b in zip(after[name], before[name], strict=True)
    ]
    return [round(value, 4) for value in (sum(pairs) / len(pairs), *bootstrap(pairs))]


def total(by_category: Mapping[str, Sequence[Mapping[str, Any]]], what: str) -> int:
    return sum(answer[what] for given in by_category.values() for answer in given)


def seconds(by_category: Mapping[str, Sequence[Mapping[str, Any]]]) -> float:
    taken = [a["seconds"] for given in by_category.values() for a in given]
    return round(sum(taken) / len(taken), 3)


if __name__ == "__main__":
    sys.exit(main())
