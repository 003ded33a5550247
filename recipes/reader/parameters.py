"""Train the reader that small-model mode asks whether a request says the value of a parameter.

    python recipes/tools/dialogues.py --out tool_dialogues.jsonl
    python recipes/reader/parameters.py --data ../shared/data --dialogues tool_dialogues.jsonl

Starts from the reader of `modelworks ask` and trains its upper layers further, which are the file that ships. The
question is a parameter's name and description, the passage a request, and the answer the span of a value. Data: the
development cases of BFCL (two of every five) and dialogues made by code. A parameter that a request leaves out has no
answer; and each value of a case with one call is taken out, too, or replaced by words that name nothing.

The weights in `agents/small/slots.py` were chosen by readers that each had not seen the cases they were asked of:
`--fold K` leaves one of three parts of the cases out, and `--out` is where its file goes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from layers import write
from torch import Tensor

from modelworks.agents.small.evidence import question
from modelworks.agents.small.options import kind_of
from modelworks.agents.talk import ASK_USER, NO_TOOL
from modelworks.evals.function_calls import CATEGORIES, Case, development_cases
from modelworks.models.bert import BertReader
from modelworks.retrieval.reader import Reader, default_reader

ASSET = Path(__file__).parents[2] / "src/modelworks/retrieval/assets/parameters.gguf"
FROZEN_LAYERS = 3
MAX_ASKED, MAX_PASSAGE = 120, 250  # tokens
FOLDS = 3
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()
NOTHING = {
    True: ("some number", "a certain amount", "some value", "several"),
    False: ("something", "someone", "somewhere", "a certain one", "it"),
}
"""What stands for a number, and for a text, that is not said."""


@dataclass(frozen=True)
class Example:
    question: str
    passage: str
    spans: tuple[tuple[int, int], ...]
    """Where a value stands; none where the passage says none."""


def spans(text: str, value: Any) -> list[tuple[int, int]]:
    """Where a text says a value, in any of the forms that it may have."""
    if isinstance(value, bool) or value == "":
        return []
    forms = {str(value)}
    if isinstance(value, int | float):
        forms |= {f"{value:,}", f"{value:g}"}
        if isinstance(value, float) and value < 1:
            forms |= {f"{value * 100:g}%", f"{value * 100:g}"}
        if float(value).is_integer() and 0 <= value < len(NUMBERS):
            forms.add(NUMBERS[int(value)])
    written = "|".join(map(re.escape, sorted(forms, key=len, reverse=True)))
    return [match.span() for match in re.finditer(rf"(?<![\w.])(?:{written})(?!\w|\.\d)", text, re.IGNORECASE)]


def is_read(schema: Mapping[str, Any]) -> bool:
    return kind_of(schema) in ("string", "integer", "number") and not schema.get("enum")


def of_case(case: Case, chance: random.Random) -> Iterator[Example]:
    """What a case says of the parameters of its functions; then the same, if it is one call, without each value."""
    schemas = {schema["name"]: schema["parameters"]["properties"] for schema in case.schemas()}
    values: dict[tuple[str, str], list[Sequence[Any]]] = {}
    for answer in case.answers:
        ((function, arguments),) = answer.items()
        for name, right in arguments.items():
            values.setdefault((function, name), []).append(right)
    for (function, name), rights in values.items():
        schema = schemas.get(function, {}).get(name)
        if schema is None or not is_read(schema):
            continue
        said = sorted({span for right in rights for value in right for span in spans(case.query, value)})
        if said or all("" in right for right in rights):
            yield Example(question(name, schema), case.query, tuple(said))
        if len(case.answers) > 1:
            continue
        for value in rights[0]:
            if len(found := spans(case.query, value)) == 1:
                start, end = found[0]
                for nothing in ("", chance.choice(NOTHING[not isinstance(value, str)])):
                    without = " ".join((case.query[:start] + nothing + case.query[end:]).split())
                    yield Example(question(name, schema), without, ())
                break


def of_dialogue(row: Mapping[str, Any], chance: random.Random) -> Iterator[Example]:
    """What a request says of the parameters of the tools that it calls, lacks, or is not about."""
    request = row["messages"][0]["content"]
    tools = {tool["function"]["name"]: tool["function"]["parameters"] for tool in row["tools"]}
    calls: dict[str, list[dict[str, Any]]] = {}
    for message in row["messages"]:
        for call in message.get("tool_calls") or ():
            calls.setdefault(call["function"]["name"], []).append(json.loads(call["function"]["arguments"]))
    if NO_TOOL.name in calls:
        other = chance.choice([name for name in tools if name not in (NO_TOOL.name, ASK_USER.name)])
        for name, schema in tools[other]["properties"].items():
            if is_read(schema) and chance.random() < 0.3:
                yield Example(question(name, schema), request, ())
    elif ASK_USER.name in calls:
        told = re.match(r"To use (\S+) I need: (.+)", calls[ASK_USER.name][0]["question"])
        lacking = {part.split(" (")[0] for part in told[2].split("; ")} if told else set()
        for name, schema in tools[told[1]]["properties"].items() if told else ():
            if is_read(schema) and name in lacking:
                yield Example(question(name, schema), request, ())
    else:
        for tool, made in calls.items():
            for name, schema in tools[tool]["properties"].items():
                given = [arguments[name] for arguments in made if name in arguments]
                said = sorted({span for value in given for span in spans(request, value)})
                if is_read(schema) and (said or not given):
                    yield Example(question(name, schema), request, tuple(said))


def fold(query: str) -> int:
    return int(hashlib.md5(query.encode()).hexdigest(), 16) % FOLDS


Row = tuple[list[int], list[int], list[tuple[int, int]], int]
"""Ids, segments, the first and last token of each answer (0 and 0, at [CLS], where there is none), the passage's first
token."""


def encoded(reader: Reader, example: Example) -> Row:
    tokenizer = reader.tokenizer
    cls, sep = tokenizer.control_id("[CLS]"), tokenizer.control_id("[SEP]")
    head = tokenizer.encode(example.question, add_special=False)[:MAX_ASKED]
    ids, offsets = tokenizer.encode_with_offsets(example.passage)
    ids, offsets = ids[:MAX_PASSAGE], offsets[:MAX_PASSAGE]
    first, answers = len(head) + 2, []
    for start, end in example.spans:
        if inside := [at for at, (begin, stop) in enumerate(offsets) if begin < end and stop > start]:
            answers.append((first + inside[0], first + inside[-1]))
    segments = [0] * first + [1] * (len(ids) + 1)
    return [cls, *head, sep, *ids, sep], segments, answers or [(0, 0)], first


def batches(rows: Sequence[Row], size: int, chance: random.Random) -> Iterator[list[Row]]:
    """One pass in random order, rows of like length together."""
    drawn = chance.sample(rows, len(rows))
    made: list[list[Row]] = []
    for at in range(0, len(drawn), 8 * size):
        group = sorted(drawn[at : at + 8 * size], key=lambda row: len(row[0]))
        made += [group[begin : begin + size] for begin in range(0, len(group), size)]
    yield from chance.sample(made, len(made))


def loss_of(model: BertReader, batch: Sequence[Row]) -> Tensor:
    """Cross-entropy of the pair of first and last token, over all the spans that are right."""
    T = max(len(ids) for ids, *_ in batch)
    ids_BT = torch.zeros(len(batch), T, dtype=torch.long)
    segments_BT, mask_BT = torch.zeros_like(ids_BT), torch.zeros_like(ids_BT)
    banned_BT = torch.ones(len(batch), T, dtype=torch.bool)
    for row, (ids, segments, _, first) in enumerate(batch):
        ids_BT[row, : len(ids)], segments_BT[row, : len(ids)] = torch.tensor(ids), torch.tensor(segments)
        mask_BT[row, : len(ids)] = 1
        banned_BT[row, 0] = banned_BT[row, first : len(ids) - 1] = False
    with torch.autocast("cpu", torch.bfloat16):
        start_BT, end_BT = model(ids_BT, mask_BT, segments_BT)
    start_BT = start_BT.float().masked_fill(banned_BT, -1e4).log_softmax(-1)
    end_BT = end_BT.float().masked_fill(banned_BT, -1e4).log_softmax(-1)
    right = [
        torch.logsumexp(torch.stack([start_BT[row, first] + end_BT[row, last] for first, last in answers]), 0)
        for row, (_, _, answers, _) in enumerate(batch)
    ]
    return -torch.stack(right).mean()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--dialogues", type=Path, required=True)
    arguments.add_argument("--out", type=Path, default=ASSET)
    arguments.add_argument("--fold", type=int, choices=range(FOLDS), help="leave these cases out")
    arguments.add_argument("--epochs", type=int, default=3)
    arguments.add_argument("--lr", type=float, default=5e-5)
    arguments.add_argument("--batch", type=int, default=16)
    arguments.add_argument("--threads", type=int, default=1)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    chance = random.Random(0)

    reader = default_reader()
    model = reader.model
    below = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.requires_grad_(False)
    for module in [*model.encoder.layers[FROZEN_LAYERS:], model.span]:
        module.requires_grad_(True)
    cases = [
        case
        for category in CATEGORIES
        for case in development_cases(options.data / "agents", category)
        if options.fold is None or fold(case.query) != options.fold
    ]
    examples = [example for case in cases for example in of_case(case, chance)]
    of_cases = len(examples)
    with options.dialogues.open(encoding="utf-8") as lines:
        examples += [example for line in lines for example in of_dialogue(json.loads(line), chance)]
    rows = [encoded(reader, example) for example in examples]
    print(f"{of_cases} examples of cases, {len(rows) - of_cases} of dialogues", flush=True)

    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=options.lr, weight_decay=0.01)
    steps = options.epochs * len(list(batches(rows, options.batch, random.Random(0))))
    model.train()
    step, total, began = 0, 0.0, time.monotonic()
    for _ in range(options.epochs):
        for batch in batches(rows, options.batch, chance):
            for group in optimizer.param_groups:
                group["lr"] = options.lr * min(1.0, (step + 1) / 20) * (1 - step / steps)
            loss = loss_of(model, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainable, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step, total = step + 1, total + loss.item()
            if step % 50 == 0 or step == steps:
                print(
                    f"{step:5d}/{steps} loss {total / (step % 50 or 50):.3f} {time.monotonic() - began:.0f}s",
                    flush=True,
                )
                total = 0.0
    write(model.eval(), below, {}, options.out)
    print(f"{options.out}: {options.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
