"""How evenly a layer uses its experts. E experts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LoadStatistics:
    """Figures of one layer's assignments.

    `entropy`: of the experts' shares, divided by ln E; 1 when all are equal. `overload`: the busiest expert's
    count over the mean; 1 when all are equal, E when one expert gets everything (MaxVio is this minus 1).
    `dead`: the experts that got no token.
    """

    entropy: float
    overload: float
    dead: tuple[int, ...]


def load_statistics(counts_E: Sequence[float]) -> LoadStatistics:
    """Statistics of how often each expert was chosen. Without any count entropy and overload are 1."""
    total, num_experts = sum(counts_E), len(counts_E)
    dead = tuple(expert for expert, count in enumerate(counts_E) if not count)
    if not total or num_experts < 2:
        return LoadStatistics(1.0, 1.0, dead)
    shares = [count / total for count in counts_E if count]
    entropy = -sum(share * math.log(share) for share in shares) / math.log(num_experts)
    return LoadStatistics(entropy, max(counts_E) * num_experts / total, dead)
