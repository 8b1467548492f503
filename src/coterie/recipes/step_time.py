"""Measure how long a tuning step takes here, in a few seconds, on one or two layers of the real widths."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from statistics import median

import torch

from coterie.adapters.trainable import make_trainable
from coterie.config import AdapterConfig, BlockConfig, ExpertSelection, ModelConfig
from coterie.config.run import OptimiserConfig, ScheduleConfig
from coterie.data.rows import RandomRows
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
    """Predict the seconds of one optimiser step.

    For every kind of layer, a model of one and a model of two such layers are timed. Their difference is the
    layer's time; the rest (embedding, head, loss) counts once. Takes about `budget` seconds in all, and at
    least four steps of each model. `clock`: seconds.
    """
    share = budget / (2 * len(set(config.blocks)))

    def timed(block: BlockConfig, number: int) -> float:
        return _time(config, block, number, settings, share, clock)

    return by_layers(config, timed) * settings.accumulate


def by_layers(config: ModelConfig, timed: Callable[[BlockConfig, int], float]) -> float:
    """The time of the whole model, where `timed` measures one of `number` such layers."""
    total, rest = 0.0, []
    for block, count in Counter(config.blocks).items():
        one, two = timed(block, 1), timed(block, 2)
        layer = max(two - one, 0.0)
        total += count * layer
        rest.append(max(one - layer, 0.0))
    return total + median(rest)


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
    """The trainer of a fresh, unquantised model on random tokens, with the method of `settings`."""
    types = {4: torch.float32, 2: torch.bfloat16}
    dtype = types[settings.dtype_bytes]
    model = Transformer(config, types[settings.activation_bytes or settings.dtype_bytes])
    model.initialise()
    model.to(dtype)
    how = settings.how
    adapter = AdapterConfig(rank=settings.rank, dora=how.dora, train=how.treatments())
    chosen = ExpertSelection(experts=_chosen(config, settings)) if how.wraps == "chosen experts" else None
    make_trainable(model, how, adapter, chosen)
    return build_trainer(
        model,
        RandomRows(settings.row_length, config.vocab_size),
        CrossEntropy(),
        OptimiserConfig(lr=1e-5),
        ScheduleConfig(kind="constant", warmup_steps=0),
        steps=1_000_000,
        batch_rows=settings.batch_rows,
    )


def _chosen(config: ModelConfig, settings: TuneSettings) -> dict[int, tuple[int, ...]]:
    """The first experts of each layer, as many as the settings train."""
    chosen = {}
    for layer, moe in config.moe_layers():
        share = settings.experts if isinstance(settings.experts, float) else 0.25
        chosen[layer] = tuple(range(max(1, round(share * moe.router.num_experts))))
    return chosen
