"""Objectives that learn from preferences and labels: DPO and its forms, ORPO, KTO.

All are sums over the preferences or labels of a micro-batch (the stream `pair`). The loop divides by their
number in the whole step. Notation: pi is the model, r the reference, c chosen, j rejected. Log-probabilities
are summed over the learnt tokens of a side, or averaged where `normalise` says so. T tokens, P pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from coterie.config.tune import TuneConfig
from coterie.data.rows import Row
from coterie.data.tuning_rows import ExampleKind
from coterie.machine.processes import Processes
from coterie.nn.transformer import Transformer
from coterie.train.batch import Batch
from coterie.train.objective import Metrics, Objective
from coterie.train.row_logprobs import row_logprobs


@dataclass(frozen=True)
class Sides:
    """(P,) each: log-probabilities of both sides of every pair under the model and under the reference.

    For preferences `own` is the chosen side and `other` the rejected one. For labels `own` is the labelled
    continuation and `other` the continuation of another prompt. Without a reference its two tensors are 0.
    """

    own: Tensor
    other: Tensor
    own_reference: Tensor
    other_reference: Tensor

    @property
    def gain(self) -> Tensor:
        """By how much more likely than under the reference the own side is."""
        return self.own - self.own_reference

    @property
    def other_gain(self) -> Tensor:
        """By how much more likely than under the reference the other side is."""
        return self.other - self.other_reference


def sides(logp_T: Tensor, batch: Batch, normalise: bool = False) -> Sides:
    """Log-probabilities of both sides of every pair: summed over learnt tokens, or averaged."""
    masks = side_masks(batch)
    reference_T = batch.streams.get("reference_logp", torch.zeros_like(logp_T))
    found = [pair_sums(values_T, mask_T, batch) for values_T in (logp_T, reference_T) for mask_T in masks]
    if normalise:
        counts = [pair_sums(torch.ones_like(logp_T), mask_T, batch) for mask_T in masks]
        found = [value / count for value, count in zip(found, [*counts, *counts], strict=True)]
    return Sides(*found)


def side_masks(batch: Batch) -> tuple[Tensor, Tensor]:
    """(T,) bool each: the tokens of every pair's own side, and those of its other side."""
    real_T = batch.streams["pair"] >= 0
    if "label" in batch.streams:
        label_T = batch.streams["label"]
        return real_T & (label_T != 0), real_T & (label_T == 0)
    side_T = batch.streams["side"]
    return real_T & (side_T > 0), real_T & (side_T < 0)


def pair_sums(values_T: Tensor, mask_T: Tensor, batch: Batch) -> Tensor:
    """(P,) float32: for each pair, the weighted sum of `values_T` over its tokens where `mask_T` is True."""
    pair_T = batch.streams["pair"].clamp_min(0)  # the mask excludes padding, whose number is -1
    sums_P = torch.zeros(batch.counts["pair"], dtype=torch.float32, device=values_T.device)
    return sums_P.index_add(0, pair_T, torch.where(mask_T, values_T * batch.weights_T, 0.0))


def pair_values(name: str, batch: Batch) -> Tensor:
    """(P,): the value of the stream `name` on each pair's own side, where all of its tokens agree."""
    own_T, _ = side_masks(batch)
    stream_T, number = batch.streams[name], batch.counts["pair"]
    at_T = torch.where(own_T, batch.streams["pair"], number)  # all other tokens write to a place to drop
    return stream_T.new_zeros(number + 1).index_put((at_T,), stream_T)[:number]


class PairObjective(Objective):
    """An objective that is a sum over pairs; the loop divides by their number."""

    lr_factor: ClassVar[float] = 0.25

    def weight(self, batch: Batch) -> float:
        return float(batch.counts["pair"])


@dataclass
class DPO(PairObjective):
    """Direct preference optimisation, `-log sigmoid(beta h - margin)` with h = (pi_c - r_c) - (pi_j - r_j).

    Source: arXiv 2305.18290.
    """

    streams: ClassVar[tuple[str, ...]] = ("pair", "side", "margin", "reference_logp")
    examples: ClassVar[ExampleKind] = "preference"
    normalise: ClassVar[bool] = False

    beta: float = 0.1

    @classmethod
    def build(cls, settings: TuneConfig) -> Self:
        return cls(settings.beta)

    def loss(self, h_P: Tensor, batch: Batch) -> Tensor:
        """(P,) from the difference of the two gains."""
        return -F.logsigmoid(self.beta * h_P - pair_values("margin", batch))

    def __call__(self, logp_T: Tensor, batch: Batch) -> tuple[Tensor, Metrics]:
        both = sides(logp_T, batch, self.normalise)
        h_P = both.gain - both.other_gain
        return self.loss(h_P, batch).sum(), {
            "preferred": (h_P > 0).float().sum(),
            "reward_margin": self.beta * h_P.sum(),
            "reward_chosen": self.beta * both.gain.sum(),
        }


