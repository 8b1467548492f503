"""A difference that was measured with several seeds on the same documents, and its interval over both."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from coterie.config.errors import DataError
from coterie.results.intervals import Interval


@dataclass(frozen=True)
class SeededDifference:
    """`interval`: over seeds and documents. `p`: two-sided. `per_seed`: the difference of each seed.

    `mde80`: the smallest difference that would be found with probability 0.8. `from_seeds`: share of the
    variance that the seeds make; None for a single seed, whose interval is over documents alone.
    """

    interval: Interval
    p: float
    per_seed: list[float]
    mde80: float
    from_seeds: float | None


def seeded_difference(
    values_SN: npt.NDArray[np.float64], sizes_N: npt.NDArray[np.float64]
) -> SeededDifference:
    """Mean over S seeds of the sums over N documents, per unit of size, with its 95 % interval.

    `values_SN`: the difference of each document, such as bits. The variance is that over seeds plus that of
    a ratio over documents; Student's t has the degrees of freedom of Welch and Satterthwaite.
    Errors: `DataError` for fewer than two documents.
    """
    seeds, documents = values_SN.shape
    if documents < 2:
        raise DataError(f"{documents} document: no interval can be given; hold out more text")
    total = float(sizes_N.sum())
    per_seed = values_SN.sum(axis=1) / total
    value = float(per_seed.mean())
    rest_N = values_SN.mean(axis=0) - value * sizes_N
    over_documents = float(documents / (documents - 1) * (rest_N**2).sum() / total**2)
    over_seeds = float(per_seed.var(ddof=1)) / seeds if seeds > 1 else 0.0
    variance = over_documents + over_seeds
    freedom = documents - 1.0
    if over_seeds > 0:
        freedom = variance**2 / (over_seeds**2 / (seeds - 1) + over_documents**2 / (documents - 1))
    error, quantile = math.sqrt(variance), float(stats.t.ppf(0.975, freedom))
    return SeededDifference(
        Interval(
            value=value, low=value - quantile * error, high=value + quantile * error, documents=documents
        ),
        2 * float(stats.t.sf(abs(value) / error, freedom)) if error > 0 else float(value == 0),
        [float(one) for one in per_seed],
        error * (quantile + float(stats.t.ppf(0.8, freedom))),
        over_seeds / variance if seeds > 1 and variance > 0 else None,
    )
