"""Real text for benchmarks that train: proposals, novels, articles and speeches of ../shared/data, as tokenised shards.

A document is held out by the hash of its name, so all runs hold out the same ones, and no tokenizer has seen them.
"""

from __future__ import annotations

import hashlib
import re
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from modelworks.data.shards import Shards, write_shards
from modelworks.text.tokenizer import Tokenizer

DATA = Path(__file__).parents[3] / "shared" / "data" / "text"
HELD_OUT = 20  # one document in so many
_PIECE = 12_000  # characters of one long text that make a document


def corpus(work: Path, vocab_size: int) -> tuple[Tokenizer, Shards, Shards]:
    """A byte-level BPE tokenizer trained on the training documents, and those and the held-out ones tokenised with it.

    They are made once for each size and kept in `work`. Leaves with status 2 where the data is absent.
    """
    if not DATA.exists():
        print(f"{DATA} is absent", file=sys.stderr)
        raise SystemExit(2)
    home = work / f"texts-{vocab_size}"
    if not (home / "held").exists():
        parts: dict[bool, list[str]] = {False: [], True: []}
        for name, text in _documents():
            parts[int(hashlib.sha256(name.encode()).hexdigest(), 16) % HELD_OUT == 0].append(text)
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        backend.train_from_iterator(
            parts[False],
            trainers.BpeTrainer(
                vocab_size=vocab_size,
                special_tokens=["<|endoftext|>", "<|pad|>"],
                initial_alphabet=alphabet,
                show_progress=False,
            ),
        )
        made = Tokenizer(backend, eos_id=0, pad_id=1)
        made.save(home / "tokenizer")
        for is_held, folder in ((False, "train"), (True, "held")):
            with write_shards(home / folder, made) as writer:
                for text in parts[is_held]:
                    writer.add([*made.encode(text), 0])
    return Tokenizer.from_folder(home / "tokenizer"), Shards(home / "train"), Shards(home / "held")


def _documents() -> Iterator[tuple[str, str]]:
    """Names and texts; a long text comes in pieces that end with a paragraph."""
    for archive in ("peps.tar.gz", "standard_ebooks.tar.gz"):
        with tarfile.open(DATA / archive) as files:
            for member in files:
                if member.isfile() and member.name.endswith((".rst", ".xhtml")):
                    file = files.extractfile(member)
                    assert file is not None
                    text = file.read().decode("utf-8", "replace")
                    if member.name.endswith(".xhtml"):
                        text = unescape(re.sub(r"<[^>]+>", "", text))
                    yield from _pieces(member.name, text)
    for archive in ("nltk_inaugural.zip", "nltk_state_union.zip"):
        with zipfile.ZipFile(DATA / archive) as files:
            for name in files.namelist():
                if re.search(r"/\d{4}-.*\.txt$", name):
                    yield from _pieces(name, files.read(name).decode("utf-8", "replace"))
    for name in ("wikitext2_valid.txt", "tinyshakespeare.txt"):
        yield from _pieces(name, (DATA / name).read_text(encoding="utf-8"))


def _pieces(name: str, text: str) -> Iterator[tuple[str, str]]:
    piece = ""
    for number, paragraph in enumerate(re.split(r"(?<=\n)\s*\n", text)):
        piece += paragraph + "\n"
        if len(piece) >= _PIECE:
            yield f"{name}/{number}", piece
            piece = ""
    if piece.strip():
        yield f"{name}/end", piece
