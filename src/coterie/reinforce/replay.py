"""Routing replay: training takes the experts that sampling took, so that only weights move, not choices.

In float32 the engine and the trainer choose the same experts; in bfloat16 near ties fall differently, and
with several updates a router moves away from what it chose when it sampled. `sampler`: the choices recorded
while sampling (R3, arXiv 2510.11370), of sampled positions; positions of the prompt choose for themselves.
`trainer`: the choices of the trainer's weights before the first update (R2, there as well), of all positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from coterie.data.rows import EXPERTS, Row
from coterie.nn.recording import Recorder
from coterie.nn.transformer import Transformer
from coterie.reinforce.rollouts import Rollout
from coterie.train.row_logprobs import row_logprobs

if TYPE_CHECKING:
    import numpy.typing as npt


def with_sampler_routing(model: Transformer, rows: Sequence[Row], rollouts: Sequence[Rollout]) -> list[Row]:
    """The rows of these rollouts with the experts that their sampled tokens were drawn with.

    A token that used fewer experts than the layer has places (a weight of 0) chooses for itself.
    """
    widths = {layer: router.config.top_k for layer, router in model.routers()}
    found = []
    for row, rollout in zip(rows, rollouts, strict=True):
        experts = {layer: np.full((len(row.ids), width), -1) for layer, width in widths.items()}
        for place, routing in zip(rollout.places, rollout.routing, strict=True):
            for layer, chosen, _ in routing.layers:
                if len(chosen) == widths[layer]:
                    experts[layer][place] = chosen
        found.append(_steered(row, experts))
    return found


def with_trainer_routing(model: Transformer, rows: Sequence[Row]) -> list[Row]:
    """The rows with the experts that the model, as it is now, chooses for all their positions."""
    found = []
    for row in rows:
        recorder = Recorder()
        row_logprobs(model, row, recorder)
        chosen = {layer: routing.ids_TK.cpu().numpy() for layer, routing in recorder.routing.items()}
        found.append(_steered(row, chosen))
    return found


def _steered(row: Row, experts: Mapping[int, npt.NDArray[np.int64]]) -> Row:
    """The row with the experts (S, K) of each layer as streams."""
    streams = {f"{EXPERTS}{layer}": ids_SK.astype(np.int16) for layer, ids_SK in experts.items()}
    return replace(row, streams={**row.streams, **streams})
