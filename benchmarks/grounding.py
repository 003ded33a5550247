"""Answers and refusals on held-out SQuAD2 articles, beside a reader-less baseline on the same retrieval.

300 answerable and 300 unanswerable questions about five articles that no training, tuning or threshold has seen, asked
of a collection of all sixteen articles. Containment: an annotated answer is in the answer given. The baseline answers
with the sentence of the best passage that shares most words with the question and refuses where the best passage's
cosine is under a threshold, which is fitted on the same two articles as the reader's.

    python benchmarks/grounding.py [--questions 300]
"""

from __future__ import annotations

import argparse
import json
import random
import string
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "recipes" / "reader"))

from questions import HELD_OUT, THRESHOLD, Example, squad, write_articles  # noqa: E402

from modelworks.core.log import progress  # noqa: E402
from modelworks.retrieval.answer import content_words  # noqa: E402
from modelworks.retrieval.collection import Collection, Hit  # noqa: E402

DATA = ROOT.parent / "shared" / "data"


def plain(text: str) -> str:
    """SQuAD's normalisation: lower case, no punctuation, no articles, single spaces."""
    text = "".join(" " if letter in string.punctuation else letter for letter in text.lower())
    return " ".join(word for word in text.split() if word not in ("a", "an", "the"))


def contains(answer: str, example: Example) -> bool:
    return any(f" {plain(given)} " in f" {plain(answer)} " for given in example.answers)


def halves(examples: list[Example], number: int, seed: int) -> list[Example]:
    draw = random.Random(seed)
    answerable = [example for example in examples if example.start is not None]
    unanswerable = [example for example in examples if example.start is None]
    return draw.sample(answerable, min(number, len(answerable))) + draw.sample(
        unanswerable, min(number, len(unanswerable))
    )


def overlapping_sentence(question: str, hit: Hit) -> str:
    asked = content_words(question)
    statements = [hit.text[start - hit.start : end - hit.start] for start, end in hit.statements]
    return max(statements, key=lambda sentence: len(asked & content_words(sentence)), default="")


def best_threshold(scored: list[tuple[float, bool, bool]]) -> float:
    """Of (score, answerable, right): the threshold with the best mean of right answers and right refusals."""

    def balanced(threshold: float) -> float:
        given = [right and score >= threshold for score, answerable, right in scored if answerable]
        refused = [score < threshold for score, answerable, _ in scored if not answerable]
        return float(np.mean(given)) + float(np.mean(refused))

    return max(sorted({score for score, *_ in scored}), key=balanced)


def rates(rows: list[tuple[Example, str | None]]) -> dict[str, float]:
    answerable = [(example, answer) for example, answer in rows if example.start is not None]
    unanswerable = [answer for example, answer in rows if example.start is None]
    contained = [answer is not None and contains(answer, example) for example, answer in answerable]
    given = [answer for _, answer in answerable if answer is not None]
    return {
        "containment": float(np.mean(contained)),
        "containment_when_answered": float(np.sum(contained) / max(1, len(given))),
        "refused_answerable": 1 - len(given) / len(answerable),
        "refused_unanswerable": float(np.mean([answer is None for answer in unanswerable])),
    }


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--questions", type=int, default=300, help="of each half")
    options = arguments.parse_args()
    if not DATA.is_dir():
        print(f"the data folder {DATA} is absent, so there is nothing to measure", file=sys.stderr)
        return 2
    tested = halves(squad(DATA, HELD_OUT), options.questions, seed=3)
    tuned = halves(squad(DATA, THRESHOLD), min(150, options.questions), seed=4)
    with tempfile.TemporaryDirectory() as scratch, Collection(Path(scratch) / "store") as collection:
        write_articles(DATA, Path(scratch) / "articles")
        collection.sync(Path(scratch) / "articles")

        def baseline(example: Example) -> tuple[float, str]:
            best = collection.search(example.question, k=1)[0]
            return best.dense or 0.0, overlapping_sentence(example.question, best)

        scored = []
        for example in tuned:
            cosine, sentence = baseline(example)
            scored.append((cosine, example.start is not None, contains(sentence, example)))
        threshold = best_threshold(scored)

        ours: list[tuple[Example, str | None]] = []
        peer: list[tuple[Example, str | None]] = []
        quotes = exact = right_document = cited_answerable = 0
        seconds: list[float] = []
        with progress("asking", len(tested)) as advance:
            for example in tested:
                began = time.perf_counter()
                answer = collection.ask(example.question)
                seconds.append(time.perf_counter() - began)
                for citation in answer.citations:
                    quotes += 1
                    exact += collection.document_text(citation.file)[citation.start : citation.end] == citation.quote
                if answer.citations and example.start is not None:
                    cited_answerable += 1
                    right_document += answer.citations[0].file == f"{example.source}.md"
                ours.append((example, None if answer.refused else answer.answer))
                cosine, sentence = baseline(example)
                peer.append((example, sentence if cosine >= threshold else None))
                advance()
    our_rates, peer_rates = rates(ours), rates(peer)
    score: Callable[[dict[str, float]], float] = lambda r: (r["containment"] + r["refused_unanswerable"]) / 2  # noqa: E731
    for name, measured in (("ours", our_rates), ("baseline", peer_rates)):
        print(name, {key: round(value, 4) for key, value in measured.items()})
    result = {
        "name": "grounding",
        "ours": round(score(our_rates), 4),
        "peer": round(score(peer_rates), 4),
        "ratio": round(score(our_rates) / score(peer_rates), 3),
        "unit": "mean of answer containment on answerable and refusal rate on unanswerable questions",
        "bar": "every quote an exact substring, and above the baseline",
        "holds": exact == quotes and score(our_rates) > score(peer_rates),
        "notes": {
            "questions": len(tested),
            "exact_quotes": f"{exact}/{quotes}",
            "first_citation_in_the_right_document": f"{right_document}/{cited_answerable}",
            "seconds_a_question_median": round(float(np.median(seconds)), 3),
            "ours": {key: round(value, 4) for key, value in our_rates.items()},
            "baseline": {key: round(value, 4) for key, value in peer_rates.items()},
        },
    }
    print(json.dumps(result))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
