"""nDCG@10 of word search, vector search and their fusion on SciFact and NFCorpus, beside bm25s in the same run.

Each abstract is one chunk, title before text, as BEIR's baselines have it; the search is `Collection.search`, with
MiniLM's first 256 tokens. The bar: fusion beats the better of the two single searches on each set. Its weight was
chosen on other data: `--tune` shows how, on Natural Questions and SQuAD2.

The first run embeds 8,816 abstracts, about twenty minutes on one core; the stores stay in the cache folder.
"""

from __future__ import annotations

import argparse
import ast
import csv
import functools
import gzip
import hashlib
import io
import json
import re
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modelworks.core.paths import cache_dir
from modelworks.data.document import Document, Page
from modelworks.retrieval import fuse
from modelworks.retrieval.chunk import Chunk
from modelworks.retrieval.collection import Collection, Mode
from modelworks.retrieval.database import SCHEMA_VERSION
from modelworks.retrieval.embed import EncoderEmbedder
from modelworks.retrieval.store import FileState
from modelworks.text.words import index_form

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
K = 10
MODES: tuple[Mode, ...] = ("lexical", "dense", "fused")
WEIGHTS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85)


@dataclass(frozen=True)
class TestSet:
    """Documents (id, title, text), queries by id, and graded judgements by query and document."""

    documents: list[tuple[str, str, str]]
    queries: dict[str, str]
    judgements: dict[str, dict[str, int]]


