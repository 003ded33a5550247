"""A `tokenizers.Tokenizer` from the metadata of a GGUF file, which states a vocabulary but no algorithm.

`tokenizer.ggml.model` names the algorithm (byte-level BPE, SentencePiece BPE, WordPiece); `tokenizer.ggml.pre` names
how a byte-level vocabulary cuts text into words before it merges. What each name stands for is llama.cpp's convention
(src/llama-vocab.cpp), and each pattern is the one of the `tokenizer.json` from which such files are converted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from modelworks.core.errors import ModelFileError
from modelworks.core.log import warn_once

# llama.cpp's token types, which are SentencePiece's.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SPACE: Final = "▁"  # how SentencePiece writes a space, U+2581

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_BLANKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_LLAMA3 = rf"{_CONTRACTION}|{_LETTERS}|\p{{N}}{{1,3}}|{_SYMBOLS}|{_BLANKS}"
_QWEN2 = rf"{_CONTRACTION}|{_LETTERS}|\p{{N}}|{_SYMBOLS}|{_BLANKS}"
_QWEN35 = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_BLANKS}"
)
# Words that change from upper to lower case once at most: "JSONParser" is "JSONParser", "jsonParser" "json|Parser".
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LEAD = r"[^\r\n\p{L}\p{N}]?"
_CASED = rf"{_LEAD}{_UPPER}*{_LOWER}+%s|{_LEAD}{_UPPER}+{_LOWER}*%s"
_PATHS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_TEKKEN = rf"{_CASED % ('', '')}|\p{{N}}|{_PATHS}|{_BLANKS}"
_GPT4O = rf"{_CASED % (f'{_CONTRACTION}?', f'{_CONTRACTION}?')}|\p{{N}}{{1,3}}|{_PATHS}|{_BLANKS}"
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_BLANKS}",
)


@dataclass(frozen=True, slots=True)
class _Pre:
    """How a byte-level vocabulary cuts text: split by each pattern in turn, then (`gpt2`) by GPT-2's own."""

    patterns: tuple[str, ...] = ()
    gpt2: bool = False
    digits: bool = False
    """Each digit is a word of its own."""
    ignore_merges: bool = False
    """A word that is in the vocabulary is one token, even where the merges do not lead there."""
    add_bos: bool = False
    """Whether BOS is added where the file does not say."""

    def build(self) -> pre_tokenizers.PreTokenizer:
        steps: list[Any] = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in self.patterns]
        if self.digits:
            steps.append(pre_tokenizers.Digits(individual_digits=True))
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.gpt2))
        return pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]


