"""Whether the sampler and the trainer are the same policy, measured on the replies of each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coterie.nn.recording import Recorder
from coterie.nn.transformer import Transformer
from coterie.reinforce.rollouts import Rollout
from coterie.train.row_logprobs import row_logprobs


@dataclass(frozen=True)
class Mismatch:
    """The largest difference of a token's log-probability (nats), and the share of other expert choices.

    `flips`: of all (token, layer) pairs whose experts were recorded; None where none were.
    """

    largest: float
    flips: float | None


def measure_mismatch(model: Transformer, rollouts: Sequence[Rollout]) -> Mismatch:
    """Read the replies as the trainer does, and compare with what the sampler recorded."""
    largest, changed, counted = 0.0, 0, 0
    for rollout in rollouts:
        recorder = Recorder()
        read = row_logprobs(model, rollout.row(0.0), recorder).cpu().numpy()
        largest = max(largest, float(np.abs(read[rollout.places] - np.asarray(rollout.logprobs)).max()))
        # No `strict`: routing is recorded of all sampled tokens or of none.
        for place, routing in zip(rollout.places.tolist(), rollout.routing, strict=False):
            now = {layer: set(experts) for layer, experts, _ in recorder.chosen(place)}
            counted += len(routing.layers)
            changed += sum(now[layer] != set(experts) for layer, experts, _ in routing.layers)
    return Mismatch(largest, changed / counted if counted else None)
