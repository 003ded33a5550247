"""A reward model from SmolLM2-135M on the 2,312 pairs of the harmless test set, in five folds.

Each fold is held out once: a reward model is trained on the other four, as an adapter on the last layers under a new
scalar head, and says which of the held-out pairs' answers was preferred. Beside it stand two baselines on the same
folds: the longer or the shorter answer, whichever is preferred more often in the four folds, and always the first of
the two in an order that is drawn at random. Intervals are Wilson's at 95%, over all pairs, of which each is held out
once; that of the gap to the better baseline is a bootstrap of pairs. Nothing was tuned on these folds.

    python benchmarks/reward_accuracy.py [--folds 5] [--layers 6] [--epochs 1] [--threads 2]

Each fold is kept in the work folder when it is done; what is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import torch

from modelworks.adapt import lora
from modelworks.adapt.lora import LoraConfig
from modelworks.core.log import console
from modelworks.core.paths import cache_dir
from modelworks.data.pairs import ComparisonRows, Comparisons, comparison_batch, read_pairs
from modelworks.data.stream import Stream
from modelworks.data.tokenize import Options
from modelworks.evals.intervals import bootstrap, wilson
from modelworks.models.base import LanguageModel, evaluating
from modelworks.models.load import load
from modelworks.models.reward import RewardModel
from modelworks.objectives.reward import BradleyTerry, last_token_rewards
from modelworks.train.checkpoint import seed_everything
from modelworks.train.loop import TrainRecipe, train
from modelworks.train.optim import OptimRecipe
from modelworks.train.schedule import ScheduleRecipe
from support.runs import kept

DATA = Path(__file__).parents[2] / "shared" / "data" / "preference" / "hh_harmless_test.jsonl.gz"
FOLDS, ROWS, LAYERS = 5, 8, 30


def batches(pairs: Comparisons, seed: int | None) -> Stream:
    def collate(rows: Any, **more: Any) -> Any:
        return comparison_batch(rows, **more, whole=True)

    return Stream(ComparisonRows(pairs, seed), ROWS, epochs=1, collate=collate)


def part(pairs: Comparisons, chosen: list[int]) -> Comparisons:
    return Comparisons([pairs[at] for at in chosen], pad_id=pairs.pad_id)


def gaps(model: RewardModel, pairs: Comparisons) -> list[float]:
    """The preferred answer's reward less the other's, for each pair in order."""
    found: list[float] = []
    with torch.no_grad(), evaluating(model), torch.autocast("cpu", torch.bfloat16):
        for batch in batches(pairs, None):
            rewards_S = last_token_rewards(model, batch, 2 * len(batch["pair_weights"]))
            found += (rewards_S[::2] - rewards_S[1::2]).tolist()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, default=FOLDS, help="of five, how many are held out")
    parser.add_argument("--layers", type=int, default=6, help="the last so many learn")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--work", type=Path, default=cache_dir() / "benchmarks" / "reward-accuracy")
    options = parser.parse_args()
    if not DATA.exists():
        print(f"{DATA} is absent", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)

    def base() -> LanguageModel:
        return load("starter", kind=LanguageModel, dtype=torch.bfloat16)

    tokenizer = base().tokenizer
    assert tokenizer is not None
    pairs, report = read_pairs(DATA, tokenizer, Options(max_length=1024))
    order = list(range(len(pairs)))
    random.Random(0).shuffle(order)
    folds = [order[at::FOLDS] for at in range(FOLDS)]
    longer = [len(row.completions[0].ids) - len(row.completions[1].ids) for row in (pairs[at] for at in order)]
    longer_of = dict(zip(order, longer))

    def fold(number: int) -> dict[str, Any]:
        def make() -> dict[str, Any]:
            learned = [at for other in range(FOLDS) if other != number for at in folds[other]]
            seed_everything(number)
            model = RewardModel.from_language_model(base())
            last = "|".join(str(layer) for layer in range(LAYERS - options.layers, LAYERS))
            lora.apply(model, LoraConfig(rank=16, alpha=32.0, targets=(rf"layers\.({last})\..*",)))
            model.score.weight = torch.nn.Parameter(model.score.weight.float())
            stream = batches(part(pairs, learned * options.epochs), number)
            steps = stream.batches()
            assert steps is not None
            recipe = TrainRecipe(
                steps=steps,
                precision="bf16",
                optim=OptimRecipe(lr=options.lr, weight_decay=0.0),
                schedule=ScheduleRecipe(name="linear", warmup=20),
            )
            right = 0.0
            for step in train(model, stream, BradleyTerry(), recipe):
                right += step.metrics["accuracy"]
                if step.step % 25 == 0:
                    told = f"fold {number}: step {step.step} of {steps}, loss {step.loss:.3f}, right {right / 25:.3f}"
                    console().print(told, highlight=False)
                    right = 0.0
            return {"gaps": gaps(model, part(pairs, folds[number]))}

        name = f"fold-{number}-layers{options.layers}-lr{options.lr:g}-epochs{options.epochs}.json"
        return kept(options.work / name, make)

    model_right, length_right, first_right = [], [], []
    draw = random.Random(1)
    for number in range(options.folds):
        found = fold(number)["gaps"]
        learned = [longer_of[at] for other in range(FOLDS) if other != number for at in folds[other]]
        sign = 1 if sum(gap > 0 for gap in learned) >= sum(gap < 0 for gap in learned) else -1
        for at, gap in zip(folds[number], found, strict=True):
            model_right.append((gap > 0) + (gap == 0) / 2)
            length = sign * longer_of[at]
            length_right.append((length > 0) + (length == 0) / 2)
            first_right.append(float(draw.random() < 0.5))
    sides = {"reward model": model_right, "length": length_right, "always the first": first_right}
    rates = {name: sum(right) / len(right) for name, right in sides.items()}
    baseline = max(("length", "always the first"), key=lambda name: rates[name])
    beyond = [mine - theirs for mine, theirs in zip(model_right, sides[baseline])]
    low, high = bootstrap(beyond)
    result = {
        "name": "reward-accuracy",
        "ours": round(rates["reward model"], 4),
        "peer": round(rates[baseline], 4),
        "ratio": round(rates["reward model"] / rates[baseline], 3),
        "unit": "held-out pairs whose preferred answer has the higher reward",
        "bar": "above both baselines, by the 95% interval of the gap",
        "holds": low > 0,
        "notes": {
            "baseline": baseline,
            "rates": {
                name: [round(rates[name], 4), *(round(end, 4) for end in wilson(round(sum(right)), len(right)))]
                for name, right in sides.items()
            },
            "gap": [round(sum(beyond) / len(beyond), 4), round(low, 4), round(high, 4)],
            "pairs": len(model_right),
            "left_out": dict(report.dropped),
            "folds": options.folds,
            "layers": options.layers,
            "epochs": options.epochs,
        },
    }
    print(json.dumps(result))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