_GPT2 = _Pre(gpt2=True)
_FAMILIES: tuple[tuple[_Pre, str], ...] = (
    (_GPT2, "gpt-2 phi-2 olmo mpt jais trillion granite-docling exaone4 modern-bert mellum gigachat"),
    (_Pre(gpt2=True, digits=True), "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2"),
    (
        _Pre((_LLAMA3,), ignore_merges=True, add_bos=True),
        "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
    ),
    (_Pre((_LLAMA3,)), "dbrx smaug-bpe chatglm-bpe glm4"),
    (_Pre((_QWEN2,)), "qwen2 deepseek-r1-qwen stablelm2 megrez hunyuan kormo solar-open"),
    (_Pre((_QWEN35,)), "qwen35"),
    (_Pre((_TEKKEN,), ignore_merges=True, add_bos=True), "tekken"),
    (_Pre((_GPT4O,)), "gpt-4o llama4 kanana2 minimax-m2"),
    (_Pre(_DEEPSEEK3), "deepseek-v3 hunyuan-dense joyai-llm"),
)
_PRE: Final = {name: pre for pre, names in _FAMILIES for name in names.split()}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a GGUF file or a SentencePiece model states: `tokens` by id, with `scores` or `merges`, and `types`."""

    tokens: Sequence[str]
    types: Sequence[int]
    scores: Sequence[float] = ()
    merges: Sequence[str] = ()
    unk_id: int | None = None
    by_type: Mapping[int, list[int]] = field(init=False)

    def __post_init__(self) -> None:
        by_type: dict[int, list[int]] = {}
        for index, kind in enumerate(self.types):
            by_type.setdefault(int(kind), []).append(index)
        object.__setattr__(self, "by_type", by_type)

    def ids(self) -> dict[str, int]:
        """Ids by token. Raises `ModelFileError` where a token occurs twice: its second id could never be produced."""
        ids = {token: index for index, token in enumerate(self.tokens)}
        if len(ids) < len(self.tokens):
            twice = next(token for index, token in enumerate(self.tokens) if ids[token] != index)
            raise ModelFileError(f"the vocabulary has the token {twice!r} twice")
        return ids

    def of(self, *kinds: int) -> list[str]:
        return [self.tokens[index] for kind in kinds for index in self.by_type.get(kind, ())]


def add_tokens(backend: Tokenizer, vocabulary: Vocabulary) -> None:
    """Make control tokens special, and user-defined ones whole wherever they occur."""
    special = dict.fromkeys(vocabulary.of(CONTROL, UNKNOWN))
    if vocabulary.unk_id is not None:
        special[vocabulary.tokens[vocabulary.unk_id]] = None
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special if token])
    whole = (AddedToken(token, normalized=False, special=False) for token in vocabulary.of(USER_DEFINED) if token)
    backend.add_tokens(list(whole))


def bpe(vocabulary: Vocabulary, merges: Iterable[tuple[str, str]], **options: Any) -> Tokenizer:
    try:
        return Tokenizer(models.BPE(vocab=vocabulary.ids(), merges=list(merges), **options))
    except ModelFileError:
        raise
    except Exception as error:  # tokenizers raises plain Exception, e.g. for a merge of unknown parts
        raise ModelFileError(f"the tokenizer's merges do not fit its vocabulary: {error}") from error


def byte_level(vocabulary: Vocabulary, pre: _Pre) -> Tokenizer:
    """Byte-level BPE: words of the pre-tokenizer, each merged from single bytes."""
    # The parts of a merge are written in an alphabet without spaces; only a first part that is a space comes earlier.
    cuts = ((merge, merge.find(" ", 1)) for merge in vocabulary.merges)
    backend = bpe(vocabulary, ((merge[:cut], merge[cut + 1 :]) for merge, cut in cuts), ignore_merges=pre.ignore_merges)
    backend.pre_tokenizer = pre.build()
    backend.decoder = decoders.ByteLevel()
    add_tokens(backend, vocabulary)
    return backend


def sentencepiece(vocabulary: Vocabulary, *, add_prefix: bool) -> Tokenizer:
    """SentencePiece BPE (Kudo and Richardson 2018): spaces are `▁`, the pair whose union scores best merges first.

    The model states scores, not merges: each way to cut a token into two tokens is a merge, ranked by the token's
    score. Only normal tokens take part, so no merge ever ends in a control token. With `add_prefix`, a space is put
    before the text, and after each control token in it, as SentencePiece does to each piece that it is given.
    """
    tokens, ids = vocabulary.tokens, vocabulary.ids()
    normal = vocabulary.by_type.get(NORMAL, []) + vocabulary.by_type.get(UNUSED, [])
    names = {tokens[index] for index in normal}
    normal.sort(key=lambda index: -vocabulary.scores[index])
    merges = (
        (token[:cut], token[cut:])
        for token in (tokens[index] for index in normal)
        for cut in range(1, len(token))
        if token[:cut] in names and token[cut:] in names
    )
    backend = bpe(
        vocabulary,
        merges,
        unk_token=None if vocabulary.unk_id is None else tokens[vocabulary.unk_id],
        fuse_unk=True,
        byte_fallback=all(f"<0x{byte:02X}>" in ids for byte in range(256)),
    )
    spaces = normalizers.Replace(" ", SPACE)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if add_prefix else spaces
    steps: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if add_prefix else steps)
    add_tokens(backend, vocabulary)
    return backend


def _word_piece(vocabulary: Vocabulary) -> Tokenizer:
    """BERT's WordPiece. A GGUF marks the start of a word (`▁`) where `vocab.txt` marks what continues one (`##`)."""
    whole = {*vocabulary.of(CONTROL, UNKNOWN, USER_DEFINED)}

    def original(token: str) -> str:
        if token in whole or (token.startswith("[") and token.endswith("]")):
            return token
        return token[1:] if token.startswith(SPACE) else f"##{token}"

    respelled = Vocabulary([original(token) for token in vocabulary.tokens], vocabulary.types, unk_id=vocabulary.unk_id)
    unk = "[UNK]" if respelled.unk_id is None else respelled.tokens[respelled.unk_id]
    backend = Tokenizer(models.WordPiece(vocab=respelled.ids(), unk_token=unk, max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    add_tokens(backend, respelled)
    return backend


def frame(backend: Tokenizer, before: Sequence[int], after: Sequence[int]) -> None:
    """Have `backend` put these tokens around a text when special tokens are asked for."""
    names = {index: backend.id_to_token(index) for index in (*before, *after)}
    parts = [*(names[index] for index in before), "$A", *(names[index] for index in after)]
    backend.post_processor = processors.TemplateProcessing(
        single=parts, pair=[*parts, "$B:1"], special_tokens=[(name, index) for index, name in names.items()]
    )


def _stated(metadata: Mapping[str, Any], key: str, kind: type, default: Any = None) -> Any:
    """A value of `tokenizer.ggml.`, or the default where there is none. Raises where it is of another kind."""
    value: Any = metadata.get(f"tokenizer.ggml.{key}")
    if hasattr(value, "item"):  # numpy's scalars, whose bool is no number
        value = value.item()
    if value is not None and not isinstance(value, kind):
        raise ModelFileError(f"tokenizer.ggml.{key} is {type(value).__name__}, expected {kind.__name__}")
    return default if value is None else value


def _array(metadata: Mapping[str, Any], key: str, kind: type) -> list[Any]:
    values = list(metadata.get(f"tokenizer.ggml.{key}", ()))
    if not all(isinstance(value, kind) for value in values):
        raise ModelFileError(f"tokenizer.ggml.{key} has entries that are not {kind.__name__}")
    return values


def _vocabulary(metadata: Mapping[str, Any], unk_id: int | None) -> Vocabulary:
    tokens, merges = _array(metadata, "tokens", str), _array(metadata, "merges", str)
    types, scores = _array(metadata, "token_type", Integral), _array(metadata, "scores", Real)
    for key, values in (("token_type", types), ("scores", scores)):
        if values and len(values) != len(tokens):
            raise ModelFileError(f"tokenizer.ggml.{key} has {len(values)} entries for {len(tokens)} tokens")
    return Vocabulary(tokens, types or [NORMAL] * len(tokens), scores, merges, unk_id)


def read(metadata: Mapping[str, Any]) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer that a GGUF file's metadata describes, and the arguments of `text.Tokenizer` beside it.

    Raises `ModelFileError` for metadata that is incomplete, contradictory, or of a kind that is not supported.
    """
    model = metadata.get("tokenizer.ggml.model")
    size = len(metadata.get("tokenizer.ggml.tokens", ()))
    if not size:
        raise ModelFileError("the GGUF file has no vocabulary (tokenizer.ggml.tokens)")

    def token_id(key: str) -> int | None:
        value = _stated(metadata, f"{key}_token_id", Integral)
        if value is not None and not 0 <= int(value) < size:
            raise ModelFileError(f"tokenizer.ggml.{key}_token_id is {value}, but there are {size} tokens")
        return None if value is None else int(value)

    bos, eos, unk = token_id("bos"), token_id("eos"), token_id("unknown")
    vocabulary = _vocabulary(metadata, unk)
    add_bos, add_eos = False, False
    if model == "gpt2":
        pre = _byte_level_pre(_stated(metadata, "pre", str))
        if not vocabulary.merges:
            raise ModelFileError("the GGUF file has a byte-level vocabulary without merges (tokenizer.ggml.merges)")
        backend, add_bos = byte_level(vocabulary, pre), pre.add_bos
    elif model == "llama":
        if not vocabulary.scores:
            raise ModelFileError("the GGUF file has a SentencePiece vocabulary without scores (tokenizer.ggml.scores)")
        backend = sentencepiece(vocabulary, add_prefix=bool(_stated(metadata, "add_space_prefix", Integral, True)))
        add_bos = True
    elif model == "bert":
        backend = _word_piece(vocabulary)
        bos = backend.token_to_id("[CLS]") if bos is None else bos
        separator = token_id("seperator")  # llama.cpp's spelling
        eos = backend.token_to_id("[SEP]") if separator is None else separator
        add_bos = add_eos = True
    else:
        raise ModelFileError(f"the GGUF file's tokenizer is {model!r}; supported are gpt2, llama and bert")
    add_bos = _stated(metadata, "add_bos_token", Integral, add_bos) and bos is not None
    add_eos = _stated(metadata, "add_eos_token", Integral, add_eos) and eos is not None
    frame(backend, [bos] if add_bos and bos is not None else [], [eos] if add_eos and eos is not None else [])
    template = metadata.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise ModelFileError(f"tokenizer.chat_template is {type(template).__name__}, expected str")
    ends = (token_id("eot"), token_id("eom"))
    return backend, {
        "bos_id": bos,
        "eos_id": eos,
        "pad_id": token_id("padding"),
        "unk_id": unk,
        "stop_ids": [index for index in ends if index is not None],
        "chat_template": template,
    }


def _byte_level_pre(name: str | None) -> _Pre:
    if name is None or name == "default":
        warn_once(
            "the GGUF file does not say how its tokenizer cuts words (tokenizer.ggml.pre); taking GPT-2's way, "
            "so numbers and unusual spacing may be cut otherwise than in training"
        )
        return _GPT2
    if name not in _PRE:
        raise ModelFileError(f"the GGUF file's pre-tokenizer {name!r} is not supported; known are {', '.join(_PRE)}")
    return _PRE[name]
