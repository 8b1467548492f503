"""What a reinforcement step computes, in floating-point operations of the active parameters.

Sampling reads each prompt once for each of its replies and computes each token of a reply once; training
costs three times that for the replies that are learnt from (`plan.counts`). What only measures is left out:
the gate, evaluations, and the comparison of sampler and trainer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from coterie.config import ModelConfig
from coterie.plan.counts import flops_per_token


def forward_flops(config: ModelConfig, lengths: Iterable[int]) -> float:
    """Operations to compute sequences of `lengths` tokens once."""
    return sum(count * length * flops_per_token(config, length) for length, count in Counter(lengths).items())


def step_flops(
    config: ModelConfig, sampled: Iterable[int], learnt: Iterable[int], reads: int = 0
) -> tuple[float, float]:
    """(sampling, training) of sequences of these lengths, prompts included.

    `reads`: how often the learnt ones are read besides, by the model of the start or for their routing.
    """
    return forward_flops(config, sampled), (3 + reads) * forward_flops(config, learnt)
