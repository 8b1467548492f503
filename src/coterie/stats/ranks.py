"""Whether a value stands higher among others like it than chance puts it: exact tests of exchangeability."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

_ENOUGH = 10  # values at least as high, after which more would tell nothing
_BATCH = 128


@dataclass(frozen=True)
class RankTest:
    """`place`: share of the others that are below, ties as halves; 0.5 by chance. `p`: one-sided."""

    place: float
    p: float
    groups: int


def exchangeable(groups: Sequence[tuple[float, Sequence[float]]]) -> RankTest:
    """Test whether the first value of each group stands too high among its others.

    If nothing sets it apart, it is each value of its group with the same probability, and groups are
    independent. The p value is exact: it is that of so high a sum of ranks, over all choices of a value from
    each group. Groups without others are left out; without any, p is 1.
    """
    ways, total = np.ones(1), 0  # ways[s]: the probability that the doubled ranks add up to s
    places = []
    for own, others in groups:
        if not others:
            continue
        values = np.array([own, *others])
        ranks = 2 * (values[:, None] > values).sum(1) + (values[:, None] == values).sum(1) - 1
        counts = np.bincount(ranks, minlength=2 * len(others) + 1)
        ways, total = np.convolve(ways, counts / len(values)), total + int(ranks[0])
        places.append(ranks[0] / (2 * len(others)))
    if not places:
        return RankTest(0.5, 1.0, 0)
    return RankTest(float(np.mean(places)), min(1.0, float(ways[total:].sum())), len(places))


def sequential_rank(own: float, draw: Callable[[int], Sequence[float]], most: int) -> tuple[float, int]:
    """The probability that a value drawn as the others are would stand as high as `own`; and how many were.

    `draw(n)`: n further values. No more are drawn once ten are at least as high, which keeps the p value
    exact (Besag and Clifford 1991) and makes it cheap where `own` is nothing special. The smallest possible
    one is 1 / (most + 1).
    """
    seen = above = 0
    while seen < most:
        for value in draw(min(max(32, seen), _BATCH, most - seen)):
            seen += 1
            above += value >= own
            if above == _ENOUGH:
                return _ENOUGH / seen, seen
    return (above + 1) / (most + 1), seen