class NormalisedDPO(DPO):
    """DPO with log-probabilities per token (Tulu 3, arXiv 2411.15124)."""

    normalise: ClassVar[bool] = True


class IPO(NormalisedDPO):
    """Identity preference optimisation, `(h - 1 / (2 beta))^2` per token (arXiv 2310.12036)."""

    def loss(self, h_P: Tensor, batch: Batch) -> Tensor:
        return (h_P - 0.5 / self.beta).square()


@dataclass
class ORPO(PairObjective):
    """Odds-ratio preference optimisation, without a reference (arXiv 2403.07691).

    `-pi_c + odds_weight * -log sigmoid(log odds_c - log odds_j)`, log-probabilities per token and
    `odds = p / (1 - p)`.
    """

    streams: ClassVar[tuple[str, ...]] = ("pair", "side")
    examples: ClassVar[ExampleKind] = "preference"

    odds_weight: float = 0.1

    @classmethod
    def build(cls, settings: TuneConfig) -> Self:
        return cls(settings.orpo_weight)

    def __call__(self, logp_T: Tensor, batch: Batch) -> tuple[Tensor, Metrics]:
        both = sides(logp_T, batch, normalise=True)
        odds_P = (both.own - both.other) - (_log_one_minus(both.own) - _log_one_minus(both.other))
        loss_P = -both.own - self.odds_weight * F.logsigmoid(odds_P)
        return loss_P.sum(), {"preferred": (odds_P > 0).float().sum(), "chosen_loss": -both.own.sum()}


def _log_one_minus(logp: Tensor) -> Tensor:
    """`log(1 - exp(logp))`, finite at 0."""
    return torch.log(-torch.expm1(logp.clamp(max=-1e-6)))


class KTO(PairObjective):
    """Kahneman-Tversky optimisation from single labels (arXiv 2402.01306).

    With h = pi - r: `1 - sigmoid(beta (h - z))` for a wanted continuation, `1 - sigmoid(beta (z - h))` for an
    unwanted one. The baseline z is the mean of h over continuations of other prompts, not below 0. The paper
    takes it from the micro-batch; here it is that of the whole step before (0 at first, where the model is
    the reference), so that accumulation cannot change a step.
    """

    streams: ClassVar[tuple[str, ...]] = ("pair", "label", "reference_logp")
    examples: ClassVar[ExampleKind] = "labelled"

    def __init__(self, beta: float = 0.1, wanted_weight: float = 1.0, unwanted_weight: float = 1.0) -> None:
        self.beta = beta
        self.weights = (wanted_weight, unwanted_weight)
        self.baseline = 0.0
        self._seen = torch.zeros(2, dtype=torch.float64)  # sum of h over other prompts' continuations, number

    @classmethod
    def build(cls, settings: TuneConfig) -> Self:
        return cls(settings.beta)

    def __call__(self, logp_T: Tensor, batch: Batch) -> tuple[Tensor, Metrics]:
        both = sides(logp_T, batch)
        wanted_P = pair_values("label", batch) > 0
        h_P, other_P = both.gain, both.other_gain.detach()
        self._seen += torch.tensor([float(other_P.sum()), len(other_P)], dtype=torch.float64)
        sign_P, weight_P = torch.where(wanted_P, 1.0, -1.0), torch.where(wanted_P, *self.weights)
        loss_P = weight_P * (1 - torch.sigmoid(self.beta * sign_P * (h_P - self.baseline)))
        return loss_P.sum(), {
            "reward_wanted": self.beta * (h_P * wanted_P).sum(),
            "reward_unwanted": self.beta * (h_P * ~wanted_P).sum(),
            "baseline": torch.full_like(loss_P, self.baseline).sum(),
        }

    def after_step(self, processes: Processes) -> None:
        processes.sum_in_place([self._seen])
        self.baseline = max(0.0, float(self._seen[0] / self._seen[1].clamp_min(1)))
        self._seen.zero_()

    def state_dict(self) -> dict[str, Any]:
        return {"baseline": self.baseline}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.baseline = float(state["baseline"])


@torch.no_grad()
def with_reference(model: Transformer, rows: Sequence[Row]) -> list[Row]:
    """The rows with the stream `reference_logp`: (S,) float32 under `model` as it is, adapter included."""
    scored = (row_logprobs(model, row).cpu().numpy() for row in rows)
    return [
        replace(row, streams={**row.streams, "reference_logp": logp_S})
        for row, logp_S in zip(rows, scored, strict=True)
    ]


def right_preferences(logp_T: Tensor, batch: Batch) -> tuple[int, int]:
    """(pairs that the model ranks correctly, all pairs), by their gains over the reference.

    A preference is correct when its chosen side gained more than the rejected one. A label is correct when
    the wanted continuation gained more than another prompt's, or an unwanted one did not.
    """
    both = sides(logp_T, batch)
    more_P = both.gain > both.other_gain
    right_P = more_P == (pair_values("label", batch) > 0) if "label" in batch.streams else more_P
    return int(right_P.sum()), len(right_P)
