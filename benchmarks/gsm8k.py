"""Grade-school problems: SmolLM2-135M as it is, after fine-tuning on worked solutions, after distilling rationales.

1. `before`: the starter model, asked the first problems of GSM8K's test set.
2. `sft`: the same fine-tuned on the training set's own solutions.
3. `rationales`: a teacher is asked the training problems several times, and its right answers are kept, each in its own
   words; the starter model is fine-tuned on them and the solutions together. The teacher is any model; unless one is
   named it is that of step 2, which makes this rejection-sampling fine-tuning (Yuan et al. 2023, arXiv:2308.01825).

All are asked greedily through the engine with weights of 8 bits. Rates have Wilson's 95% interval, differences between
models that of a paired bootstrap. The answer is the number after "####", or the last one.

    python benchmarks/gsm8k.py [--train 4000] [--test 200] [--epochs 2] [--samples 4] [--teacher REF]

Every stage is kept in the work folder when it is done, and training goes on from its last checkpoint: a full run takes
hours on two cores, `--train 200 --test 50 --epochs 1 --samples 1` some minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from modelworks.core.lineage import Lineage
from modelworks.core.log import console
from modelworks.core.paths import cache_dir
from modelworks.data.rows import PackedRows
from modelworks.data.shards import MemoryDocuments
from modelworks.data.stream import Stream
from modelworks.engine.engine import Engine
from modelworks.engine.sample import Sampling
from modelworks.evals.answers import is_same_number
from modelworks.evals.tasks import Answer, Score, exact_match, gsm8k
from modelworks.models.base import LanguageModel
from modelworks.models.load import load
from modelworks.models.save import save
from modelworks.objectives.causal_lm import CausalLM
from modelworks.text.chat import render
from modelworks.train.checkpoint import Checkpoints, seed_everything
from modelworks.train.loop import TrainRecipe, train
from modelworks.train.optim import OptimRecipe
from modelworks.train.rationales import sample_rationales
from modelworks.train.schedule import ScheduleRecipe
from support.runs import kept

DATA = Path(__file__).parents[2] / "shared" / "data" / "reasoning"
BASE = "starter"
SEQ_LEN, ROWS = 512, 8
INSTRUCTION = 'Think step by step, and end with "####" and the number.'


def fine_tune(dialogues: Sequence[Sequence[Mapping[str, Any]]], folder: Path, options: argparse.Namespace) -> Path:
    """The base model fine-tuned on what assistants say, saved in `folder`; what is there already is not made again."""
    if folder.exists():
        return folder
    seed_everything(options.seed)
    model = load(BASE, kind=LanguageModel)
    assert model.tokenizer is not None
    rendered = [render(model.tokenizer, dialogue) for dialogue in dialogues]
    documents = MemoryDocuments(
        [(each.ids, [float(learned) for learned in each.loss_mask]) for each in rendered if len(each.ids) <= SEQ_LEN]
    )
    stream = Stream(PackedRows(documents, SEQ_LEN, options.seed), ROWS, epochs=options.epochs)
    steps = stream.batches()
    assert steps is not None
    recipe = TrainRecipe(
        steps=steps,
        precision=options.precision,
        save_every=25,
        keep=1,
        optim=OptimRecipe(lr=options.lr, weight_decay=0.0),
        schedule=ScheduleRecipe(warmup=min(20, steps // 5)),
    )
    run = folder.with_name(f"{folder.name}-run")
    with Checkpoints(run, keep=1) as checkpoints:
        for step in train(model, stream, CausalLM(), recipe, checkpoints=checkpoints, resume=True):
            if step.step % 10 == 0 or step.step == steps:
                console().print(f"{folder.name}: step {step.step} of {steps}, loss {step.loss:.3f}", highlight=False)
    save(model.eval(), folder, lineage=Lineage(parents=(BASE,), seed=options.seed))
    shutil.rmtree(run)  # three times the model's size
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=4000, help="problems to learn from, at most 4,000")
    parser.add_argument("--test", type=int, default=200, help="problems to be asked, at most 1,319")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--samples", type=int, default=4, help="answers of the teacher to each problem")
    parser.add_argument("--keep", type=int, default=2, help="right answers to a problem that are kept")
    parser.add_argument("--teacher", help="a model reference; the fine-tuned model where not given")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--work", type=Path, default=cache_dir() / "benchmarks" / "gsm8k")
    options = parser.parse_args()
    if not DATA.exists():
        print(f"{DATA} is absent", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    problems = gsm8k(DATA / "gsm8k_train_4000.jsonl", instruction=INSTRUCTION)[: options.train]
    asked = gsm8k(DATA / "gsm8k_test.jsonl", instruction=INSTRUCTION)[: options.test]
    trained = f"{len(problems)}x{options.epochs}-lr{options.lr:g}-{options.precision}-{options.seed}"

    def score(name: str, model: str | Path) -> Score:
        def make() -> dict[str, Any]:
            with Engine(load(model, kind=LanguageModel), weights="q8") as engine:
                found = exact_match(engine, asked, sampling=Sampling(max_tokens=options.max_tokens))
            console().print(f"{name}: {found}", highlight=False)
            return {"answers": [asdict(answer) for answer in found.answers]}

        found = kept(options.work / f"score-{name}-{len(asked)}-{options.max_tokens}.json", make)
        return Score(tuple(Answer(**answer) for answer in found["answers"]))

    scores = {"before": score("before", BASE)}
    tuned = fine_tune([problem.solved() for problem in problems], options.work / f"sft-{trained}", options)
    scores["sft"] = score(f"sft-{trained}", tuned)

    teacher = options.teacher or tuned
    taught = f"{trained}-{options.samples}-{options.keep}-{(options.teacher or 'self').replace('/', '--')}"
    rows = options.work / f"rationales-{taught}.jsonl"

    def sample() -> dict[str, Any]:
        with Engine(load(teacher, kind=LanguageModel), weights="q8") as engine:
            sampling = Sampling(temperature=0.7, top_p=0.95, max_tokens=options.max_tokens, seed=options.seed)
            found = sample_rationales(
                engine,
                problems,
                rows,
                is_right=is_same_number,
                samples=options.samples,
                keep=options.keep,
                sampling=sampling,
            )
        console().print(f"rationales: {found}", highlight=False)
        return asdict(found)

    sampled = kept(rows.with_suffix(".json"), sample)
    dialogues = [json.loads(line)["messages"] for line in rows.read_text(encoding="utf-8").splitlines()]
    both = [*(problem.solved() for problem in problems), *dialogues]
    distilled = fine_tune(both, options.work / f"distilled-{taught}", options)
    scores["rationales"] = score(f"distilled-{taught}", distilled)

    gaps = {name: scores[name].minus(scores["before"]) for name in ("sft", "rationales")}
    beyond, beyond_interval = scores["rationales"].minus(scores["sft"])
    ours, peer = scores["rationales"].rate, scores["before"].rate
    result = {
        "name": "gsm8k",
        "ours": round(ours, 4),
        "peer": round(peer, 4),
        "ratio": round(ours / peer, 3) if peer else None,
        "unit": "exact match on GSM8K's test problems",
        "bar": "after rationale distillation above before, by the paired 95% interval",
        "holds": gaps["rationales"][1][0] > 0,
        "notes": {
            "scores": {name: str(found) for name, found in scores.items()},
            "over_before": {
                name: [round(gap, 4), *(round(end, 4) for end in ends)] for name, (gap, ends) in gaps.items()
            },
            "rationales_over_sft": [round(beyond, 4), *(round(end, 4) for end in beyond_interval)],
            "sampled": sampled,
            "problems": {"train": len(problems), "test": len(asked)},
            "teacher": options.teacher or "the model after sft",
        },
    }
    print(json.dumps(result))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
