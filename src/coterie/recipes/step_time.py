"""How long a tuning step takes on this machine, from a few seconds of work on one or two layers of the real
widths.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np
import torch

from coterie.adapters.attach import attach
from coterie.adapters.patch import attach_subset
from coterie.config import AdapterConfig, BlockConfig, ExpertSelection, ModelConfig
from coterie.config.run import OptimiserConfig, ScheduleConfig
from coterie.data.rows import Row
from coterie.nn.parameter_groups import parameter_groups
from coterie.nn.transformer import Transformer
from coterie.plan.tuning import TuneSettings
from coterie.recipes.run import build_trainer
from coterie.train.loop import Trainer
from coterie.train.objective import CrossEntropy


def step_seconds(
    config: ModelConfig,
    settings: TuneSettings,
    budget: float = 5.0,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Predicted seconds of one optimiser step.

    Every kind of layer is run once and twice in a model of its own; the difference is the layer, the rest
    (embedding, head, loss) is counted once. About `budget` seconds in all, four steps of each model at least.
    """
    kinds = Counter(config.blocks)
    share = budget / (2 * len(kinds))
    total, rest = 0.0, []
    for block, count in kinds.items():
        one, two = (_time(config, block, number, settings, share, clock) for number in (1, 2))
        layer = max(two - one, 0.0)
        total += count * layer
        rest.append(max(one - layer, 0.0))
    return (total + median(rest)) * settings.accumulate


def _time(
    config: ModelConfig,
    block: BlockConfig,
    number: int,
    settings: TuneSettings,
    budget: float,
    clock: Callable[[], float],
) -> float:
    """Median seconds of one step of a model of `number` such layers."""
    small = config.model_copy(update={"blocks": (block,) * number, "num_mtp_layers": 0})
    trainer = step_trainer(small, settings)
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < 4 or (time.perf_counter() - started < budget and len(times) < 50):
        at = clock()
        trainer.step()
        times.append(clock() - at)
    return median(times[1:])


def step_trainer(config: ModelConfig, settings: TuneSettings) -> Trainer:
    """A trainer of a fresh model of this config on random tokens, trained as the settings say
    (unquantised).
    """
    dtype = torch.float32 if settings.dtype_bytes == 4 else torch.bfloat16
    model = Transformer(config, dtype)
    model.initialise()
    model.to(dtype)
    how = settings.how
    if how.has_factors:
        attach(model, AdapterConfig(rank=settings.rank, dora=how.dora, train=how.treatments()))
    elif how.wraps == "chosen experts":
        attach_subset(model, ExpertSelection(experts=_chosen(config, settings)))
    elif how.wraps == "factors":
        groups, whole = (
            parameter_groups(model),
            {group for group in how.trains if how.trains[group] == "full"},
        )
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(groups[name] in whole)
    schedule = ScheduleConfig(kind="constant", warmup_steps=0)
    return build_trainer(
        model,
        _RandomRows(settings.row_length, config.vocab_size),
        CrossEntropy(),
        OptimiserConfig(lr=1e-5),
        schedule,
        steps=1_000_000,
        batch_rows=settings.batch_rows,
    )


class _RandomRows(Sequence[Row]):
    """A million rows of random tokens, so that every step routes anew."""

    def __init__(self, row_length: int, vocab_size: int) -> None:
        self.row_length, self.vocab_size = row_length, vocab_size

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]  # rows are taken one at a time
        draw = np.random.default_rng(index)
        ids = draw.integers(0, self.vocab_size, self.row_length + 1).astype(np.int32)
        ones = np.ones(self.row_length, dtype=np.float32)
        return Row(ids[:-1], ids[1:], ones, (self.row_length,))


def _chosen(config: ModelConfig, settings: TuneSettings) -> dict[int, tuple[int, ...]]:
    chosen = {}
    for layer, moe in config.moe_layers():
        share = settings.experts if isinstance(settings.experts, float) else 0.25
        chosen[layer] = tuple(range(max(1, round(share * moe.router.num_experts))))
    return chosen
