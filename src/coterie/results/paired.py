"""The difference of two models on the same items, with what may be concluded from it."""

from __future__ import annotations

from typing import Literal

from coterie.config import Settings
from coterie.results.intervals import MIN_DOCUMENTS, Estimate, Interval, lower

LEVEL = 0.05  # of a corrected p value, below which a difference counts as shown


class PairedDifference(Settings):
    """Second minus first on the same items.

    `difference`: with its 95 % interval. `p`: two-sided; `test` names how it was found. `gained`: items on
    which the second is better; `lost`: the first. `mde80`: the smallest difference that would have been found
    with probability 0.8. `p_holm`: corrected for all differences that were looked at. `lower_is_better`: the
    scores are costs, such as bits per byte.
    """

    first: float
    second: float
    difference: Estimate
    p: float
    test: str
    items: int
    clusters: int
    gained: int
    lost: int
    mde80: float | None = None
    p_holm: float | None = None
    lower_is_better: bool = False

    @property
    def better(self) -> Literal["first", "second"] | None:
        """Which of the two is shown to be better: by the interval and by the corrected test."""
        p = self.p if self.p_holm is None else self.p_holm
        moved = self.difference
        less = lower(Interval(value=moved.value, low=moved.low, high=moved.high, documents=self.clusters))
        if less is None or p >= LEVEL:
            return None
        return "second" if (less == "first") == self.lower_is_better else "first"

    @property
    def why_not(self) -> str:
        """Why neither is shown to be better, or what may still be there, in words."""
        if self.clusters < MIN_DOCUMENTS:
            return f"{self.clusters} are too few for a verdict"
        if self.mde80 is None:
            return "nothing differs"
        return f"less than {self.number(self.mde80)} may be there"

    def words(self) -> str:
        """One line for people."""
        change, number = self.difference, self.number
        unit = " bits per byte" if self.lower_is_better else ""
        return (
            f"{number(self.first)} -> {number(self.second)}{unit} ({number(change.value, '+')}, "
            f"{number(change.low, '+')} to {number(change.high, '+')}; {self.gained} gained, {self.lost} "
            f"lost of {self.items}, p = {self.p:.2g})"
        )

    def number(self, value: float, sign: str = "") -> str:
        """A score or a difference as text; `sign`: "+" to always write it."""
        return f"{value:{sign}.4f}" if self.lower_is_better else f"{value:{sign}.1%}"
