"""The 1,000 real-world schemas of MaskBench under constrained decoding, beside xgrammar on the same ones.

Each schema is compiled, or refused by name. Its instances are then given to the constraint token by token, as compact
JSON: valid ones must come through to an end, invalid ones must not. Of the schemas that compile, some are given to the
starter model, which draws answers at temperature 1: every answer that ends must satisfy its schema (jsonschema judges).
The same model without a constraint is the second baseline.

    python benchmarks/constrain.py [--schemas 0] [--answers 40] [--peer-schemas 200]      (--schemas 0: all)

The number is the share of schemas that compile and whose instances are all judged rightly; the peer's is of a random
sample, as single schemas take it minutes, and so is the ratio. Needs the data set
`maskbench_1000.tar.gz` and, in `.venv-bench-constrain`, what `constrain.peers.txt` lists; `make bench` sets the latter
up.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import re
import select
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import jsonschema

from modelworks.core.errors import GrammarError
from modelworks.engine.constrain import Constraint, constrain
from modelworks.engine.generate import complete, generate
from modelworks.engine.grammar import Grammar
from modelworks.engine.sample import Sampling
from modelworks.models.base import LanguageModel
from modelworks.models.load import load
from modelworks.text.tokenizer import Tokenizer

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data" / "schemas" / "maskbench_1000.tar.gz"
PEER_PYTHON = ROOT / ".venv-bench-constrain" / "bin" / "python"
PEER_SECONDS = 30
"""What the peer may take for one schema before it counts as not compiled."""
PEER = """
import base64, json, sys, time
import xgrammar
given = json.load(open(sys.argv[1]))
tokens = [base64.b64decode(token) for token in given["tokens"]]
info = xgrammar.TokenizerInfo(tokens, vocab_size=len(tokens), stop_token_ids=given["stop"])
compiler = xgrammar.GrammarCompiler(info, max_threads=1)
mask = xgrammar.allocate_token_bitmask(1, len(tokens))
words = mask[0].numpy()
def is_allowed(token):
    return bool(words[token // 32] >> (token % 32) & 1)
def judge(matcher, ids, masks):
    for token in ids:
        start = time.perf_counter()
        everything = not matcher.fill_next_token_bitmask(mask)
        masks.append(time.perf_counter() - start)
        if not (everything or is_allowed(token)) or not matcher.accept_token(token):
            return False
    everything = not matcher.fill_next_token_bitmask(mask)
    return everything or any(map(is_allowed, given["stop"]))
print("ready", flush=True)
for at in range(int(sys.argv[2]), len(given["cases"])):
    case = given["cases"][at]
    report = {"at": at, "masks": []}
    start = time.perf_counter()
    try:
        grammar = compiler.compile_json_schema(
            case["schema"], any_whitespace=False, separators=(",", ":"), strict_mode=False)
        report["compile"] = time.perf_counter() - start
        report["verdicts"] = [judge(xgrammar.GrammarMatcher(grammar), ids, report["masks"]) for ids in case["ids"]]
    except Exception as error:
        report["error"] = str(error) or type(error).__name__
    print(json.dumps(report), flush=True)
"""


@dataclass
class Case:
    """A schema and its instances."""

    name: str
    schema: Any
    values: list[Any]
    valid: list[bool]
    ids: list[list[int]]
    """Each instance as the model's tokens."""


@dataclass
class Judged:
    """What one side made of the cases; seconds throughout."""

    refused: dict[str, str] = field(default_factory=dict)
    """The reasons by case."""
    wrong: list[tuple[Case, int]] = field(default_factory=list)
    """Cases with the instance that was judged wrongly."""
    compiles: list[float] = field(default_factory=list)
    masks: list[float] = field(default_factory=list)

    def right(self, cases: Sequence[Case]) -> float:
        """The share of cases, in %, that compiled and had no instance judged wrongly."""
        failed = {*self.refused, *(case.name for case, _ in self.wrong)}
        return 100 * statistics.fmean(case.name not in failed for case in cases)

    def wrongly(self, *, accepted: bool) -> list[tuple[Case, int]]:
        return [(case, at) for case, at in self.wrong if case.valid[at] is not accepted]


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def read_cases(tokenizer: Tokenizer, count: int) -> list[Case]:
    cases = []
    with tarfile.open(DATA) as archive:
        members = sorted((member for member in archive if member.isfile()), key=lambda member: member.name)
        for member in members[: count or None]:
            stream = archive.extractfile(member)
            assert stream is not None
            read = json.load(stream)
            values = [test["data"] for test in read["tests"]]
            ids = [tokenizer.encode(compact(value), add_special=False) for value in values]
            valid = [test["valid"] for test in read["tests"]]
            cases.append(Case(Path(member.name).stem, read["schema"], values, valid, ids))
    return cases


# --- ours -------------------------------------------------------------------------------------------------------------


def start(tokenizer: Tokenizer, grammar: Grammar) -> Constraint:
    return constrain(tokenizer, grammar, vocab_size=tokenizer.vocab_size, end_ids=tokenizer.stop_ids)


def judge(tokenizer: Tokenizer, grammar: Grammar, ids: Sequence[int], masks: list[float]) -> bool:
    """Whether every token is allowed when its turn comes, and an end after them."""
    constraint = start(tokenizer, grammar)
    for token in ids:
        before = time.perf_counter()
        allowed_V = constraint.mask()
        masks.append(time.perf_counter() - before)
        if not allowed_V[token]:
            return False
        constraint.accept(token)
    return constraint.finished or bool(constraint.mask()[list(tokenizer.stop_ids)].any())


def judge_ours(tokenizer: Tokenizer, cases: Sequence[Case]) -> Judged:
    judged = Judged()
    start(tokenizer, Grammar.regex("a"))  # the table of the vocabulary is built once, and not counted
    for case in cases:
        before = time.perf_counter()
        try:
            grammar = Grammar.json_schema(case.schema)
            start(tokenizer, grammar)
        except GrammarError as error:
            judged.refused[case.name] = str(error)
            continue
        judged.compiles.append(time.perf_counter() - before)
        for at, ids in enumerate(case.ids):
            if judge(tokenizer, grammar, ids, judged.masks) != case.valid[at]:
                judged.wrong.append((case, at))
    return judged


def explained(tokenizer: Tokenizer, case: Case, at: int) -> str:
    """Why a valid instance was not let through: found by writing it in another way that is."""
    orders = [list(properties) for properties in every_properties(case.schema)]

    def rewritten(value: Any) -> Any:
        if isinstance(value, list):
            return [rewritten(item) for item in value]
        if not isinstance(value, dict):
            return int(value) if isinstance(value, float) and value.is_integer() else value
        order = max(orders, key=lambda names: len(value.keys() & names))
        known = sorted(value.keys() & order, key=order.index)
        return {name: rewritten(value[name]) for name in [*known, *(value.keys() - order)]}

    text = re.sub(r"-?\d+(\.\d+)?e-\d+", lambda number: f"{float(number[0]):.12f}", compact(rewritten(case.values[at])))
    ids = tokenizer.encode(text, add_special=False)
    if judge(tokenizer, Grammar.json_schema(case.schema), ids, []):
        return "passes with its properties in the schema's order and numbers without exponents"
    return "not explained"


def every_properties(schema: Any) -> Iterator[dict[str, Any]]:
    """The properties of every object that a schema describes, each in order."""
    if isinstance(schema, list):
        for item in schema:
            yield from every_properties(item)
    elif isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict):
            yield schema["properties"]
        for item in schema.values():
            yield from every_properties(item)


# --- the peer ---------------------------------------------------------------------------------------------------------


def judge_peer(tokenizer: Tokenizer, cases: Sequence[Case]) -> Judged:
    """xgrammar in its own environment; a schema that hangs or kills it counts as refused, and the next goes on."""
    ids = range(tokenizer.vocab_size)
    tokens = [b"" if index in tokenizer.control_ids else tokenizer.token_bytes(index) for index in ids]
    given = {
        "tokens": [base64.b64encode(token).decode() for token in tokens],
        "stop": sorted(tokenizer.stop_ids),
        "cases": [{"schema": json.dumps(case.schema), "ids": case.ids} for case in cases],
    }
    judged, at = Judged(), 0
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(given, file)
        file.flush()
        while at < len(cases):
            command = [str(PEER_PYTHON), "-c", PEER, file.name, str(at)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as peer:
                assert peer.stdout is not None
                if peer.stdout.readline() != "ready\n":
                    sys.exit("the peer does not start: remove .venv-bench-constrain and run `make bench` again")
                while at < len(cases):
                    waiting, _, _ = select.select([peer.stdout], [], [], PEER_SECONDS)
                    line = peer.stdout.readline() if waiting else ""
                    if not line:
                        judged.refused[cases[at].name] = "crashed" if waiting else f"took over {PEER_SECONDS} s"
                        at += 1
                        peer.kill()
                        break
                    add(judged, cases[at], json.loads(line))
                    at += 1
    return judged


def add(judged: Judged, case: Case, report: dict[str, Any]) -> None:
    if "error" in report:
        judged.refused[case.name] = report["error"]
        return
    judged.compiles.append(report["compile"])
    judged.masks.extend(report["masks"])
    judged.wrong.extend((case, n) for n, verdict in enumerate(report["verdicts"]) if verdict != case.valid[n])


# --- answers ----------------------------------------------------------------------------------------------------------


def ask(model: LanguageModel, cases: Sequence[Case], *, constrained: bool) -> tuple[int, int]:
    """How many answers ended, and how many of those satisfy their schemas."""
    assert model.tokenizer is not None
    prompts, samplings = [], []
    for n, case in enumerate(cases):
        begun = model.tokenizer.decode(model.tokenizer.encode(json.dumps(case.schema), add_special=False)[:80])
        prompts.append(
            [{"role": "user", "content": f"Answer with nothing but JSON that satisfies this schema:\n{begun}"}]
        )
        grammar = Grammar.json_schema(case.schema) if constrained else None
        samplings.append(Sampling(temperature=1, seed=n, max_tokens=200, grammar=grammar))
    ended = satisfied = 0
    for case, answer in zip(cases, complete(model, prompts, samplings, batch_size=max(1, len(prompts)))):
        if answer.finish_reason == "stop":
            ended += 1
            satisfied += satisfies(answer.text, case)
    return ended, satisfied


def satisfies(text: str, case: Case) -> bool:
    try:
        validator = jsonschema.validators.validator_for(case.schema, default=jsonschema.Draft202012Validator)
        validator(case.schema).validate(json.loads(text))
    except (ValueError, jsonschema.ValidationError) as error:
        print(f"  {case.name}: {text[:80]!r}: {str(error).splitlines()[0][:120]}")
        return False
    return True


def forward_seconds(model: LanguageModel) -> list[float]:
    """The times between tokens of one unconstrained answer."""
    times = [time.perf_counter()]
    for _ in islice(generate(model, "Once upon a time", Sampling(max_tokens=40)), 40):
        times.append(time.perf_counter())
    return [after - before for before, after in pairwise(times[2:])]  # not the prompt's


# --- the report -------------------------------------------------------------------------------------------------------


def reason(said: str) -> str:
    """A refusal's reason without the place and the particulars."""
    said = re.sub(r"^JSON schema( at \S+)?: ", "", said).splitlines()[0]
    return re.sub(r"(format: )\S+|(/).*/ and /.*(/)|'[^']*'|json-schema:\S+", r"\1\2\3…", said)[:70]


def spread(seconds: Sequence[float], scale: float) -> str:
    cuts = statistics.quantiles(seconds, n=20)
    return f"{statistics.median(seconds) * scale:.3g} (p95 {cuts[18] * scale:.3g})"


def report(name: str, judged: Judged, cases: Sequence[Case]) -> None:
    valid = sum(sum(case.valid) for case in cases if case.name not in judged.refused)
    invalid = sum(len(case.valid) - sum(case.valid) for case in cases if case.name not in judged.refused)
    print(f"{name}: {len(judged.compiles)} schemas compiled, {len(judged.refused)} refused:")
    for why, count in Counter(map(reason, judged.refused.values())).most_common(12):
        print(f"  {count:4} {why}")
    print(f"  valid instances let through: {valid - len(judged.wrongly(accepted=False))} of {valid}")
    print(f"  invalid ones stopped: {invalid - len(judged.wrongly(accepted=True))} of {invalid}")
    print(
        f"  compile {spread(judged.compiles, 1e3)} ms, mask {spread(judged.masks, 1e6)} us, {len(judged.masks)} masks"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schemas", type=int, default=0)
    parser.add_argument("--answers", type=int, default=40)
    parser.add_argument("--peer-schemas", type=int, default=200, help="0: no peer")
    arguments = parser.parse_args()
    if not DATA.exists():
        sys.exit(f"missing: the data set {DATA.name}, expected in shared/data/schemas beside the repository")

    model = load("starter", kind=LanguageModel)
    tokenizer = model.tokenizer
    assert tokenizer is not None
    cases = read_cases(tokenizer, arguments.schemas)
    ours = judge_ours(tokenizer, cases)
    report("modelworks", ours, cases)
    loose = ours.wrongly(accepted=True)
    for case, at in loose:
        print(f"  let through, though invalid: {case.name} {at}: {compact(case.values[at])[:100]}")
    strict = [(case.name, explained(tokenizer, case, at)) for case, at in ours.wrongly(accepted=False)]
    for name, why in strict:
        print(f"  not let through, though valid: {name}: {why}")
    peer: Judged | None = None
    shared = random.Random(1).sample(cases, min(arguments.peer_schemas, len(cases)))
    if shared and PEER_PYTHON.exists():
        peer = judge_peer(tokenizer, shared)
        report("xgrammar", peer, shared)

    compiled = [case for case in cases if case.name not in ours.refused]
    asked = random.Random(0).sample(compiled, min(arguments.answers, len(compiled)))
    print("answers without a constraint that are no JSON of their schema:")
    free = ask(model, asked, constrained=False)
    print("answers with one:")
    held = ask(model, asked, constrained=True)
    forward = forward_seconds(model)

    ratio = ours.right(shared) / peer.right(shared) if peer else None
    unexplained = [name for name, why in strict if why == "not explained"]
    holds = not loose and not unexplained and held[1] == held[0] > 0 and (ratio is None or ratio >= 1)
    notes = [
        f"{len(compiled)} of {len(cases)} schemas compile, the others are refused by name",
        f"{len(loose)} invalid instances let through, {len(strict)} valid ones not ({len(unexplained)} unexplained, "
        "the rest pass with properties in the schema's order and numbers without exponents)",
        f"{held[1]} of {held[0]} finished answers satisfy their schema, {free[1]} of {free[0]} without a constraint "
        f"({len(asked)} asked, 200 tokens each)",
        f"compile {spread(ours.compiles, 1e3)} ms, mask {spread(ours.masks, 1e6)} us; "
        f"the torch model's forward {spread(forward, 1e3)} ms",
    ]
    if peer:
        both = sum(case.name not in ours.refused for case in shared)
        notes.append(
            f"of {len(shared)} schemas xgrammar compiles {len(peer.compiles)} (ours {both}), lets "
            f"{len(peer.wrongly(accepted=True))} invalid instances through and stops "
            f"{len(peer.wrongly(accepted=False))} valid ones; "
            f"compile {spread(peer.compiles, 1e3)} ms, mask {spread(peer.masks, 1e6)} us"
        )
    print(
        json.dumps(
            {
                "name": "constrain",
                "ours": round(ours.right(cases), 1),
                "peer": round(peer.right(shared), 1) if peer else None,
                "ratio": round(ratio, 3) if ratio else None,
                "unit": "% of schemas compiled with every instance judged rightly",
                "bar": "nothing invalid gets through, no valid instance is stopped unexplained, ours >= peer",
                "holds": holds,
                "notes": "; ".join(notes),
            }
        )
    )
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
