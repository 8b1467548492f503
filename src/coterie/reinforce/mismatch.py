"""Whether the sampler and the trainer are the same policy, measured on the replies of each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from coterie.nn.logprobs import token_logprobs
from coterie.nn.recording import Recorder
from coterie.nn.transformer import Transformer
from coterie.reinforce.rollouts import Rollout
from coterie.train.batch import collate


@dataclass(frozen=True)
class Mismatch:
    """The largest difference of a token's log-probability (nats), and the share of other expert choices.

    `flips`: of all (token, layer) pairs whose experts were recorded; None where none were.
    """

    largest: float
    flips: float | None


@torch.no_grad()
def measure_mismatch(model: Transformer, rollouts: Sequence[Rollout]) -> Mismatch:
    """Read the replies as the trainer does, and compare with what the sampler recorded."""
    training = model.training
    model.eval()
    try:
        largest, changed, counted = 0.0, 0, 0
        for rollout in rollouts:
            batch = collate([rollout.row(0.0)], model.embed.weight.device)
            recorder = Recorder()
            h_TD = model(batch.ids_T, replace(batch.context, recorder=recorder))
            logp_T = token_logprobs(h_TD, model.head_weight, batch.targets_T, cap=model.logit_cap)
            difference_T = (logp_T - batch.streams["old_logp"]).abs() * (batch.weights_T > 0)
            largest = max(largest, float(difference_T.max()))
            first = len(rollout.prompt_ids) - 1
            for at, routing in enumerate(rollout.routing):
                now = {layer: set(experts) for layer, experts, _ in recorder.chosen(first + at)}
                for layer, experts, _ in routing.layers:
                    counted += 1
                    changed += now[layer] != set(experts)
    finally:
        model.train(training)
    return Mismatch(largest, changed / counted if counted else None)
