"""The learning rate over a run: pure functions of the step."""

from __future__ import annotations

import math

from coterie.config.run import ScheduleConfig


def multiplier(step: int, total_steps: int, config: ScheduleConfig) -> float:
    """Factor on the learning rate of optimiser step `step` (0 is the first) of `total_steps`.

    Warmup rises from `1 / warmup` at step 0 to 1, so no step has size 0. The last step of a decay has exactly
    `final_ratio` when that is above 0, and the last positive point of the line otherwise. Later steps keep
    it.
    """
    warmup = (
        config.warmup_steps
        if config.warmup_steps is not None
        else round(config.warmup_fraction * total_steps)
    )
    if step < warmup:
        return (step + 1) / warmup
    if config.kind == "constant":
        return 1.0
    decay = total_steps - warmup if config.kind == "cosine" else round(config.decay_fraction * total_steps)
    decay = min(decay, total_steps - warmup)
    done = step + 1 - (total_steps - decay)
    if decay <= 0 or done <= 0:
        return 1.0
    # With a final ratio of 0 the line reaches 0 one step after the end: a step of size 0 would be wasted.
    progress = min(done, decay) / (decay if config.final_ratio else decay + 1)
    falling = 1.0 - progress if config.kind == "wsd" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.final_ratio + (1.0 - config.final_ratio) * falling
