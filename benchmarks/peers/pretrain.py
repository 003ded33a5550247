"""One side of `pretrain_speed.py`: trains a GPT of 30M parameters for some steps and prints the seconds of each.

    python benchmarks/peers/pretrain.py SIDE STEPS THREADS

Every side has 6 layers of width 384 with 6 heads, a vocabulary of 50,304, batches of 8 x 256 random tokens, AdamW, and
clips the gradient at 1; products are in bfloat16 by autocast. The sides:

    modelworks   its own loop
    nanogpt      a plain module of that shape and a plain loop, as nanoGPT's are: tied head, learned positions, whole
                 logits into torch's cross-entropy, fused AdamW
    litgpt       its GPT, with rotary positions and a head of its own, under Lightning Fabric, with its chunked loss
    trainer      transformers' Trainer over its GPT-2
    *-compiled   nanogpt and litgpt through torch.compile
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYERS, HEADS, WIDTH, VOCABULARY, ROWS, CONTEXT = 6, 6, 384, 50_304, 8, 256
LR, BETAS, DECAY, CLIP = 6e-4, (0.9, 0.95), 0.1, 1.0


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    while True:
        ids_BT = torch.randint(VOCABULARY, (ROWS, CONTEXT + 1), generator=generator)
        yield ids_BT[:, :-1], ids_BT[:, 1:]


def timed(steps: int, step: Callable[[Tensor, Tensor], Any]) -> tuple[list[float], float]:
    """The seconds of each step, and the last loss."""
    seconds, loss = [], math.nan
    for _, (inputs_BT, targets_BT) in zip(range(steps), batches()):
        began = time.perf_counter()
        loss = float(step(inputs_BT, targets_BT))
        seconds.append(time.perf_counter() - began)
    return seconds, loss


def run_modelworks(steps: int) -> tuple[list[float], float]:
    from modelworks.models.gpt2 import GPT2, GPT2Config
    from modelworks.objectives.causal_lm import CausalLM
    from modelworks.train.loop import TrainRecipe, train
    from modelworks.train.optim import OptimRecipe
    from modelworks.train.schedule import ScheduleRecipe

    class Random:
        def __iter__(self) -> Iterator[dict[str, Tensor]]:
            for inputs_BT, targets_BT in batches():
                yield {"input_ids": inputs_BT, "targets": targets_BT, "weights": torch.ones(inputs_BT.shape)}

        def state(self) -> dict[str, Any]:
            return {}

        def restore(self, state: dict[str, Any]) -> None:
            raise AssertionError("it is never resumed")

    shape = {"vocab_size": VOCABULARY, "n_positions": CONTEXT, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS}
    drops = dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), 0.0)
    model = GPT2(GPT2Config(n_inner=4 * WIDTH, activation_function="gelu", **shape, **drops))
    recipe = TrainRecipe(
        steps=steps,
        precision="bf16",
        clip=CLIP,
        optim=OptimRecipe(lr=LR, beta1=BETAS[0], beta2=BETAS[1], weight_decay=DECAY),
        schedule=ScheduleRecipe(name="constant"),
    )
    done = list(train(model, Random(), CausalLM(), recipe))
    return [step.seconds for step in done], float(done[-1].loss or math.nan)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x_BTC: Tensor) -> Tensor:
        B, T, C = x_BTC.shape
        q, k, v = (part.view(B, T, HEADS, -1).transpose(1, 2) for part in self.qkv(self.norm1(x_BTC)).split(WIDTH, 2))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_BTC = x_BTC + self.out(mixed.transpose(1, 2).reshape(B, T, C))
        return x_BTC + self.down(F.gelu(self.up(self.norm2(x_BTC))))


class PlainGPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        x_BTC = self.tokens(inputs_BT) + self.places(torch.arange(inputs_BT.shape[1]))
        for block in self.blocks:
            x_BTC = block(x_BTC)
        logits_BTV = F.linear(self.norm(x_BTC), self.tokens.weight)
        return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())


def run_nanogpt(steps: int, *, compiled: bool = False) -> tuple[list[float], float]:
    model: Any = PlainGPT()
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    small = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": small, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, fused=True)
    called = torch.compile(model) if compiled else model

    def step(inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            loss = called(inputs_BT, targets_BT)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return timed(steps, step)


def run_litgpt(steps: int, *, compiled: bool = False) -> tuple[list[float], float]:
    import lightning as L
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.utils import chunked_cross_entropy

    config = Config(
        block_size=CONTEXT,
        vocab_size=VOCABULARY,
        padded_vocab_size=VOCABULARY,
        n_layer=LAYERS,
        n_head=HEADS,
        n_embd=WIDTH,
        rotary_percentage=1.0,
        parallel_residual=False,
    )
    fabric = L.Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    with fabric.init_module():
        model: Any = GPT(config)
    model.max_seq_length = CONTEXT
    model = fabric.setup(torch.compile(model) if compiled else model)
    optimizer = fabric.setup_optimizers(torch.optim.AdamW(model.parameters(), lr=LR, betas=BETAS, weight_decay=DECAY))

    def step(inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        loss = chunked_cross_entropy(model(inputs_BT), targets_BT)
        fabric.backward(loss)
        fabric.clip_gradients(model, optimizer, max_norm=CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return timed(steps, step)


def run_trainer(steps: int) -> tuple[list[float], float]:
    import tempfile

    from torch.utils.data import IterableDataset
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

    class Rows(IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[dict[str, Tensor]]:
            for inputs_BT, _ in batches():  # the model shifts its labels itself
                for row in inputs_BT:
                    yield {"input_ids": row, "labels": row}

    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    shape = {"vocab_size": VOCABULARY, "n_positions": CONTEXT, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS}
    drops = dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), 0.0)
    model = GPT2LMHeadModel(GPT2Config(activation_function="gelu", **shape, **drops))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps + 1,
            per_device_train_batch_size=ROWS,
            bf16=True,
            use_cpu=True,
            optim="adamw_torch_fused",
            learning_rate=LR,
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            weight_decay=DECAY,
            max_grad_norm=CLIP,
            lr_scheduler_type="constant",
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        done = Trainer(model, arguments, train_dataset=Rows(), callbacks=[Clock()]).train()
    return [later - earlier for earlier, later in pairwise(times)], float(done.training_loss)


def main() -> None:
    side, steps, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    name, _, compiled = side.partition("-")
    run = {"modelworks": run_modelworks, "nanogpt": run_nanogpt, "litgpt": run_litgpt, "trainer": run_trainer}[name]
    seconds, loss = run(steps, compiled=True) if compiled else run(steps)  # type: ignore[operator]
    print(json.dumps({"seconds": seconds, "loss": loss, "tokens": ROWS * CONTEXT}))


if __name__ == "__main__":
    main()
