"""What the routing shares say: how far experts specialise, and which ones stand out. Plain arithmetic on
records.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from coterie.report.schema import RoutingResults


@dataclass(frozen=True)
class Specialist:
    """Expert `expert` of layer `layer` serves `share` of slice `slice`, `lift` times its mean share over
    slices.
    """

    layer: int
    expert: int
    slice: str
    share: float
    lift: float


def specialisation(share: Sequence[Sequence[float]]) -> float:
    """How much the kind of text tells about the expert, in 0..1, for one layer's `share[slice][expert]`.

    The mutual information of slice and expert with all slices weighted alike (their Jensen-Shannon
    divergence), over the largest it can be, log(number of slices): 0 when every kind of text is routed alike,
    1 when no expert is shared.
    """
    if len(share) < 2:
        return 0.0
    mean = _mean(share)
    information = sum(p * math.log(p / mean[e]) for row in share for e, p in enumerate(row) if p > 0) / len(
        share
    )
    return information / math.log(len(share))


def specialists(routing: RoutingResults, num: int = 6) -> list[Specialist]:
    """The `num` experts that lean most to one slice: largest share above their mean share, one slice each."""
    found = []
    for layer, share in zip(routing.layers, routing.share, strict=True):
        mean = _mean(share)
        for expert in range(routing.num_experts):
            best = max(range(len(share)), key=lambda s: share[s][expert])
            if mean[expert] > 0:
                value = share[best][expert]
                found.append(Specialist(layer, expert, routing.slices[best], value, value / mean[expert]))
    return sorted(found, key=lambda s: s.share * (1 - 1 / s.lift), reverse=True)[:num]


def order_experts(share: Sequence[Sequence[float]]) -> list[int]:
    """Experts by the slice they lean to most, strongest first within each, so that specialists form
    blocks.
    """
    mean = _mean(share)
    lean = [[row[e] / mean[e] if mean[e] else 0.0 for row in share] for e in range(len(mean))]
    return sorted(range(len(mean)), key=lambda e: (lean[e].index(max(lean[e])), -max(lean[e]), e))


def _mean(share: Sequence[Sequence[float]]) -> list[float]:
    return [sum(column) / len(share) for column in zip(*share, strict=True)]
