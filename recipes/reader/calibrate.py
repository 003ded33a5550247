"""Fit the reader's calibration on the two threshold articles, and write the file that ships.

    python recipes/reader/calibrate.py --data ../shared/data --weights runs/reader/reader.safetensors

Questions are asked of a collection of all sixteen articles, so that passages are what retrieval brings. A sentence
counts as answering where the annotated answer lies in it. The threshold is where right answers given and right
refusals, as a mean of the two rates, are most; the questions to refuse are one half SQuAD2's, which are near misses by
design, and one half questions about other things (Natural Questions), since people ask both kinds.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from layers import write
from questions import THRESHOLD, Example, natural_questions, squad, write_articles
from safetensors.torch import load_file
from torch import nn

from modelworks.models.bert import BertReader
from modelworks.models.fetch import pull
from modelworks.models.load import load
from modelworks.retrieval.answer import judge
from modelworks.retrieval.collection import Collection
from modelworks.retrieval.evidence import LOWEST_MARGIN, Calibration, Evidence
from modelworks.retrieval.reader import Reader

NEUTRAL = Calibration(margin=1.0, cosine=0.0, coverage=0.0, context=0.0, bias=0.0, threshold=0.5)
ASSETS = Path(__file__).parents[2] / "src/modelworks/retrieval/assets"


def fit(features: np.ndarray, labels: np.ndarray) -> list[float]:
    """Logistic regression with a little shrinkage: a weight a column, and the bias."""
    x, y = torch.tensor(features, dtype=torch.float64), torch.tensor(labels, dtype=torch.float64)
    weight = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        logits = x @ weight[:-1] + weight[-1]
        loss = nn.functional.binary_cross_entropy_with_logits(logits, y) + 1e-4 * (weight[:-1] ** 2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.tolist()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--weights", type=Path, required=True)
    arguments.add_argument("--questions", type=int, default=400)
    arguments.add_argument("--elsewhere", type=int, default=100, help="questions about other things")
    arguments.add_argument("--passages", type=int, default=8)
    arguments.add_argument("--dump", type=Path, help="also write the evidence there, as JSON, to look into")
    options = arguments.parse_args()

    base = load(pull("starter-embedder"))
    tokenizer = base.tokenizer
    embedder = {f"encoder.{name}": weight.clone() for name, weight in base.state_dict().items()}
    model = BertReader(base)
    model.load_state_dict(load_file(options.weights))
    path = ASSETS / "reader.gguf"
    write(model, embedder, {"calibration": json.dumps(asdict(NEUTRAL))}, path)
    reader = Reader.from_file(path)  # from here on with the rounded weights that ship
    assert tokenizer is not None

    asked = random.Random(2).sample(squad(options.data, THRESHOLD), options.questions)
    elsewhere = random.Random(5).sample(natural_questions(options.data), options.elsewhere)
    asked += [Example(f"{example.question}?", "", None, None, "elsewhere") for example in elsewhere]
    rows: list[list[tuple[Evidence, bool]]] = []
    with tempfile.TemporaryDirectory() as scratch, Collection(Path(scratch) / "store") as collection:
        write_articles(options.data, Path(scratch) / "articles")
        collection.sync(Path(scratch) / "articles")
        for example in asked:
            hits = collection.search(example.question, k=options.passages)
            at = -1
            if example.start is not None:
                at = collection.document_text(f"{example.source}.md").index(example.passage) + example.start
            row = []
            for judged in judge(example.question, hits, reader, collection.embedder):
                right = (
                    at >= 0
                    and judged.hit.document == f"{example.source}.md"
                    and judged.hit.start + judged.start <= at < judged.hit.start + judged.end
                )
                row.append((judged.evidence, right))
            rows.append(row)
    if options.dump:
        kept = [[[*asdict(evidence).values(), right] for evidence, right in row] for row in rows]
        options.dump.write_text(json.dumps({"possible": [e.start is not None for e in asked], "rows": kept}))
    flat = [sentence for example, row in zip(asked, rows) if example.source != "elsewhere" for sentence in row]
    features = np.array([[max(e.margin, LOWEST_MARGIN), e.cosine, e.coverage, e.context] for e, _ in flat])
    margin, cosine, coverage, context, bias = fit(features, np.array([right for _, right in flat]))
    calibration = Calibration(margin, cosine, coverage, context, bias, threshold=0.5)

    best = [max((calibration.probability(evidence), right) for evidence, right in row) for row in rows]
    probability, is_right = (np.array(column) for column in zip(*best))
    answerable = np.array([example.start is not None for example in asked])
    elsewhere_asked = np.array([example.source == "elsewhere" for example in asked])

    def rates(threshold: float) -> tuple[float, float, float]:
        """Right answers given, near misses refused, questions about other things refused."""
        given, refused = probability >= threshold, probability < threshold
        near = ~answerable & ~elsewhere_asked
        return float((given & is_right)[answerable].mean()), refused[near].mean(), refused[elsewhere_asked].mean()

    def balanced(threshold: float) -> float:
        given, near, far = rates(threshold)
        return (given + (near + far) / 2) / 2

    calibration = replace(calibration, threshold=float(max(np.sort(probability), key=balanced)))
    write(model, embedder, {"calibration": json.dumps(asdict(calibration))}, path)
    print(calibration)
    found = [any(r for _, r in row) for row, possible in zip(rows, answerable) if possible]
    print(
        f"passages hold the answer {np.mean(found):.3f}, likeliest sentence is right {is_right[answerable].mean():.3f}"
    )
    print("given {:.3f}, near misses refused {:.3f}, others refused {:.3f}".format(*rates(calibration.threshold)))
    print(f"balanced {balanced(calibration.threshold):.3f}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