def scifact() -> TestSet:
    def sentences(array: str) -> list[str]:
        """The strings of a printed NumPy array, which has no commas."""
        literals = re.finditer(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", array)
        return [ast.literal_eval(literal.group()).strip() for literal in literals]

    csv.field_size_limit(1 << 30)
    with zipfile.ZipFile(DATA / "retrieval/scifact_corpus_csv.zip") as archive:
        rows = csv.DictReader(io.TextIOWrapper(archive.open("corpus_train.csv"), "utf-8"))
        documents = [(row["doc_id"], row["title"], " ".join(sentences(row["abstract"]))) for row in rows]
    with gzip.open(DATA / "retrieval/scifact_queries.tsv.gz", "rt", encoding="utf-8") as file:
        queries = dict(line.rstrip("\n").split("\t") for line in file)
    lines = (DATA / "retrieval/scifact_qrels.txt").read_text().splitlines()
    return TestSet(documents, queries, judgements_of([(q, d, s) for q, _, d, s in map(str.split, lines)]))


def nfcorpus() -> TestSet:
    with zipfile.ZipFile(DATA / "retrieval/nfcorpus.zip") as archive:
        corpus = map(json.loads, archive.open("nfcorpus/corpus.jsonl"))
        documents = [(row["_id"], row["title"], row["text"]) for row in corpus]
        texts = {row["_id"]: row["text"] for row in map(json.loads, archive.open("nfcorpus/queries.jsonl"))}
        lines = archive.read("nfcorpus/qrels/test.tsv").decode().splitlines()[1:]
    judgements = judgements_of([(q, d, s) for q, d, s in (line.split("\t") for line in lines)])
    return TestSet(documents, {query: texts[query] for query in judgements}, judgements)


def natural_questions() -> TestSet:
    with gzip.open(DATA / "qa/nq_oracle_passages.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    documents = [(str(i), row["ctxs"][0]["title"], row["ctxs"][0]["text"]) for i, row in enumerate(rows)]
    queries = {str(i): row["question"] for i, row in enumerate(rows)}
    return TestSet(documents, queries, {query: {query: 1} for query in queries})


def squad() -> TestSet:
    articles = json.loads((DATA / "retrieval/squad2_dev_subset.json").read_text())["data"]
    documents, queries, judgements = [], {}, {}
    for number, paragraph in enumerate(each for article in articles for each in article["paragraphs"]):
        documents.append((str(number), "", paragraph["context"]))
        for question in paragraph["qas"]:
            if not question["is_impossible"]:
                queries[question["id"]] = question["question"]
                judgements[question["id"]] = {str(number): 1}
    return TestSet(documents, queries, judgements)


def judgements_of(rows: Sequence[tuple[str, str, str]]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for query, document, grade in rows:
        found.setdefault(query, {})[document] = int(grade)
    return found


class Remembering(EncoderEmbedder):
    """Embeds all queries at once, so that no search waits for its own."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, NDArray[np.float32]] = {}

    def learn(self, texts: Sequence[str]) -> None:
        self.known = dict(zip(texts, super().embed(texts), strict=True))

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if all(text in self.known for text in texts):
            return np.stack([self.known[text] for text in texts])
        return super().embed(texts)


def index(name: str, test: TestSet, embedder: Remembering) -> Collection:
    """The test set's documents as a collection, kept between runs."""
    content = hashlib.sha256(json.dumps(test.documents).encode()).hexdigest()[:12]
    collection = Collection(
        cache_dir() / "benchmarks" / "retrieval-quality" / f"{name}-{content}-{SCHEMA_VERSION}", embedder
    )
    if len(collection.documents()) < len(test.documents):
        for identity, title, text in test.documents:
            whole = f"{title}\n{text}" if title else text
            collection._store.put_document(
                identity,
                name,
                FileState(identity.encode(), len(whole), None),
                Document(whole, (Page(1, 0, len(whole)),), (), "text/plain"),
                [Chunk(0, len(whole), index_form(whole), title)],
            )
    collection.embed(progress=True)
    embedder.learn([index_form(query) for query in test.queries.values()])
    return collection


def ndcg(ranking: Sequence[str], grades: dict[str, int]) -> float:
    """nDCG@10 with the grade itself as gain, as trec_eval has it."""
    discounts = 1 / np.log2(np.arange(2, K + 2))
    gained = sum(grades.get(document, 0) * discount for document, discount in zip(ranking, discounts))
    ideal = sum(grade * discount for grade, discount in zip(sorted(grades.values(), reverse=True), discounts))
    return gained / ideal if ideal else 0.0


def mean_ndcg(test: TestSet, search: Callable[[str], Sequence[str]]) -> float:
    return float(np.mean([ndcg(search(query), test.judgements[key]) for key, query in test.queries.items()]))


def searching(collection: Collection, mode: Mode) -> Callable[[str], list[str]]:
    return lambda query: [hit.document for hit in collection.search(query, K, mode)]


def bm25s_search(test: TestSet) -> Callable[[str], list[str]]:
    import bm25s
    import Stemmer

    tokenize = functools.partial(
        bm25s.tokenize, stopwords="en", stemmer=Stemmer.Stemmer("english"), show_progress=False
    )
    retriever = bm25s.BM25()
    retriever.index(tokenize([f"{title} {text}" for _, title, text in test.documents]), show_progress=False)

    def search(query: str) -> list[str]:
        found, scores = retriever.retrieve(tokenize(query), k=K, show_progress=False)
        return [test.documents[i][0] for i, score in zip(found[0], scores[0]) if score > 0]

    return search


def tune() -> int:
    """Print fusion's nDCG@10 by its weight on the sets that chose it."""
    plain = fuse.weighted_sum
    by_set = []
    for name, make in {"natural-questions": natural_questions, "squad2": squad}.items():
        test = make()
        with index(name, test, Remembering()) as collection:
            singles = ", ".join(f"{mode} {mean_ndcg(test, searching(collection, mode)):.4f}" for mode in MODES[:2])
            print(f"{name}: {len(test.queries)} queries, {singles}", flush=True)
            by_weight = []
            for weight in WEIGHTS:
                fuse.weighted_sum = functools.partial(plain, dense_weight=weight)
                by_weight.append(mean_ndcg(test, searching(collection, "fused")))
            by_set.append(by_weight)
    fuse.weighted_sum = plain
    for weight, scores in zip(WEIGHTS, zip(*by_set)):
        print(f"weight {weight:.2f}: " + "  ".join(f"{score:.4f}" for score in (*scores, np.mean(scores))))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tune", action="store_true", help="show how the fusion's weight was chosen")
    if parser.parse_args().tune:
        return tune()
    notes, ratios, ours, peers = [], [], [], []
    for name, make in {"scifact": scifact, "nfcorpus": nfcorpus}.items():
        test = make()
        with index(name, test, Remembering()) as collection:
            scores: dict[str, float] = {mode: mean_ndcg(test, searching(collection, mode)) for mode in MODES}
        scores["bm25s"] = mean_ndcg(test, bm25s_search(test))
        line = ", ".join(f"{key} {value:.4f}" for key, value in scores.items())
        print(f"{name}: {len(test.queries)} queries, {len(test.documents)} documents: {line}", flush=True)
        notes.append(f"{name}: {line}")
        single = max(scores["lexical"], scores["dense"])
        ratios.append(scores["fused"] / single)
        ours.append(scores["fused"])
        peers.append(single)
    result = {
        "name": "retrieval-quality",
        "ours": round(float(np.mean(ours)), 4),
        "peer": round(float(np.mean(peers)), 4),
        "ratio": round(min(ratios), 4),
        "unit": "nDCG@10",
        "bar": "fused above the better single search on each set: ratio > 1",
        "holds": min(ratios) > 1,
        "notes": "; ".join(notes)
        + f"; ratio is the lesser of the two; fusion weight {fuse.DENSE_WEIGHT} from other data",
    }
    print(json.dumps(result))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
