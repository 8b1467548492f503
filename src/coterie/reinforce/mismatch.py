"""Whether the sampler and the trainer are the same policy, measured on the replies of each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coterie.data.rows import Row
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


def measure_mismatch(model: Transformer, replies: Sequence[tuple[Rollout, Row]]) -> Mismatch:
    """Read rows as the trainer does, and compare with what the sampler recorded in their rollouts."""
    largest, changed, counted = 0.0, 0, 0
    for rollout, row in replies:
        recorder = Recorder()
        read = row_logprobs(model, row, recorder).cpu().numpy()
        places = rollout.places
        largest = max(largest, float(np.abs(read[places] - np.asarray(rollout.logprobs)).max()))
        for place, routing in zip(places, rollout.routing, strict=False):
            now = {layer: set(experts) for layer, experts, _ in recorder.chosen(int(place))}
            counted += len(routing.layers)
            changed += sum(now[layer] != set(experts) for layer, experts, _ in routing.layers)
    return Mismatch(largest, changed / counted if counted else None)
