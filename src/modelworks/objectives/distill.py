"""Distillation: a student learns the distribution of a teacher, token by token.

For each token, with P the teacher's and Q the student's softmax of logits / temperature, the loss is

    (1 - hard) temperature^2 D(P, Q)  +  hard (-log q(target))  +  hidden |projection(x) - x_teacher|^2 / width

where D is, by `beta` (Agarwal et al. 2023, arXiv:2306.13649, eq. 1 and its limits, as TRL has them),

    0        forward KL(P || Q): the student covers all that the teacher says
    between  beta KL(P || M) + (1 - beta) KL(Q || M), M = beta P + (1 - beta) Q: generalised Jensen-Shannon
    1        reverse KL(Q || P): the student keeps to what the teacher is sure of

and temperature^2 keeps the gradient's size as the temperature rises (Hinton et al. 2015, arXiv:1503.02531, section 2).
Student and teacher that are equal have D = 0 and no gradient, which cross-entropy with soft targets has not as a value.

The teacher is a model that sits in the objective, or it is read from the batch, which then has (see `data.teacher`)

- `teacher_ids` (B, T, k): the teacher's likeliest tokens at each place;
- `teacher_logprobs` (B, T, k + 1): their log-probabilities at this temperature, and last that of all others together.

D is then between distributions of k + 1 events. It is never larger than D of whole distributions, and still 0 only
for a student that agrees.

Neither model's logits ever stand whole: both heads are applied to a chunk of tokens at a time.

Shapes: B rows, T tokens, N tokens that count, n tokens of a chunk, C hidden size, V vocabulary, k cached tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modelworks.core.errors import ConfigError
from modelworks.data.batch import Batch
from modelworks.kernels.chunked import chunked_sum
from modelworks.models.base import evaluating
from modelworks.objectives.base import Metrics, Ratio

# exp(-1e4) is 0, and 0 times it is not NaN.
_IMPOSSIBLE = -1e4


@dataclass(frozen=True)
class Distill:
    """See the module. Without a `teacher` the batch has what a cache knows of one.

    The teacher runs without dropout and gradient, whatever its mode. `hidden` above 0 also matches last hidden states;
    the model is then a `Projected` student, whose projection is learnt with it. Metrics: `divergence`, D alone, and
    `nll`, as without a teacher; `hidden` where there is such a term. Raises ConfigError for settings that make no
    loss, and, in a call, for a teacher of another vocabulary.
    """

    teacher: nn.Module | None = None
    beta: float = 0.0
    temperature: float = 1.0
    hard: float = 0.0
    hidden: float = 0.0
    chunk: int = 256

    def __post_init__(self) -> None:
        for name, holds, expected in (
            ("beta", 0 <= self.beta <= 1, "between 0 (forward KL) and 1 (reverse KL)"),
            ("temperature", self.temperature > 0, "above 0"),
            ("hard", 0 <= self.hard <= 1, "between 0 (the teacher alone) and 1 (the targets alone)"),
            ("hidden", self.hidden >= 0, "0 or more"),
            ("chunk", self.chunk >= 1, "at least 1"),
        ):
            if not holds:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected {expected}")
        if self.hidden and self.teacher is None:
            raise ConfigError("hidden needs a teacher: a cache of likely tokens has no hidden states")

    def weight(self, batch: Batch) -> Tensor:
        return batch["weights"].float().sum()

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        if self.teacher is None:
            sums_M = _ask(model, batch, lambda *student: self._sums(batch, student, None))
        else:
            learns = torch.is_grad_enabled()

            def with_teacher(x_BTC: Tensor, w_VC: Tensor) -> Tensor:
                with torch.set_grad_enabled(learns):
                    return _ask(model, batch, lambda *student: self._sums(batch, student, (x_BTC, w_VC)))

            # The student is called within the teacher's call: there, too, a head that is sharded is whole.
            with torch.no_grad(), evaluating(self.teacher):
                sums_M = _ask(self.teacher, batch, with_teacher)
        weight = self.weight(batch)
        names = ("divergence", "nll", *(["hidden"] if self.hidden else []))
        return sums_M[0], {name: Ratio(sums_M[at].detach(), weight) for at, name in enumerate(names, 1)}

    def _sums(self, batch: Batch, student: tuple[Tensor, ...], teacher: tuple[Tensor, Tensor] | None) -> Tensor:
        """Loss, divergence, nll and hidden term, summed over tokens; `student` is what its readout gets."""
        x_BTC, *shared = student
        if teacher is not None and len(teacher[1]) != len(shared[0]):
            raise ConfigError(
                f"the teacher's vocabulary is {len(teacher[1])} and the student's {len(shared[0])}: distilling "
                "distributions needs one tokenizer; sequence-level distillation does not"
            )
        if bool(self.hidden) != (len(shared) == 2):
            raise ConfigError("matching hidden states needs both: hidden above 0, and a Projected student")
        counts_N = batch["weights"].flatten() != 0

        def counting(tensor: Tensor) -> Tensor:
            return tensor.flatten(0, 1)[counts_N]

        targets_N, weights_N = counting(batch["targets"]), counting(batch["weights"]).float()
        if teacher is not None:
            theirs_NC, head_VC = counting(teacher[0]), teacher[1]
        else:
            ids_Nk, cached_Nk1 = counting(batch["teacher_ids"]), counting(batch["teacher_logprobs"]).float()

        def terms(rows: slice, x_nC: Tensor, shared: Sequence[Tensor]) -> Tensor:
            logits_nV = (x_nC @ shared[0].T).float()
            nll_n = logits_nV.logsumexp(-1) - logits_nV.gather(-1, targets_N[rows, None])[:, 0]
            ours = (logits_nV / self.temperature).log_softmax(-1)
            if teacher is not None:
                theirs = ((theirs_NC[rows] @ head_VC.T).float() / self.temperature).log_softmax(-1)
            else:
                ours, theirs = _events(ours, ids_Nk[rows]), cached_Nk1[rows]
            divergence_n = divergence(theirs, ours, self.beta)
            loss_n = (1 - self.hard) * self.temperature**2 * divergence_n + self.hard * nll_n
            parts = [divergence_n, nll_n]
            if self.hidden:
                parts.append((x_nC @ shared[1].T - theirs_NC[rows]).float().square().mean(-1))
                loss_n = loss_n + self.hidden * parts[-1]
            return (torch.stack([loss_n, *parts]) * weights_N[rows]).sum(-1)

        return chunked_sum(terms, counting(x_BTC), shared, self.chunk)


def divergence(teacher_logprobs: Tensor, student_logprobs: Tensor, beta: float) -> Tensor:
    """D of the module's docstring, over the last dimension."""
    theirs, ours = teacher_logprobs.clamp_min(_IMPOSSIBLE), student_logprobs.clamp_min(_IMPOSSIBLE)
    if beta == 0:
        return _kl(theirs, ours)
    if beta == 1:
        return _kl(ours, theirs)
    weights = theirs.new_tensor([beta, 1 - beta]).log()
    middle = torch.logaddexp(theirs + weights[0], ours + weights[1])
    return beta * _kl(theirs, middle) + (1 - beta) * _kl(ours, middle)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of log-probabilities."""
    return (p.exp() * (p - q)).sum(-1)


def _events(logprobs_nV: Tensor, ids_nk: Tensor) -> Tensor:
    """The log-probabilities of k tokens and, last, of all others together, (n, k + 1)."""
    others_nV = logprobs_nV.scatter(-1, ids_nk, -torch.inf)
    rest_n = others_nV.logsumexp(-1) if ids_nk.shape[-1] < logprobs_nV.shape[-1] else logprobs_nV.new_tensor(-torch.inf)
    return torch.cat((logprobs_nV.gather(-1, ids_nk), rest_n.expand(len(ids_nk))[:, None]), -1)


def _ask(model: nn.Module, batch: Batch, readout: Any) -> Any:
    return model(
        batch["input_ids"],
        positions_BT=batch.get("positions"),
        attention_mask_BS=batch.get("attention_mask"),
        readout=readout,
    )


class Projected(nn.Module):
    """A student with the projection of its last hidden states to a teacher's width; train this, then save `student`.

    It is called as the student is, and its `readout` gets the projection (teacher's width, student's width) as a third
    argument, so that the projection, too, is trained, sharded and checkpointed as a part of the model.
    """

    def __init__(self, student: nn.Module, teacher_width: int) -> None:
        super().__init__()
        self.student = student
        self.projection = nn.Linear(student.config.hidden_size, teacher_width, bias=False)  # type: ignore[union-attr, arg-type]

    def forward(self, input_ids_BT: Tensor, *, readout: Any, **more: Any) -> Any:
        return self.student(
            input_ids_BT, readout=lambda x_BTC, w_VC: readout(x_BTC, w_VC, self.projection.weight), **more
        )
