"""Which class reads which checkpoint. A new family is its file and one line here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from modelworks.core.errors import ModelFileError
from modelworks.models import bert, gpt2, llama, moe, reward
from modelworks.models.base import Pretrained
from modelworks.models.config import ModelConfig

_NOTHING = r"(?!)"


@dataclass(frozen=True)
class Family:
    """How a module is built from a config, and how its parameters are called in Hugging Face's checkpoints.

    A checkpoint is matched by bare names: `prefix` (a regular expression) is cut off on both sides, since the same
    weights come with and without a wrapper's name. `renamed` pairs replace other spellings of old checkpoints.
    """

    config: type[ModelConfig]
    build: Callable[[Any], Pretrained]
    kind: type[Pretrained]
    hf_name: Callable[[str], str] = str
    prefix: str = ""
    renamed: tuple[tuple[str, str], ...] = ()
    transposed: str = _NOTHING
    """Bare names of matrices that checkpoints hold as (in, out)."""
    ignored: str = _NOTHING
    """Bare names of what checkpoints hold beside the model's parameters: buffers, other heads, other modalities."""
    split: Callable[[str, Tensor], Iterable[tuple[str, Tensor]]] = lambda name, tensor: ((name, tensor),)
    """A parameter or buffer as the named parts that checkpoints hold, each a view of it."""

    def stored(self, name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
        """What a checkpoint has for a parameter: names of its own, and for each the part of `tensor` that it holds."""
        return [(self.hf_name(part), view) for part, view in self.split(name, tensor)]

    def bare(self, checkpoint_name: str) -> str:
        name = re.sub(f"^(?:{self.prefix})", "", checkpoint_name)
        for old, new in self.renamed:
            name = name.replace(old, new)
        return name


_LLAMA = Family(
    llama.LlamaConfig,
    llama.Llama,
    llama.Llama,
    prefix=r"(language_model\.)?(model\.)?(language_model\.)?",
    ignored=r"rotary_emb\.inv_freq$|^vision_tower\.|^multi_modal_projector\.",
)
_GPT2 = Family(
    gpt2.GPT2Config,
    gpt2.GPT2,
    gpt2.GPT2,
    prefix=r"transformer\.",
    # nn.Linear is (out, in); GPT-2's own code had one-wide convolutions, (in, out).
    transposed=r"^h\.\d+\.(attn|mlp)\.c_\w+\.weight$",
    ignored=r"\.attn\.(masked_)?bias$",
)


def _moe(hf_name: Callable[[str], str]) -> Family:
    return Family(
        moe.MoEConfig,
        moe.MoE,
        moe.MoE,
        hf_name=hf_name,
        prefix=r"model\.",
        renamed=moe.RENAMED,
        ignored=r"rotary_emb\.inv_freq$",
        split=moe.split,
    )


_BERT_NAMES = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))
_BERT = Family(
    bert.BertConfig,
    bert.BertEncoder,
    bert.BertEncoder,
    hf_name=bert.hf_name,
    prefix=r"bert\.",
    renamed=_BERT_NAMES,
    ignored=r"^pooler\.|^cls\.|^embeddings\.position_ids$",
)
_BERT_READER = Family(
    bert.BertConfig,
    lambda config: bert.BertReader(bert.BertEncoder(config)),
    bert.BertReader,
    hf_name=bert.reader_hf_name,
    prefix=r"bert\.",
    renamed=_BERT_NAMES,
    ignored=r"^pooler\.|^embeddings\.position_ids$",
)


def _scored(body: Family) -> Family:
    return replace(
        body, config=reward.RewardConfig, build=reward.RewardModel, kind=reward.RewardModel, hf_name=reward.hf_name
    )


# By the `architectures` entry of a config.json.
FAMILIES: dict[str, Family] = {
    **dict.fromkeys(llama.ARCHITECTURES.values(), _LLAMA),
    "Gemma3ForConditionalGeneration": _LLAMA,
    **{name: _moe(moe.HF_NAMES.get(kind, str)) for kind, name in moe.ARCHITECTURES.items()},
    "GPT2LMHeadModel": _GPT2,
    **{name: _scored(_GPT2 if kind == "gpt2" else _LLAMA) for kind, name in reward.ARCHITECTURES.items()},
    "BertModel": _BERT,
    "BertForMaskedLM": _BERT,
    "BertForPreTraining": _BERT,
    "BertForQuestionAnswering": _BERT_READER,
}
# For a config.json that names no architecture.
_BY_MODEL_TYPE = {
    **llama.ARCHITECTURES,
    **moe.ARCHITECTURES,
    "gemma3": "Gemma3ForConditionalGeneration",
    "gpt2": "GPT2LMHeadModel",
    "bert": "BertModel",
}


def family_of(config: Mapping[str, Any]) -> Family:
    """The family that a `config.json` asks for; raise ModelFileError for one that is not here."""
    listed = config.get("architectures")
    if isinstance(listed, list) and listed:
        name = listed[0]
    else:
        name = _BY_MODEL_TYPE.get(str(config.get("model_type")), f"model_type={config.get('model_type')!r}")
    if not isinstance(name, str) or name not in FAMILIES:
        raise ModelFileError(f"unknown architecture {name}; supported are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def architecture_of(model: nn.Module) -> tuple[str, Family]:
    """The architecture that a module is saved as, and its family: what its config says where that is its class.

    Raises ModelFileError for a class that is not here.
    """
    named = model.config.to_hf().get("architectures", []) if isinstance(model, Pretrained) else []
    for name in (*named, *FAMILIES):
        if type(model) is FAMILIES[name].kind:
            return name, FAMILIES[name]
    raise ModelFileError(f"{type(model).__name__} is in no registered model family")
