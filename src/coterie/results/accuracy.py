"""Shares of right replies, before and after, with what may be concluded from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from coterie.config import Settings
from coterie.results.intervals import Estimate, Interval


class Accuracy(Estimate):
    """A share of right replies with its 95 % interval (Wilson's), of `problems` problems."""

    problems: int


class AccuracyChange(Settings):
    """Accuracy of two models on the same problems. `p`: exact McNemar test, two-sided.

    `gained`: problems that only the second answers rightly; `lost`: only the first.
    """

    before: Accuracy
    after: Accuracy
    gained: int
    lost: int
    p: float

    def words(self) -> str:
        """One line for people."""
        before, after = self.before, self.after
        return (
            f"{before.value:.1%} -> {after.value:.1%} right of {after.problems} problems ({after.low:.1%} to "
            f"{after.high:.1%}; {self.gained} gained, {self.lost} lost, p = {self.p:.2g})"
        )


class PassAt(Settings):
    """How many of `samples` replies to each of `problems` are right.

    `curve[k - 1]`: pass@k, the probability that one of k replies is right, with its interval over problems.
    """

    problems: list[str]
    samples: int
    right: list[int]
    curve: list[Interval]


class PassAtChange(Settings):
    """pass@k of two models on the same problems. `change[k - 1]`: of pass@k, paired by problem."""

    before: PassAt
    after: PassAt
    change: list[Interval]

    @property
    def finding(self) -> Literal["new", "sharper", "narrower", "worse", "none"]:
        """What the intervals show.

        `new`: problems are solved that were not in all the tries before; `narrower`: fewer are. `sharper`: of
        the same problems the first try is right more often; `worse`: less often. `none`: nothing.
        """
        first, last = self.change[0], self.change[-1]
        if last.low > 0 or last.high < 0:
            return "new" if last.low > 0 else "narrower"
        if first.low > 0 or first.high < 0:
            return "sharper" if first.low > 0 else "worse"
        return "none"


def accuracy(right: Sequence[bool]) -> Accuracy:
    """The share of right replies with Wilson's interval."""
    share = sum(right) / len(right)
    low, high = wilson(share, len(right))
    return Accuracy(value=share, low=low, high=high, problems=len(right))


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval (1927) for a share of `count`, which need not be a whole number of them."""
    z = 1.959964
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def accuracy_change(before: Sequence[bool], after: Sequence[bool]) -> AccuracyChange:
    """The change on the same problems, paired."""
    gained = sum(b < a for b, a in zip(before, after, strict=True))
    lost = sum(b > a for b, a in zip(before, after, strict=True))
    return AccuracyChange(
        before=accuracy(before), after=accuracy(after), gained=gained, lost=lost, p=mcnemar(gained, lost)
    )


def mcnemar(gained: int, lost: int) -> float:
    """Probability of a split at least as uneven by chance: two-sided, exact (binomial)."""
    count = gained + lost
    logs = [
        math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        for k in range(min(gained, lost) + 1)
    ]
    largest = max(logs)
    tail = math.fsum(math.exp(log - largest) for log in logs)
    return min(1.0, 2 * math.exp(largest + math.log(tail) - count * math.log(2)))


def pass_at_k(counts: Sequence[int], replies: int, k: int) -> float:
    """Mean probability that one of k of the `replies` is right. `counts`: how many are, of each problem.

    Unbiased: 1 - C(n - c, k) / C(n, k) (arXiv 2107.03374).
    """
    all_ways = math.comb(replies, k)
    return math.fsum(1 - math.comb(replies - right, k) / all_ways for right in counts) / len(counts)
