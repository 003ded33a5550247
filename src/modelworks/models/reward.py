"""A reward model: a language model's body whose head says one number of each token, not one of each of a vocabulary.

On disk it is Hugging Face's `...ForSequenceClassification` with one label, which reads the number at a text's last
token. Shapes: B rows, T tokens, C hidden size, S texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from modelworks.core.errors import ConfigError
from modelworks.models.base import LanguageModel, Pretrained, evaluating
from modelworks.models.gpt2 import GPT2, GPT2Config
from modelworks.models.llama import Llama, LlamaConfig

_CAUSAL, _SCORED = "ForCausalLM", "ForSequenceClassification"
# By the `architectures` entry of a config.json.
ARCHITECTURES = {
    "llama": f"Llama{_SCORED}",
    "mistral": f"Mistral{_SCORED}",
    "qwen2": f"Qwen2{_SCORED}",
    "qwen3": f"Qwen3{_SCORED}",
    "gpt2": f"GPT2{_SCORED}",
}


@dataclass(frozen=True)
class RewardConfig:
    """The body's config, tied, since there is no other head."""

    body: LlamaConfig | GPT2Config

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """Read a `config.json`. Raises ConfigError where it classifies into more than one, and for no such body."""
        labels = config.get("num_labels", len(config.get("id2label") or {"0": ""}))
        if labels != 1:
            raise ConfigError(f"it sorts into {labels} classes; a reward is one number (num_labels 1)")
        read = GPT2Config if config.get("model_type") == "gpt2" else LlamaConfig
        return cls(replace(read.from_hf(config), tie_word_embeddings=True))

    @property
    def num_hidden_layers(self) -> int:
        return self.body.num_hidden_layers

    @property
    def vocab_size(self) -> int:
        return self.body.vocab_size

    def to_hf(self) -> dict[str, Any]:
        config = self.body.to_hf()
        label = {"num_labels": 1, "id2label": {"0": "reward"}, "label2id": {"reward": 0}}
        return {**config, **label, "architectures": [ARCHITECTURES[config["model_type"]]]}


class RewardModel(Pretrained):
    """Called as a language model is; `readout` gets the head's matrix w_1C in the place of the vocabulary's."""

    def __init__(self, config: RewardConfig) -> None:
        super().__init__()
        self.config = config
        self.body: LanguageModel = Llama(config.body) if isinstance(config.body, LlamaConfig) else GPT2(config.body)
        self.score = nn.Linear(self.body.output_embedding().shape[1], 1, bias=False)
        nn.init.zeros_(self.score.weight)  # at first no answer is better than another

    @classmethod
    def from_language_model(cls, model: LanguageModel) -> Self:
        """One whose body has the model's weights (the same memory) and whose rewards are all 0.

        Raises ConfigError for a family that has no such architecture.
        """
        config = model.config
        if not isinstance(config, LlamaConfig | GPT2Config) or config.to_hf()["model_type"] not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise ConfigError(
                f"a {type(model).__name__} of type {config.to_hf()['model_type']} cannot score; {known} can"
            )
        with torch.device("meta"):
            made = cls(RewardConfig(replace(config, tie_word_embeddings=True)))
        weights = {name: value for name, value in model.state_dict(keep_vars=True).items() if name != "lm_head.weight"}
        made.body.load_state_dict(weights, assign=True)
        like = model.output_embedding()
        made.score.weight = nn.Parameter(torch.zeros(1, like.shape[1], dtype=like.dtype, device=like.device))
        made.tokenizer, made.source = model.tokenizer, model.source
        return made.train(model.training)

    @property
    def context_length(self) -> int:
        return self.body.context_length

    def forward(
        self,
        input_ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        attention_mask_BS: Tensor | None = None,
        readout: Callable[[Tensor, Tensor], Any] = nn.functional.linear,
    ) -> Any:
        """Each token's reward_BT1, as far as the text goes up to it; what else there is to say `LanguageModel` says."""
        return self.body(
            input_ids_BT,
            positions_BT=positions_BT,
            attention_mask_BS=attention_mask_BS,
            readout=lambda x_BTC, _: readout(x_BTC, self.score.weight),
        )

    def rewards(self, texts: Sequence[Sequence[int]], *, batch_tokens: int = 4096) -> Tensor:
        """The reward of each text of ids, at its last one, as rewards_S in float32; texts of like length go together.

        Raises ValueError for a text without ids.
        """
        if not all(texts):
            raise ValueError("a text has no ids, so there is no last one")
        device = self.score.weight.device
        found = torch.empty(len(texts))
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        with torch.inference_mode(), evaluating(self):
            while order:
                longest = len(texts[order[-1]])
                taken = [order.pop() for _ in range(min(len(order), max(1, batch_tokens // longest)))]
                ids_BT = torch.zeros((len(taken), longest), dtype=torch.long)
                mask_BT = torch.zeros_like(ids_BT)
                for row, at in enumerate(taken):
                    ids_BT[row, : len(texts[at])] = torch.tensor(texts[at])
                    mask_BT[row, : len(texts[at])] = 1
                rewards_BT = self(ids_BT.to(device), attention_mask_BS=mask_BT.to(device))[..., 0]
                last_B = torch.tensor([len(texts[at]) - 1 for at in taken], device=device)
                found[taken] = rewards_BT.gather(1, last_B[:, None])[:, 0].float().cpu()
        return found


def hf_name(name: str) -> str:
    """A parameter's name in Hugging Face's checkpoints."""
    return name.removeprefix("body.")
