"""A tiny model and tiny text for the training tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from coterie.config import (
    AttentionConfig,
    BalanceConfig,
    BlockConfig,
    FeedForwardConfig,
    ModelConfig,
    MoEConfig,
    RouterConfig,
)
from coterie.config.run import OptimiserConfig, ScheduleConfig
from coterie.data.rows import Row
from coterie.nn.transformer import Transformer
from coterie.train import Batch, Callback, CrossEntropy, Objective, Trainer, build_optimiser, multiplier
from tests.arithmetic import FORWARD_AND_BACKWARD, mean_sums, model_sums

VOCAB = 31
STEPS = 12
ROW = 24
BATCH_TOKENS = 4 * ROW


def tiny_config(moe: bool = True) -> ModelConfig:
    """Two layers, width 16; the routed one has all three balance rules on."""
    attention = AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=8)
    router = RouterConfig(num_experts=6, top_k=2, score="sigmoid", renormalize=True, select_bias=True)
    balance = BalanceConfig(loss_coef=0.02, z_loss_coef=1e-3, bias_rate=1e-3)
    routed = MoEConfig(expert_width=8, router=router, balance=balance, shared_width=8)
    dense = FeedForwardConfig(width=24)
    blocks = (
        BlockConfig(attention=attention, ffn=dense),
        BlockConfig(attention=attention, ffn=routed if moe else dense),
    )
    return ModelConfig(
        family="tiny", vocab_size=VOCAB, width=16, blocks=blocks, max_positions=64, init_std=0.2
    )


def tiny_model(seed: int = 0, moe: bool = True) -> Transformer:
    model = Transformer(tiny_config(moe))
    model.initialise(seed)
    return model


def make_row(sample: int, size: int = ROW, padding: int | None = None) -> Row:
    """Row `sample` of an endless text: a few documents, sometimes padding, some tokens not learnt."""
    rng = np.random.default_rng(sample)
    padding = int(rng.choice([0, 0, 5])) if padding is None else padding
    used = size - padding
    stream = (np.cumsum(rng.integers(1, 4, size + 1)) % VOCAB).astype(np.int32)
    cut = int(rng.integers(1, used - 1))
    weights = (rng.random(size) < 0.9).astype(np.float32)
    weights[used:] = 0
    lengths = (cut, used - cut, padding) if padding else (cut, used - cut)
    return Row(stream[:-1], stream[1:], weights, lengths, padding)


def batches_of(batch_rows: int, row: Callable[[int], Row] = make_row) -> Callable[[int], Iterator[list[Row]]]:
    def batches(start: int) -> Iterator[list[Row]]:
        while True:
            yield [row(i) for i in range(start, start + batch_rows)]
            start += batch_rows

    return batches


class Given(Objective):
    """The objective that a test gives as a function."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def __call__(self, logp_T: torch.Tensor, batch: Batch) -> Any:
        return self.call(logp_T, batch)


class Keep(Callback):
    """Remembers every record and, after each step, every parameter."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_record(self, trainer: Trainer, record: dict[str, Any]) -> None:
        self.records.append(record)

    def after_step(self, trainer: Trainer) -> None:
        self.weights.append({name: p.detach().clone() for name, p in trainer.model.named_parameters()})

    @property
    def losses(self) -> list[float]:
        return [record["loss"] for record in self.records if record["kind"] == "train"]


def make_trainer(
    *callbacks: Callback,
    batch_rows: int = 4,
    accumulate: int = 1,
    steps: int = STEPS,
    optimiser: str = "adamw",
    model: Transformer | None = None,
    row: Callable[[int], Row] = make_row,
    **options: Any,
) -> Trainer:
    model = model or tiny_model()
    config = OptimiserConfig(name=optimiser, lr=0.02)
    schedule = ScheduleConfig(warmup_steps=2, decay_fraction=0.3)
    return Trainer(
        model,
        batches_of(batch_rows, row),
        CrossEntropy(),
        build_optimiser(model, config),
        lambda step: multiplier(step, steps, schedule),
        callbacks,
        steps=steps,
        lr=config.lr,
        accumulate=accumulate,
        **options,
    )


def step_sums(steps: int = 1) -> tuple[int, int]:
    """The `model_sums` behind the weights of `tiny_model` after `steps` steps of `BATCH_TOKENS` tokens."""
    return model_sums(tiny_config(), BATCH_TOKENS, FORWARD_AND_BACKWARD * steps)


def loss_sums(steps: int = 1) -> tuple[int, int]:
    """The same behind the loss of step `steps`."""
    return mean_sums(tiny_config(), FORWARD_AND_BACKWARD * steps)


def write_model(model: torch.nn.Module) -> Callable[[Path], None]:
    return lambda directory: save_file(model.state_dict(), directory / "model.safetensors")


def load_model(model: torch.nn.Module) -> Callable[[Path], None]:
    def load(directory: Path) -> None:
        model.load_state_dict(load_file(directory / "model.safetensors"))

    return load
