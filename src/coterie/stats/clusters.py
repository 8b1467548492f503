"""Values in clusters that depend on one another: documents, templates, or items that stand alone.

Apart from the tests, because these need scipy, which takes seconds to import where a disk is slow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from coterie.config.errors import DataError

Numbers = npt.NDArray[np.float64]


def checked(values: Sequence[float], clusters: Sequence[str]) -> tuple[Numbers, Sequence[str]]:
    """The values as an array with their clusters. Errors: `DataError` for none, or not one cluster each."""
    if not len(values):
        raise DataError("there is nothing to average")
    if len(values) != len(clusters):
        raise DataError(f"{len(values)} scores and {len(clusters)} clusters; give each score its cluster")
    return np.asarray(values, dtype=np.float64), clusters


def cluster_sums(values: Numbers, groups: Sequence[str]) -> Numbers:
    """(C,): the sum of each cluster's values."""
    _, index = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    return np.bincount(index, weights=values).astype(np.float64)


def cluster_error(values: Numbers, groups: Sequence[str]) -> float:
    """The standard error of the mean, with C / (C - 1) for few clusters; 0 for one cluster."""
    sums = cluster_sums(values - values.mean(), groups)
    number = len(sums)
    if number < 2:
        return 0.0
    return float(math.sqrt((sums**2).sum() * number / (number - 1)) / len(values))
