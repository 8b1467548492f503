"""Resampled clusters: against the exact error of a mean, and the average of several tasks."""

from __future__ import annotations

import numpy as np
import pytest

from coterie.config.errors import DataError
from coterie.stats.bootstrap import bootstrap_mean, macro_average
from coterie.stats.clusters import cluster_error


def test_the_interval_of_a_clustered_mean() -> None:
    rng = np.random.default_rng(1)
    groups = [str(n // 4) for n in range(800)]
    values = np.repeat(rng.random(200), 4) * 0.7 + rng.random(800) * 0.3
    found = bootstrap_mean(values.tolist(), groups)
    half = 1.96 * cluster_error(values, groups)
    assert found.value == pytest.approx(values.mean())
    # 2,000 resamples place each end within about 5 % of the half-width.
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.08)


def test_the_average_of_tasks_weighs_tasks_and_not_items() -> None:
    rng = np.random.default_rng(2)
    small, large = rng.random(50).tolist(), (rng.random(500) * 0.5).tolist()
    tasks = [(small, [str(n) for n in range(50)]), (large, [str(n) for n in range(500)])]
    found = macro_average(tasks)
    assert found.value == pytest.approx((np.mean(small) + np.mean(large)) / 2)
    error = np.sqrt(np.var(small, ddof=1) / 50 + np.var(large, ddof=1) / 500) / 2
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.1)
    with pytest.raises(DataError):
        macro_average([])
