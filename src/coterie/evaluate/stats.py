"""Intervals over whole documents: resampled for a score, and of a t test in pairs for a difference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from coterie.config import DataError
from coterie.evaluate.bits import DocumentScore
from coterie.results.intervals import Interval, Score
from coterie.stats.bootstrap import ratio_interval
from coterie.stats.clusters import Numbers
from coterie.stats.seeds import seeded_difference


def _ratio_interval(bits: Numbers, num_bytes: Numbers, seed: int) -> Interval:
    """Ratio of sums with its interval over resampled documents, and their number."""
    return Interval(**ratio_interval(bits, num_bytes, seed).to_dict(), documents=len(bits))


def mean_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """The mean of one value per document with its interval over documents.

    Errors: `DataError` without a value.
    """
    if not values:
        raise DataError("there is nothing to average")
    return _ratio_interval(np.asarray(values, dtype=float), np.ones(len(values)), seed)


def score_intervals(scores: Sequence[DocumentScore], seed: int = 0) -> Score:
    """Bits per byte with its interval, over all documents and per slice.

    Errors: `DataError` without a document.
    """
    bits = [s.nats / math.log(2) for s in scores]
    return _intervals(bits, scores, lambda bits, num_bytes: _ratio_interval(bits, num_bytes, seed))


def difference_intervals(first: Sequence[DocumentScore], second: Sequence[DocumentScore]) -> Score:
    """Bits per byte of `first` minus `second`, paired by document, in the form of `score_intervals`.

    Errors: `DataError` if the two did not read the same documents, or none.
    """
    key = [(s.slice, s.num_bytes) for s in first]
    if key != [(s.slice, s.num_bytes) for s in second]:
        raise DataError(
            "the two models were not scored on the same documents, so they cannot be compared in pairs"
        )
    bits = [(a.nats - b.nats) / math.log(2) for a, b in zip(first, second, strict=True)]
    return _intervals(bits, first, _difference)


def _difference(bits: Numbers, num_bytes: Numbers) -> Interval:
    """As every comparison of models finds it; a single document has no interval, and no verdict either."""
    if len(bits) < 2:
        value = float(bits.sum() / num_bytes.sum())
        return Interval(value=value, low=value, high=value, documents=len(bits))
    return seeded_difference(bits[None], num_bytes).interval


def _intervals(
    bits: Sequence[float], scores: Sequence[DocumentScore], interval: Callable[[Numbers, Numbers], Interval]
) -> Score:
    if not scores:
        raise DataError("no held-out document to score; raise data.heldout_fraction or give more text")
    bits_array, bytes_array = np.asarray(bits), np.asarray([s.num_bytes for s in scores], dtype=float)
    names = np.asarray([s.slice for s in scores])
    whole = interval(bits_array, bytes_array)
    per_slice = {
        str(name): interval(bits_array[names == name], bytes_array[names == name])
        for name in sorted(set(names))
    }
    return Score(**whole.to_dict(), per_slice=per_slice)
