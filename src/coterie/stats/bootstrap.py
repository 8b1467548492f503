"""Intervals by resampling whole clusters: documents, templates, or items that stand alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coterie.config.errors import DataError
from coterie.results.intervals import Estimate
from coterie.stats.clusters import Numbers, checked, cluster_sums

RESAMPLES = 2000


def ratios(above: Numbers, below: Numbers, rng: np.random.Generator, resamples: int = RESAMPLES) -> Numbers:
    """(resamples,): the ratio of the sums of two values per cluster, over resampled clusters."""
    count = len(above)
    found = np.empty(resamples)
    for start in range(0, resamples, 100):  # in blocks: resamples x clusters would be large
        block = found[start : start + 100]
        weights = rng.multinomial(count, np.full(count, 1 / count), size=len(block))
        block[:] = (weights @ above) / (weights @ below)
    return found


def ratio_interval(above: Numbers, below: Numbers, seed: int = 0) -> Estimate:
    """A ratio of sums with its 95 % percentile interval over resampled clusters."""
    return estimate(float(above.sum() / below.sum()), ratios(above, below, np.random.default_rng(seed)))


def bootstrap_mean(values: Sequence[float], clusters: Sequence[str], seed: int = 0) -> Estimate:
    """The mean of the values, with its interval over clusters. Errors: `DataError` for no value."""
    array, groups = checked(values, clusters)
    return ratio_interval(cluster_sums(array, groups), cluster_sums(np.ones(len(array)), groups), seed)


def macro_average(tasks: Sequence[tuple[Sequence[float], Sequence[str]]], seed: int = 0) -> Estimate:
    """The mean of the tasks' means, each task given as its scores and their clusters.

    Clusters are resampled within their task, so that the interval does not rest on the tasks' own intervals.
    Errors: `DataError` for no task, or one without a score.
    """
    if not tasks:
        raise DataError("there is nothing to average")
    rng = np.random.default_rng(seed)
    means, drawn = [], np.zeros(RESAMPLES)
    for values, clusters in tasks:
        array, groups = checked(values, clusters)
        means.append(float(array.mean()))
        drawn += ratios(cluster_sums(array, groups), cluster_sums(np.ones(len(array)), groups), rng)
    return estimate(sum(means) / len(means), drawn / len(tasks))


def estimate(value: float, drawn: Numbers) -> Estimate:
    """A value with the middle 95 % of what was drawn for it."""
    low, high = (float(end) for end in np.quantile(drawn, (0.025, 0.975)))
    return Estimate(value=value, low=min(low, value), high=max(high, value))
