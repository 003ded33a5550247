"""One tokenizer for training, evaluation and serving, over the `tokenizers` library.

Two rules that toolkits of this kind have broken, each to the harm of a model (see `tests/text`):
* A text gets BOS once, even where it already starts with it (a rendered chat template, say).
* A control token such as `<|im_end|>` comes from a template or from an id, never from a user's text: `encode` reads
  control tokens in a text only when told `parse_special=True`.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import tokenizers

from modelworks.core.errors import ModelFileError
from modelworks.text import gguf, sentencepiece
from modelworks.text.bytelevel import spelled_bytes

# Control tokens that end a turn or a document, by the names that model families gave them; a model may write any of its
# own, whichever of them its configuration calls EOS.
_END_NAMES: Final = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<eos>",
    "</s>",
    "<|end|>",
    "<|eom_id|>",
)
_PAD_NAMES: Final = ("<pad>", "<|pad|>", "[PAD]", "<|finetune_right_pad_id|>", "<|endoftext|>")
_SURROGATES: Final = re.compile("[\ud800-\udfff]")


class Tokenizer:
    """Text to ids and back.

    `bos_id`, `eos_id`, `pad_id` and `unk_id` are None where the model has none. `pad_id` always differs from `eos_id`:
    a file that pads with EOS gets another of its control tokens, or None. `stop_ids` are all tokens that end a turn,
    EOS included; `control_ids` all that user text cannot produce. `backend` is the `tokenizers.Tokenizer`.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        bos_id: int | None = None,
        eos_id: int | None = None,
        pad_id: int | None = None,
        unk_id: int | None = None,
        stop_ids: Iterable[int] = (),
        chat_template: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        backend.no_truncation()  # some tokenizer.json files keep the limits of whatever they were last used for
        backend.no_padding()
        self.backend = backend
        self.bos_id, self.eos_id, self.unk_id = bos_id, eos_id, unk_id
        self.chat_template = chat_template
        self._settings = dict(settings or {})
        self._lock = threading.Lock()  # guards backend.encode_special_tokens between its setting and its use
        self._bytes: dict[int, bytes] = {}
        added = backend.get_added_tokens_decoder()
        self._added = {index: token.content for index, token in added.items()}
        self._control = {token.content: index for index, token in added.items() if token.special}
        self.control_ids = frozenset(self._control.values())
        self.vocab_size = max([backend.get_vocab_size(with_added_tokens=False) - 1, *added]) + 1
        ends = {*stop_ids, *self._control_named(_END_NAMES)}
        self.stop_ids: frozenset[int] = frozenset(ends if eos_id is None else ends | {eos_id})
        self.pad_id = self._distinct_pad(pad_id)
        probe = backend.encode("a")
        mask = probe.special_tokens_mask
        core = mask.index(0) if 0 in mask else len(mask)
        self._before = probe.ids[:core]
        self._after = probe.ids[core + mask[core:].count(0) :]

    @cached_property
    def control_pattern(self) -> re.Pattern[str]:
        """What finds the spelling of a control token in a text, the longest where several begin."""
        spellings = sorted(self._control, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, spellings)) or r"(?!)")

    def control_id(self, spelling: str) -> int:
        """The id of a control token."""
        return self._control[spelling]

    def _control_named(self, names: Sequence[str]) -> list[int]:
        return [self._control[name] for name in names if name in self._control]

    def _distinct_pad(self, stated: int | None) -> int | None:
        if stated is not None and stated != self.eos_id:
            return stated
        named = (index for index in self._control_named(_PAD_NAMES) if index != self.eos_id)
        return next(named, self.unk_id if self.unk_id != self.eos_id else None)

    def __getstate__(self) -> dict[str, Any]:
        """For copies of a model that carries its tokenizer, and for worker processes."""
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    # --- sources ------------------------------------------------------------------------------------------------------

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Tokenizer:
        """From a GGUF file's metadata (`GGUFFile(path).metadata`).

        Raises `ModelFileError` for an incomplete or contradictory vocabulary, or an unsupported kind of tokenizer.
        """
        backend, arguments = gguf.read(metadata)
        return cls(backend, **arguments)

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """From a folder in the Hugging Face layout: `tokenizer.json`, or else a SentencePiece `tokenizer.model`.

        Beside it are read, where present: `tokenizer_config.json`, `special_tokens_map.json`, `chat_template.jinja`
        (it wins over the configuration's), and the EOS ids of `generation_config.json` and `config.json`. What is put
        around a text is for `tokenizer.json` to say (as in transformers 5); `add_bos_token` and `add_eos_token` decide
        for a `tokenizer.model`, which cannot say it.
        Raises `ModelFileError` for a folder without a tokenizer or with a damaged one.
        """
        folder = Path(folder)
        settings = _read_json(folder / "special_tokens_map.json") | _read_json(folder / "tokenizer_config.json")
        file = folder / "tokenizer.json"
        arguments: dict[str, Any] = {}
        if file.is_file():
            backend = _read_backend(file)
        elif (folder / "tokenizer.model").is_file():
            backend, arguments = sentencepiece.read(folder / "tokenizer.model")
            bos, eos = arguments["bos_id"], arguments["eos_id"]
            add_bos, add_eos = settings.get("add_bos_token", True), settings.get("add_eos_token", False)
            gguf.frame(
                backend,
                [bos] if add_bos and bos is not None else [],
                [eos] if add_eos and eos is not None else [],
            )
        else:
            raise ModelFileError(f"{folder}: no tokenizer.json and no tokenizer.model")

        ids = {name: arguments.get(f"{name}_id") for name in ("bos", "eos", "pad", "unk")}
        for name in ids:
            if (text := _token_text(settings.get(f"{name}_token"))) is not None:
                ids[name] = backend.token_to_id(text)
        ends = [*_ids_in(folder / "generation_config.json", "eos"), *_ids_in(folder / "config.json", "eos")]
        if ids["eos"] is None and ends:
            ids["eos"] = ends[0]
        return cls(
            backend,
            **{f"{name}_id": index for name, index in ids.items()},
            stop_ids=ends,
            chat_template=_chat_template(folder, settings),
            settings=settings,
        )

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json` (chat template included), which transformers reads too."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(folder / "tokenizer.json"))
        special = {
            "bos_token": self.bos_id,
            "eos_token": self.eos_id,
            "pad_token": self.pad_id,
            "unk_token": self.unk_id,
        }
        settings = {
            **self._settings,
            # The class that takes tokenizer.json at its word; a model's own may rebuild parts of it from its defaults.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "add_bos_token": self.add_bos,
            "add_eos_token": self.add_eos,
            **{key: None if index is None else self.backend.id_to_token(index) for key, index in special.items()},
        }
        if not {*self._before, *self._after} <= {self.bos_id, self.eos_id}:
            # [CLS] and [SEP] are stated by tokenizer.json alone; the two flags would replace them.
            del settings["add_bos_token"], settings["add_eos_token"]
        settings.pop("added_tokens_decoder", None)  # tokenizer.json says it, and two sources can differ
        settings.pop("chat_template", None)
        if self.chat_template is not None:
            settings["chat_template"] = self.chat_template
        text = json.dumps(settings, ensure_ascii=False, indent=2)
        (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")

    # --- text to ids --------------------------------------------------------------------------------------------------

    @property
    def add_bos(self) -> bool:
        """Whether `encode` puts BOS before a text."""
        return self.bos_id is not None and self.bos_id in self._before

    @property
    def add_eos(self) -> bool:
        """Whether `encode` puts EOS after a text."""
        return self.eos_id is not None and self.eos_id in self._after

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """The ids of a text.

        `add_special` adds what the model expects around it (BOS, EOS, [CLS] ... [SEP]), each only where it is not there
        yet. `parse_special` reads the spelling of a control token as that token; without it, it is text like any other.
        """
        ids, _ = self.encode_with_offsets(text, parse_special=parse_special)
        return self._framed(ids) if add_special else ids

    def encode_batch(
        self, texts: Sequence[str], *, add_special: bool = True, parse_special: bool = False
    ) -> list[list[int]]:
        """`encode` for many texts, on all cores."""
        with self._lock:
            self.backend.encode_special_tokens = not parse_special
            encoded = self.backend.encode_batch([_clean(text) for text in texts], add_special_tokens=False)
        rows: list[list[int]] = [encoding.ids for encoding in encoded]
        if not parse_special:
            rows = [
                row if self.control_ids.isdisjoint(row) else self.encode(text, add_special=False)
                for row, text in zip(rows, texts)
            ]
        return [self._framed(row) for row in rows] if add_special else rows

    def encode_with_offsets(
        self, text: str, *, parse_special: bool = False, at_start: bool = True
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids of a text without anything added, and for each the characters (start, end) of `text` that it covers.

        Tokens that share a character (the bytes of an emoji) have equal offsets. `at_start` says that the text is the
        first of its sequence, where some tokenizers put a space.
        """
        text = _clean(text)
        backend = self.backend if at_start else self._inner
        with self._lock:
            backend.encode_special_tokens = not parse_special
            encoding = backend.encode(text, add_special_tokens=False)
        ids, offsets = encoding.ids, encoding.offsets
        if parse_special or self.control_ids.isdisjoint(ids):
            return ids, offsets
        # Some algorithms (unigram, whole-word lookup) can arrive at a control token by its letters: cut it in two.
        for index, (start, end) in zip(ids, offsets):
            if index in self.control_ids and text[start:end] == self._added[index] and end - start > 1:
                left = self.encode_with_offsets(text[: start + 1], at_start=at_start)
                right = self.encode_with_offsets(text[start + 1 :], at_start=False)
                shift = start + 1
                return left[0] + right[0], left[1] + [(a + shift, b + shift) for a, b in right[1]]
        return ids, offsets

    def _framed(self, ids: list[int]) -> list[int]:
        before, after = self._before, self._after
        if before and ids[: len(before)] == before:
            before = []
        if after and ids[-len(after) :] == after:
            after = []
        return [*before, *ids, *after]

    @cached_property
    def _inner(self) -> tokenizers.Tokenizer:
        """The backend for text that follows other text: without the space that is put before a first word."""
        spec = json.loads(self.backend.to_str())
        if not _drop_first_space(spec.get("pre_tokenizer")):
            return self.backend
        return tokenizers.Tokenizer.from_str(json.dumps(spec))

    # --- ids to text --------------------------------------------------------------------------------------------------

    def decode(self, ids: Iterable[int], *, skip_special: bool = True, continuation: bool = False) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD, one for each maximal part (Unicode 3.9, U+FFFD).

        SentencePiece vocabularies put a space before a text, which is taken away again; with `continuation` the ids go
        on from earlier text, and the space stays.
        """
        if self._byte_exact is None:
            return str(self.backend.decode(list(ids), skip_special_tokens=skip_special))
        kept = (self.token_bytes(index) for index in ids if not (skip_special and index in self.control_ids))
        text = b"".join(kept).decode("utf-8", errors="replace")
        return text.removeprefix(" ") if self.adds_prefix_space and not continuation else text

    def token_bytes(self, index: int) -> bytes:
        """The exact bytes of a token; empty for ids beyond the vocabulary, which only pad an embedding matrix.

        Raises `ModelFileError` for vocabularies whose tokens have no bytes of their own, such as BERT's WordPiece.
        """
        if (known := self._bytes.get(index)) is not None:
            return known
        token = self.backend.id_to_token(index) if index >= 0 else None
        value = b"" if token is None else self._spelled(index, token)
        self._bytes[index] = value
        return value

    def _spelled(self, index: int, token: str) -> bytes:
        if self._byte_exact == "bytelevel":
            return self._added[index].encode() if index in self._added else spelled_bytes(token)
        if self._byte_exact == "sentencepiece":
            if index not in self._added and re.fullmatch("<0x[0-9A-F]{2}>", token):
                return bytes([int(token[3:5], 16)])
            return token.replace(gguf.SPACE, " ").encode()
        raise ModelFileError("this tokenizer's tokens are not pieces of text (WordPiece), so they have no bytes")

    @cached_property
    def _decoder(self) -> list[dict[str, Any]]:
        decoder = json.loads(self.backend.decoder.__getstate__()) if self.backend.decoder is not None else {}
        return list(decoder.get("decoders", [decoder]))

    @cached_property
    def _byte_exact(self) -> str | None:
        """How tokens spell bytes, or None where a text is more than its tokens side by side."""
        kinds = {step.get("type") for step in self._decoder}
        if kinds == {"ByteLevel"}:
            return "bytelevel"
        return "sentencepiece" if kinds & {"ByteFallback", "Metaspace"} else None

    @cached_property
    def adds_prefix_space(self) -> bool:
        """Whether a text's first token carries a space that is not in the text."""
        return any(
            (step.get("type") == "Strip" and step.get("start") == 1)
            or (step.get("type") == "Metaspace" and step.get("prepend_scheme", "always") != "never")
            for step in self._decoder
        )


def _clean(text: str) -> str:
    """Half a surrogate pair (from broken JSON, say) is no character and has no UTF-8."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def _drop_first_space(pre_tokenizer: dict[str, Any] | None) -> bool:
    """Turn the prefix space off where a pre-tokenizer adds it to the first word alone; say whether it did."""
    if not pre_tokenizer:
        return False
    if pre_tokenizer.get("prepend_scheme") == "first":
        pre_tokenizer["prepend_scheme"] = "never"
        return True
    return any(_drop_first_space(step) for step in pre_tokenizer.get("pretokenizers", ()))


def _read_json(file: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no file."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{file}: {error}") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"{file}: not a JSON object")
    return value


def _read_backend(file: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises plain Exception for a missing or damaged file
        raise ModelFileError(f"{file}: {error}") from error


def _token_text(value: Any) -> str | None:
    """A token's text as configurations state it: a string, or an object with its `content`."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _ids_in(file: Path, name: str) -> list[int]:
    value = _read_json(file).get(f"{name}_token_id")
    return [index for index in (value if isinstance(value, list) else [value]) if isinstance(index, int)]


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several by name
        template = next((entry.get("template") for entry in template if entry.get("name") == "default"), None)
    if template is not None and not isinstance(template, str):
        raise ModelFileError(f"{folder / 'tokenizer_config.json'}: chat_template is no text")
    return template
