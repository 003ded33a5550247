"""Next-token prediction: pre-training, and supervised fine-tuning, which differ in their batches' weights alone."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from modelworks.data.batch import Batch
from modelworks.kernels.cross_entropy import TokenLosses, linear_cross_entropy
from modelworks.objectives.base import Metrics, Ratio


@dataclass(frozen=True)
class CausalLM:
    """-log p(target), times each target's weight; with `z_loss`, PaLM's penalty on the softmax's normaliser.

    Metrics: `nll`, and `z`, the mean of log(Z)^2, where there is a z-loss.
    """

    z_loss: float = 0.0

    def weight(self, batch: Batch) -> Tensor:
        return batch["weights"].float().sum()

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        targets_N, weights_N = batch["targets"].flatten(), batch["weights"].flatten()

        def readout(x_BTC: Tensor, w_VC: Tensor) -> TokenLosses:
            return linear_cross_entropy(x_BTC.flatten(0, 1), w_VC, targets_N, weights_N, z_loss=self.z_loss)

        losses = model(
            batch["input_ids"],
            positions_BT=batch.get("positions"),
            attention_mask_BS=batch.get("attention_mask"),
            readout=readout,
        )
        weight = self.weight(batch)
        metrics = {"nll": Ratio(losses.nll, weight)}
        if self.z_loss:
            metrics["z"] = Ratio(losses.z, weight)
        return losses.loss, metrics
