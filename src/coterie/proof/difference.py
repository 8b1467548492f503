"""How far two records of answers are apart.

T compared positions, K kept tokens.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from coterie.config import CheckpointError
from coterie.proof.records import ProbeRecord

# Allowed mean difference of log-probabilities in nats: of the same weights, and of weights in fewer bits.
SAME, ROUNDED = 1e-4, 0.05
# A single difference may be SPIKE times the allowed mean, and TIE nats in any case: two experts with equal
# scores change places with the order of a sum, which moves one or two tokens but not the mean.
SPIKE, TIE = 20, 0.05
# Where a tie is broken the other way, that position and the later ones of its sequence change for good. One
# sequence per POSITIONS_PER_TIE positions may do so; a router that differs does so everywhere.
POSITIONS_PER_TIE = 500


@dataclass(frozen=True)
class Difference:
    """How far two records are apart, in nats.

    `max_logprob`, `mean_logprob`: of |difference| over the tokens that follow and those in both lists of
    likely ones. `kl`: mean Kullback-Leibler divergence of the second from the first, over the union of their
    likely tokens with one bucket for all others (an estimate where a list lacks a token). `top1`: share of
    positions with the same best token. Both are None where one side does not name its likely tokens.
    `routing`: layer -> share of chosen experts that both chose. `worst`: (sequence, token) of the largest
    difference. `ties`: number of sequences in which a position chose other experts. `settled_mean`,
    `settled_max`: as `mean_logprob` and `max_logprob`, over the positions before any such choice; None where
    these are fewer than half.
    """

    positions: int
    max_logprob: float
    mean_logprob: float
    kl: float | None
    top1: float | None
    routing: dict[int, float]
    worst: tuple[int, int]
    ties: int = 0
    settled_mean: float | None = None
    settled_max: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self) | {
            "routing": {str(layer): share for layer, share in self.routing.items()},
            "worst": list(self.worst),
        }

    def within(self, tolerance: float) -> bool:
        """Whether the mean is at most `tolerance` nats, and the largest at most `SPIKE` times that or `TIE`.

        In a few sequences two experts may tie and change places. There, only the positions before the tie
        count.
        """
        if self.mean_logprob <= tolerance and self.max_logprob <= max(SPIKE * tolerance, TIE):
            return True
        if self.settled_mean is None or self.settled_max is None:
            return False
        few = self.ties <= self.positions // POSITIONS_PER_TIE
        return few and self.settled_mean <= tolerance and self.settled_max <= SPIKE * tolerance


def difference(a: ProbeRecord, b: ProbeRecord) -> Difference:
    """How far `b` is from `a`.

    Errors: `CheckpointError` when they were not recorded on the same sequences.
    """
    if a.sequences != b.sequences:
        raise CheckpointError(
            "probes: the two records are of different token ids; record both on the same sequences"
        )
    sum_T, count_T = (a.next_T - b.next_T).abs().double(), torch.ones_like(a.next_T, dtype=torch.float64)
    largest_T = (a.next_T - b.next_T).abs()
    kl = top1 = None
    kept = min(a.top_ids_TK.shape[1], b.top_ids_TK.shape[1])
    whole_T = (a.top_ids_TK[:, :kept] >= 0).all(1) & (b.top_ids_TK[:, :kept] >= 0).all(1)
    if kept and bool(whole_T.any()):
        a_ids, a_TK = a.top_ids_TK[whole_T, :kept], a.top_TK[whole_T, :kept]
        b_ids, b_TK = b.top_ids_TK[whole_T, :kept], b.top_TK[whole_T, :kept]
        same_TKK = a_ids[:, :, None] == b_ids[:, None, :]
        pairs_TKK = (a_TK[:, :, None] - b_TK[:, None, :]).abs().masked_fill(~same_TKK, 0.0)
        sum_T[whole_T] += pairs_TKK.double().sum((1, 2))
        count_T[whole_T] += same_TKK.sum((1, 2))
        largest_T[whole_T] = torch.maximum(largest_T[whole_T], pairs_TKK.amax((1, 2)))
        kl = _divergence(a_TK.double(), b_TK.double(), same_TKK)
        top1 = float((a_ids[:, 0] == b_ids[:, 0]).float().mean())
    settled_T, ties = _settled(a, b)
    known = bool(settled_T.sum() * 2 >= a.num_positions)
    worst = int(largest_T.argmax())
    return Difference(
        positions=a.num_positions,
        max_logprob=float(largest_T[worst]),
        mean_logprob=float(sum_T.sum() / count_T.sum()),
        kl=kl,
        top1=top1,
        routing={
            layer: _overlap(a.routing[layer], b.routing[layer]) for layer in a.routing if layer in b.routing
        },
        worst=a.place(worst),
        ties=ties,
        settled_mean=float(sum_T[settled_T].sum() / count_T[settled_T].sum()) if known else None,
        settled_max=float(largest_T[settled_T].max()) if known else None,
    )


def _settled(a: ProbeRecord, b: ProbeRecord) -> tuple[Tensor, int]:
    """(bool (T,), number of sequences with a tie): the positions before any other choice of experts."""
    same_T = torch.ones(a.num_positions, dtype=torch.bool)
    for layer in a.routing.keys() & b.routing.keys():
        if a.routing[layer].shape == b.routing[layer].shape:
            same_T &= (a.routing[layer] == b.routing[layer]).all(1)
    parts = same_T.split([len(sequence) - 1 for sequence in a.sequences])
    ties = sum(not bool(part.all()) for part in parts)
    return torch.cat([part.cumprod(0).bool() for part in parts]), ties


def _overlap(a_TK: Tensor, b_TK: Tensor) -> float:
    """Share of chosen experts in common, of the larger choice."""
    common = (a_TK[:, :, None] == b_TK[:, None, :]).sum()
    return float(common) / (a_TK.shape[0] * max(a_TK.shape[1], b_TK.shape[1]))


def _divergence(a_TK: Tensor, b_TK: Tensor, same_TKK: Tensor) -> float:
    """Mean over positions of KL(a || b), at least 0.

    It is taken on the union of both lists plus one bucket for the rest.

    A token missing from a list has at most that list's smallest probability; it gets that, or an even share
    of what the list leaves over, whichever is less.
    """
    only_a_TK, only_b_TK = ~same_TKK.any(2), ~same_TKK.any(1)
    a_TK, b_TK = a_TK.double(), b_TK.double()
    a_fill_T1, a_rest_T = _left_over(a_TK.exp(), only_b_TK.sum(1))
    b_fill_T1, b_rest_T = _left_over(b_TK.exp(), only_a_TK.sum(1))
    result_T = _terms(a_TK[:, :, None], b_TK[:, None, :]).masked_fill(~same_TKK, 0.0).sum((1, 2))
    result_T += _terms(a_TK, _log(b_fill_T1)).masked_fill(~only_a_TK, 0.0).sum(1)
    result_T += _terms(_log(a_fill_T1), b_TK).masked_fill(~only_b_TK, 0.0).sum(1)
    result_T += _terms(_log(a_rest_T), _log(b_rest_T))
    return max(0.0, float(result_T.mean()))


def _terms(log_p: Tensor, log_q: Tensor) -> Tensor:
    """`p log(p / q)` from logarithms: a token that one side holds to be all but impossible counts in full."""
    return log_p.exp() * (log_p - log_q)


def _log(p: Tensor) -> Tensor:
    """Of what a list leaves over, which is known to rounding only: nothing left counts as 1e-12."""
    return p.clamp_min(1e-12).log()


def _left_over(listed_TK: Tensor, missing_T: Tensor) -> tuple[Tensor, Tensor]:
    """Probability of each token of the other list that this one lacks (T, 1), and of all the rest (T,)."""
    left_T = (1 - listed_TK.sum(1)).clamp_min(0)
    fill_T = torch.minimum(listed_TK.amin(1), left_T / (missing_T + 1))
    return fill_T[:, None], left_T - fill_T * missing_T
