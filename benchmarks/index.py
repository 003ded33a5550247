"""Indexing Debian's Python documentation, beside LangChain with Chroma and the same MiniLM.

Each indexes the same pages in a process of its own, ours and the peer in turn: read HTML, cut into chunks of at most
256 of MiniLM's tokens, embed, store on disk. Time and peak memory are whole processes'. Afterwards five questions are
asked of our index.

    python benchmarks/index.py [--pages 60] [--rounds 1]      (--pages 0: all)

Needs Debian's package python3.11-doc and, in `.venv-bench-index`, what `index.peers.txt` lists; `make bench` sets the
latter up.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
CORPUS = Path("/usr/share/doc/python3.11/html")
PEER_PYTHON = ROOT / ".venv-bench-index" / "bin" / "python"
QUESTIONS = (
    "How do I make a list from another list with a comprehension?",
    "What does the with statement do?",
    "Which exception is raised when a dictionary key is not found?",
    "How can I read a CSV file with a header row?",
    "What is the default value of the maxsize parameter of lru_cache?",
)
OURS = """
import sys
from modelworks.retrieval.collection import Collection
with Collection(sys.argv[2]) as collection:
    collection.sync(sys.argv[1])
    print(sum(document.chunks for document in collection.documents()))
"""
PEER = """
import sys
from pathlib import Path
from langchain_chroma import Chroma
from langchain_community.document_loaders import BSHTMLLoader
from langchain_huggingface import HuggingFaceEmbeddings
from langchain_text_splitters import RecursiveCharacterTextSplitter
from transformers import AutoTokenizer
folder, store, model = sys.argv[1:4]
pages = [page for path in sorted(Path(folder).rglob("*.html"))
         for page in BSHTMLLoader(str(path), open_encoding="utf-8", bs_kwargs={"features": "lxml"}).load()]
splitter = RecursiveCharacterTextSplitter.from_huggingface_tokenizer(
    AutoTokenizer.from_pretrained(model), chunk_size=254, chunk_overlap=32)
chunks = splitter.split_documents(pages)
embeddings = HuggingFaceEmbeddings(model_name=model, encode_kwargs={"batch_size": 32, "normalize_embeddings": True})
database = Chroma(persist_directory=store, embedding_function=embeddings)
for start in range(0, len(chunks), 1000):
    database.add_documents(chunks[start:start + 1000])
print(len(chunks))
"""


def measure(command: list[str]) -> tuple[float, float, int]:
    """Seconds, peak MiB and the chunks that a process reports."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        raise SystemExit(f"{command[0]} failed with status {status}")
    return seconds, usage.ru_maxrss / 1024, int(output.split()[-1])


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--pages", type=int, default=60, help="an even sample of so many pages; 0 takes all")
    arguments.add_argument("--rounds", type=int, default=1)
    options = arguments.parse_args()
    for needed, how in ((CORPUS, "apt-get install python3.11-doc"), (PEER_PYTHON, "make bench NAME=index")):
        if not needed.exists():
            print(f"{needed} is missing: {how}", file=sys.stderr)
            return 2
    from modelworks.models.fetch import pull
    from modelworks.retrieval.collection import Collection

    model = str(pull("starter-embedder"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "pages"
        pages = sorted(CORPUS.rglob("*.html"))
        step = max(1, len(pages) // options.pages) if options.pages else 1
        for page in pages[::step]:
            target = folder / page.relative_to(CORPUS)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(page, target)
        ours, peer = [], []
        for turn in range(options.rounds):
            store = Path(scratch) / f"ours{turn}"
            ours.append(measure([sys.executable, "-c", OURS, str(folder), str(store)]))
            peer.append(measure([str(PEER_PYTHON), "-c", PEER, str(folder), str(Path(scratch) / f"peer{turn}"), model]))
        seconds = []
        with Collection(store) as collection:
            collection.search("warm up")
            for question in QUESTIONS:
                began = time.perf_counter()
                collection.search(question, k=8)
                seconds.append(time.perf_counter() - began)
                answer = collection.ask(question)
                place = answer.citations[0].file if answer.citations else ""
                print(f"{question}\n    {answer.answer[:200]} {place}")
    our_time, peer_time = (statistics.median(run[0] for run in runs) for runs in (ours, peer))
    our_memory, peer_memory = (statistics.median(run[1] for run in runs) for runs in (ours, peer))
    p50 = statistics.median(seconds)
    result = {
        "name": "index",
        "ours": round(our_time, 2),
        "peer": round(peer_time, 2),
        "ratio": round(peer_time / our_time, 3),
        "unit": "s to index (ratio: peer / ours)",
        "bar": "no slower, no more memory, and p50 of a search under 0.1 s",
        "holds": our_time <= peer_time and our_memory <= peer_memory and p50 < 0.1,
        "notes": {
            "pages": len(pages[::step]),
            "chunks": {"ours": ours[0][2], "peer": peer[0][2]},
            "peak_mib": {"ours": round(our_memory), "peer": round(peer_memory)},
            "memory_ratio": round(peer_memory / our_memory, 3),
            "search_p50_s": round(p50, 4),
            "peer": "LangChain, Chroma, sentence-transformers",
        },
    }
    print(json.dumps(result))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
