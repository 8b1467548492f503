"""Objectives: sums over a micro-batch. The loop divides by the weight of the whole step. T tokens."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from coterie.train.batch import Batch

Objective = Callable[[Tensor, Batch], tuple[Tensor, dict[str, Tensor]]]
"""`(logp_T float32, batch) -> (sum to minimise, metrics)`; metrics are sums too, divided by the same
weight.
"""


def cross_entropy(logp_T: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum of `-log p(target)` in nats; no further metrics."""
    return -(logp_T * batch.weights_T).sum(), {}
