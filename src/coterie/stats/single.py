"""One score with its interval, over items or over clusters of items that depend on one another."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from coterie.config.errors import DataError
from coterie.results.accuracy import wilson
from coterie.results.evaluation import TaskScore
from coterie.results.intervals import Estimate
from coterie.stats.clusters import checked, cluster_error
from coterie.stats.power import POWER, smallest_difference

FEW = 300  # items below which an interval from the central limit theorem is too narrow (arXiv 2503.01747)
_Z = float(stats.norm.ppf(0.975))


def task_score(
    values: Sequence[float], clusters: Sequence[str], metric: str = "accuracy", lower_is_better: bool = False
) -> TaskScore:
    """The mean of scores with its 95 % interval: of scores from 0 to 1, or of costs (`lower_is_better`).

    Fewer than `FEW` scores of items that do not depend on one another: Wilson's interval, which for scores
    between 0 and 1 is on the safe side. Otherwise the standard error over clusters with Student's t, C - 1
    degrees of freedom (arXiv 2411.00640). `mde80` supposes that the other model's scores vary as these do and
    correlate with them by one half, so that the difference has the standard error of the score.
    Errors: `DataError` for no value, and for a score outside 0 to 1.
    """
    array, groups = checked(values, clusters)
    floor, ceiling = (-math.inf, math.inf) if lower_is_better else (0.0, 1.0)
    if array.min() < floor or array.max() > ceiling:
        raise DataError(f"scores from {array.min():g} to {array.max():g}; a score is from 0 to 1")
    mean, count, number = float(array.mean()), len(array), len(set(groups))
    error = cluster_error(array, groups)
    if not lower_is_better and (number == count < FEW or (error == 0 and number > 1)):
        method = "wilson" if number == count else "wilson over clusters"
        low, high = wilson(mean, number)
        reach: float | None = (high - low) / 2 * (1 + float(stats.norm.ppf(POWER)) / _Z)
    elif number == 1:
        method, reach = "none: one cluster", None
        low, high = (mean, mean) if lower_is_better else (0.0, 1.0)
    else:
        method = "cluster t" if number < count else "t"
        quantile = float(stats.t.ppf(0.975, number - 1))
        reach = smallest_difference(error, number)
        low, high = max(floor, mean - quantile * error), min(ceiling, mean + quantile * error)
    return TaskScore(
        value=mean, low=min(low, mean), high=max(high, mean), metric=metric, method=method,
        clusters=number, mde80=reach, lower_is_better=lower_is_better,
    )  # fmt: skip


def between_seeds(scores: Sequence[float]) -> Estimate | None:
    """The standard deviation of a score between sampling seeds, with its 95 % interval; None below two.

    It is apart from the variation over items, which all seeds share.
    """
    if len(scores) < 2:
        return None
    freedom = len(scores) - 1
    deviation = float(np.std(scores, ddof=1))
    low, high = (deviation * math.sqrt(freedom / float(stats.chi2.ppf(at, freedom))) for at in (0.975, 0.025))
    return Estimate(value=deviation, low=low, high=high)
