"""What routers chose: shares by kind of text, the record of `coterie routing`, and statistics over both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from coterie.config import Settings


class RoutingShares(Settings):
    """Shares of experts by layer and kind of text.

    `share[l][s][e]`: of the assignments of held-out text of slice s in layer `layers[l]`, the part that went
    to expert e. Each `share[l][s]` sums to 1.
    """

    layers: list[int]
    num_experts: int = Field(gt=0)
    top_k: int = Field(gt=0)
    slices: list[str]
    share: list[list[list[float]]]

    @model_validator(mode="after")
    def _check(self) -> Self:
        shape = (len(self.layers), len(self.slices), self.num_experts)
        if len(self.share) != shape[0] or any(len(layer) != shape[1] for layer in self.share):
            raise ValueError(f"share must be layers x slices x experts = {shape}")
        for layer in self.share:
            for row in layer:
                if len(row) != shape[2] or abs(sum(row) - 1) > 1e-3:
                    raise ValueError(f"each share[l][s] must hold {shape[2]} numbers that sum to 1")
        return self


class ExpertPair(Settings):
    """Experts `a` and `b` were chosen together by `tokens` tokens.

    `share`: of the tokens that chose the rarer of the two.
    """

    a: int
    b: int
    tokens: int
    share: float


class LayerRouting(Settings):
    """How one layer of E experts routed.

    `share` (E,): of the assignments. `entropy`: of the shares, 1 when even. `worst_overload`: the largest
    share over the mean, and `max_vio` that minus 1 (MaxVio, arXiv 2408.15664). `dead`: experts that no token
    chose. `specialisation`: see `specialisation`. `by_domain`: shares (E,) for each domain. `together`: the
    pairs that most tokens chose together.
    """

    share: list[float]
    entropy: float
    worst_overload: float
    max_vio: float
    dead: list[int]
    specialisation: float
    by_domain: dict[str, list[float]]
    together: list[ExpertPair]


class ModelRouting(Settings):
    """One model: each MoE layer by its index, and nats per predicted token by domain."""

    layers: dict[int, LayerRouting]
    nats_per_token: dict[str, float]

    def words(self) -> str:
        """Dead experts, entropy, and the busiest expert, with its layer."""
        layers = self.layers
        dead = sum(len(facts.dead) for facts in layers.values())
        experts = sum(len(facts.share) for facts in layers.values())
        overload, worst = max((facts.worst_overload, layer) for layer, facts in layers.items())
        entropy = sum(facts.entropy for facts in layers.values()) / len(layers)
        return (
            f"{dead} of {experts} experts are dead; entropy {entropy:.3f} (1 is even); "
            f"the busiest expert gets {overload:.2f} times the mean load (layer {worst})"
        )


class LayerDrift(Settings):
    """Two models in one layer, on the same tokens.

    `overlap`: share of the chosen experts that both chose. `weight_distance`: total variation between their
    weights, 0 (alike) to 1 (disjoint).
    """

    overlap: float
    weight_distance: float
    overlap_by_domain: dict[str, float]


class RoutingDrift(Settings):
    """What tuning moved, by layer.

    `logit_kl`: divergence of the tuned model's next-token distribution from the base's, in nats, by domain.
    """

    layers: dict[int, LayerDrift]
    logit_kl: dict[str, float]


class RoutingRecord(Settings):
    """What `coterie routing` found. `tokens`: read of each domain. `base`, `tuned`: the models' names."""

    format: int = 1
    tokens: dict[str, int]
    domains: list[str]
    models: dict[Literal["base", "tuned"], ModelRouting]
    drift: RoutingDrift | None = None
    base: str | None = None
    tuned: str | None = None
    broken_limits: list[str] = Field(default_factory=list)

    @property
    def last(self) -> ModelRouting:
        """The tuned model, or the base if it is alone."""
        return self.models.get("tuned", self.models["base"])


@dataclass(frozen=True)
class Specialist:
    """An expert that leans to one slice: it serves `share` of it, `lift` times its mean over the slices."""

    layer: int
    expert: int
    slice: str
    share: float
    lift: float


def specialisation(share: Sequence[Sequence[float]]) -> float:
    """How much the kind of text predicts the expert, in 0..1, for one layer's `share[slice][expert]`.

    It is the mutual information of slice and expert with all slices weighted equally (their Jensen-Shannon
    divergence), divided by its maximum, log(number of slices): 0 if every kind of text is routed alike, 1 if
    no two kinds share an expert.
    """
    if len(share) < 2:
        return 0.0
    mean = _mean(share)
    information = sum(p * math.log(p / mean[e]) for row in share for e, p in enumerate(row) if p > 0) / len(
        share
    )
    return information / math.log(len(share))


def specialists(routing: RoutingShares, num: int = 6) -> list[Specialist]:
    """The `num` experts that lean most to one slice, by how far its share exceeds their mean share."""
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
    """Experts by the slice they lean to most, strongest first in each, so that specialists form blocks."""
    mean = _mean(share)
    lean = [[row[e] / mean[e] if mean[e] else 0.0 for row in share] for e in range(len(mean))]
    return sorted(range(len(mean)), key=lambda e: (lean[e].index(max(lean[e])), -max(lean[e]), e))


def _mean(share: Sequence[Sequence[float]]) -> list[float]:
    return [sum(column) / len(share) for column in zip(*share, strict=True)]
