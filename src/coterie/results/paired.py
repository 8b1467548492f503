"""The difference of two models on the same items, with what may be concluded from it."""

from __future__ import annotations

from coterie.config import Settings
from coterie.results.intervals import Estimate


class PairedDifference(Settings):
    """Second minus first on the same items.

    `difference`: with its 95 % interval. `p`: two-sided; `test` names how it was found. `gained`: items that
    only the second answers rightly; `lost`: only the first. `mde80`: the smallest difference that would have
    been found with probability 0.8. `p_holm`: corrected for all tasks that were compared.
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

    def words(self) -> str:
        """One line for people."""
        change = self.difference
        return (
            f"{self.first:.1%} -> {self.second:.1%} ({change.value:+.1%}, {change.low:+.1%} to "
            f"{change.high:+.1%}; {self.gained} gained, {self.lost} lost of {self.items}, p = {self.p:.2g})"
        )
