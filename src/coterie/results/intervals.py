"""Estimates with their uncertainty. Every interval is a 95 % interval, most of them over documents."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from coterie.config import Settings

# Of fewer documents no interval is given. A sign test shows why: where all n documents move the same way,
# chance alone does that with probability 2 / 2^n, which is below 5 % only from six on.
FEWEST = 6
MIN_DOCUMENTS = 8  # an interval resampled from fewer documents is too narrow to rely on
TIMING_NOISE = 0.05  # timings of one program differ by about this much on a shared machine


class Few(Settings):
    """A mean over fewer than `FEWEST` documents, which is too few for an interval and for a verdict."""

    value: float
    documents: int


class Estimate(Settings):
    """An estimate and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"value {self.value} is outside its interval {self.low} .. {self.high}")
        return self


class Interval(Estimate):
    """An estimate with its interval, and the number of documents behind it (None: not known)."""

    documents: int | None = None


class Score(Interval):
    """An estimate over all held-out documents, and the same per slice (kind of text)."""

    per_slice: dict[str, Interval]


def lower(difference: Interval) -> Literal["first", "second"] | None:
    """Which of two is lower, of an interval of first minus second.

    None if the interval includes zero or rests on too few documents. Every verdict on two models asks here.
    """
    if difference.documents is not None and difference.documents < MIN_DOCUMENTS:
        return None
    if difference.high < 0:
        return "first"
    return "second" if difference.low > 0 else None
