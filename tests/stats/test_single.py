"""Intervals of one score against scipy and statsmodels, and their coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from coterie.config.errors import DataError
from coterie.stats.clusters import cluster_error
from coterie.stats.single import between_seeds, task_score


def alone(count: int) -> list[str]:
    return [str(number) for number in range(count)]


@pytest.mark.parametrize(("right", "count"), [(0, 10), (3, 10), (10, 10), (57, 200), (299, 299)])
def test_few_items_have_wilsons_interval(right: int, count: int) -> None:
    score = task_score([1.0] * right + [0.0] * (count - right), alone(count))
    low, high = proportion_confint(right, count, method="wilson")
    assert score.method == "wilson" and score.clusters == count
    assert (score.low, score.high) == pytest.approx((low, high), abs=1e-6)


@pytest.mark.parametrize("cost", [False, True])
def test_clusters_as_statsmodels_has_them(cost: bool) -> None:
    rng = np.random.default_rng(5)
    groups = [str(number) for number in rng.integers(0, 40, 400)]
    values = rng.random(400) * (3 if cost else 1)
    score = task_score(values.tolist(), groups, lower_is_better=cost)
    index = np.unique(groups, return_inverse=True)[1]
    fit = sm.OLS(values, np.ones(400)).fit(cov_type="cluster", cov_kwds={"groups": index}, use_t=True)
    assert cluster_error(values, groups) == pytest.approx(fit.bse[0], rel=1e-9)
    assert (score.low, score.high) == pytest.approx(tuple(fit.conf_int()[0]), rel=1e-9)
    assert score.method == "cluster t" and score.clusters == len(set(groups))


def test_many_items_have_students_interval() -> None:
    values = np.random.default_rng(0).random(500)
    score = task_score(values.tolist(), alone(500))
    low, high = stats.t.interval(0.95, 499, values.mean(), stats.sem(values))
    assert (score.low, score.high) == pytest.approx((low, high), rel=1e-9)


def test_the_smallest_difference_that_is_found() -> None:
    """The example of the specification: 1,319 items in 100 clusters, 0.613 +- 0.027: 0.038."""
    error = 0.027 / stats.t.ppf(0.975, 99)
    assert error * (stats.t.ppf(0.975, 99) + stats.t.ppf(0.8, 99)) == pytest.approx(0.038, abs=0.001)
    rng = np.random.default_rng(1)
    score = task_score(rng.integers(0, 2, 1000).tolist(), [str(n // 5) for n in range(1000)])
    assert score.mde80 == pytest.approx((score.high - score.low) / 2 * 1.43, rel=0.01)
    # Pairs whose scores correlate by one half and differ by that much are told apart 8 times of 10.
    deviation, count = 0.4, 1000
    smallest = task_score((0.5 + deviation * np.repeat([1, -1], count // 2)).tolist(), alone(count)).mde80
    assert smallest is not None
    differences = rng.normal(smallest, deviation, (2000, count))
    t = differences.mean(1) / (differences.std(1, ddof=1) / math.sqrt(count))
    assert (np.abs(t) > stats.t.ppf(0.975, count - 1)).mean() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(("share", "count"), [(0.1, 30), (0.5, 30), (0.9, 150), (0.95, 280)])
def test_wilson_covers(share: float, count: int) -> None:
    rng = np.random.default_rng(3)
    found = [
        task_score([1.0] * right + [0.0] * (count - right), alone(count))
        for right in rng.binomial(count, share, 1500)
    ]
    covered = np.mean([score.low <= share <= score.high for score in found])
    assert covered > 0.95 - 3.3 * math.sqrt(0.95 * 0.05 / 1500) - 0.01  # Wilson's own dips are below 0.01


@pytest.mark.parametrize("clusters", [12, 100])
def test_clusters_cover_where_items_alone_would_not(clusters: int) -> None:
    """Ten items a cluster that agree much: the naive interval misses far too often, ours does not."""
    rng = np.random.default_rng(clusters)
    groups = [str(number // 10) for number in range(clusters * 10)]
    truth = np.clip(np.random.default_rng(9).normal(0.6, 0.3, 2_000_000), 0, 1).mean()
    ours = naive = 0
    for _ in range(800):
        shares = np.repeat(np.clip(rng.normal(0.6, 0.3, clusters), 0, 1), 10)
        values = (rng.random(clusters * 10) < shares).astype(float).tolist()
        score = task_score(values, groups)
        ours += score.low <= truth <= score.high
        half = 1.96 * np.std(values) / math.sqrt(len(values))
        naive += abs(score.value - truth) <= half
    assert ours / 800 > 0.95 - 3.3 * math.sqrt(0.95 * 0.05 / 800) - 0.01
    assert naive / 800 < 0.85


def test_edges() -> None:
    assert task_score([1.0, 1.0], ["a", "a"]).method == "none: one cluster"
    same = task_score([1.0] * 40, [str(n // 4) for n in range(40)])
    assert same.high == 1.0 and same.low == pytest.approx(
        proportion_confint(10, 10, method="wilson")[0], abs=1e-6
    )
    for values, clusters, says in (
        ([], [], "nothing"),
        ([2.0], ["a"], "from 0 to 1"),
        ([1.0], [], "clusters"),
    ):
        with pytest.raises(DataError, match=says):
            task_score(values, clusters)


def test_between_seeds_is_a_deviation_with_its_interval() -> None:
    assert between_seeds([0.5]) is None
    scores = [0.61, 0.64, 0.6, 0.63]
    found = between_seeds(scores)
    assert found is not None and found.value == pytest.approx(np.std(scores, ddof=1))
    low, high = (math.sqrt(3 * np.var(scores, ddof=1) / stats.chi2.ppf(at, 3)) for at in (0.975, 0.025))
    assert (found.low, found.high) == pytest.approx((low, high))
