"""What a reinforcement step computes, in floating-point operations of the active parameters.

Sampling computes each token of a prompt and its replies once; training costs three times that for the
replies that are learnt from (`plan.counts`). Replies share their prompt where the model allows it, except
that training attends to it again for each. What only measures is left out: the gate, evaluations, and the
comparison of sampler and trainer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from coterie.config import ModelConfig
from coterie.plan.counts import flops_per_token


def forward_flops(config: ModelConfig, lengths: Iterable[int]) -> float:
    """Operations to compute sequences of `lengths` tokens once."""
    counted = Counter(length for length in lengths if length)
    return sum(count * length * flops_per_token(config, length) for length, count in counted.items())


def step_flops(
    config: ModelConfig,
    sampled: Iterable[int],
    learnt: Iterable[int],
    reads: int = 0,
    copied: Iterable[int] = (),
    shared: int = 0,
) -> tuple[float, float]:
    """(sampling, training) of sequences of these lengths, prompts included.

    `reads`: how often the learnt ones are read besides, by the model of the start or for their routing.
    `copied`: prompt tokens that a sampled sequence took from another one. `shared`: tokens of learnt prompts
    that were computed with another reply's.
    """
    learnt_lengths = list(learnt)
    sampling = forward_flops(config, sampled) - forward_flops(config, copied)
    training = 3 * (forward_flops(config, learnt_lengths) - shared * flops_per_token(config, 1))
    return sampling, training + reads * forward_flops(config, learnt_lengths)
