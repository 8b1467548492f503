"""The same short search for the learning rate, for every model that is to be compared."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence

from coterie.config import Settings, TrainingError
from coterie.config.run import TrainConfig
from coterie.data.build import Prepared
from coterie.data.heldout import HeldoutDocument
from coterie.nn.transformer import Transformer
from coterie.recipes.heldout import heldout_bits
from coterie.recipes.pretrainer import pretrainer
from coterie.results.quickstart import SweepPoint

_log = logging.getLogger("coterie")

GRID = (1e-3, 2e-3, 4e-3)
_WARM_STEPS = 6


class Sweep(Settings):
    """The short runs of one model, and its mean speed. `fixed`: its learning rate where none was sought."""

    points: tuple[SweepPoint, ...]
    seconds_per_token: float
    fixed: float | None = None

    @property
    def best(self) -> float:
        """The fixed learning rate, or that with the fewest held-out bits per byte."""
        if self.fixed is not None:
            return self.fixed
        return min(self.points, key=lambda point: point.bits_per_byte).lr


def sweep(
    configs: Mapping[str, TrainConfig],
    prepared: Prepared,
    documents: Sequence[HeldoutDocument],
    seconds: float,
) -> dict[str, Sweep]:
    """Train each model with each rate of `GRID` for the same number of steps, in about `seconds` in all.

    Errors: `TrainingError` when a model's loss is not finite at any rate.
    """
    speed = {name: _seconds_per_step(config, prepared) for name, config in configs.items()}
    steps = max(_WARM_STEPS, int(0.85 * seconds / (len(GRID) * sum(speed.values()))))
    sweeps = {}
    for name, config in configs.items():
        points, took = [], 0.0
        for lr in GRID:
            short = config.with_overrides([f"optimiser.lr={lr}", f"steps={steps}", "tokens=null"])
            trainer = pretrainer(short, prepared)
            try:
                trainer.run()
            except TrainingError as error:
                _log.info(f"learning rate {lr:g}, {name}: left out ({error})")
                continue
            assert isinstance(trainer.model, Transformer)
            bits = heldout_bits(trainer.model.eval(), prepared, documents)
            took += trainer.seconds / trainer.tokens
            points.append(SweepPoint(lr=lr, bits_per_byte=bits))
            _log.info(
                f"learning rate {lr:g}, {name}: {bits:.3f} bits per byte after {trainer.tokens:,} tokens"
            )
        if not points:
            raise TrainingError(f"{name}: every learning rate of {GRID} makes the loss infinite or NaN")
        sweeps[name] = Sweep(points=tuple(points), seconds_per_token=took / len(points))
    return sweeps


def timed(configs: Mapping[str, TrainConfig], prepared: Prepared, seconds: float) -> dict[str, Sweep]:
    """The speed of each model at the learning rate of its settings, without a search, in about `seconds`."""
    return {
        name: Sweep(
            points=(),
            seconds_per_token=_seconds_per_step(config, prepared, seconds / len(configs))
            / (config.batch_rows * config.accumulate * prepared.row_length),
            fixed=config.optimiser.lr,
        )
        for name, config in configs.items()
    }


def _seconds_per_step(config: TrainConfig, prepared: Prepared, seconds: float = math.inf) -> float:
    """The mean time of a few steps after the first; of a slow model, of those that fit into `seconds`."""
    trainer = pretrainer(config.with_overrides([f"steps={_WARM_STEPS}", "tokens=null"]), prepared)
    begun = time.perf_counter()
    trainer.step()
    started = time.perf_counter()
    while True:
        trainer.step()
        if trainer.step_count == _WARM_STEPS or time.perf_counter() - begun > seconds:
            return (time.perf_counter() - started) / (trainer.step_count - 1)
