"""The interval of a score that was chosen as the best of several covers the truth; the plain one does not."""

from __future__ import annotations

import numpy as np
import pytest

from coterie.config.errors import DataError
from coterie.stats.selection import best_of
from coterie.stats.single import task_score


def coverage(models: int, spread: float, worlds: int = 150, items: int = 150) -> tuple[float, float, float]:
    """Of the best of several models: how often its truth is in the corrected and in the plain interval.

    And the mean error of the corrected value as a share of the mean error of the score.
    """
    rng = np.random.default_rng(7)
    inside, plain, errors = 0, 0, []
    for _ in range(worlds):
        truth = np.clip(0.6 + spread * rng.standard_normal(models), 0.05, 0.95)
        values = (rng.random((models, items)) < truth[:, None]).astype(float)
        chosen = int(values.mean(1).argmax())
        found = best_of(values, [str(n) for n in range(items)], chosen, draws=400)
        usual = task_score(values[chosen].tolist(), [str(n) for n in range(items)])
        inside += found.low <= truth[chosen] <= found.high
        plain += usual.low <= truth[chosen] <= usual.high
        errors.append((found.value - truth[chosen], values[chosen].mean() - truth[chosen]))
    mean = np.array(errors).mean(0)
    return inside / worlds, plain / worlds, float(abs(mean[0]) / mean[1])


def test_the_best_of_27_equal_models_is_no_better_than_they_are() -> None:
    """Of 150 worlds, a coverage of 95 % gives at least 90 % with probability 0.99 (binomial)."""
    corrected, plain, left = coverage(27, 0.0)
    assert corrected >= 0.9 and plain < 0.6 and left < 0.6


def test_models_that_differ_are_covered_too() -> None:
    corrected, _, left = coverage(8, 0.05)
    assert corrected >= 0.9 and left < 0.8


def test_one_model_alone_has_its_plain_interval() -> None:
    rng = np.random.default_rng(1)
    values = (rng.random((1, 400)) < 0.7).astype(float)
    clusters = [str(n) for n in range(400)]
    found, usual = best_of(values, clusters, 0), task_score(values[0].tolist(), clusters)
    assert found.value == pytest.approx(values.mean(), abs=0.003)
    assert (found.low, found.high) == pytest.approx((usual.low, usual.high), abs=0.01)


def test_items_of_one_cluster_count_once() -> None:
    """Ten copies of each item: the interval is that of the items, not of ten times as many."""
    rng = np.random.default_rng(2)
    single = (rng.random((3, 60)) < 0.5).astype(float)
    one = best_of(single, [str(n) for n in range(60)], 1)
    ten = best_of(np.repeat(single, 10, 1), [str(n // 10) for n in range(600)], 1)
    assert (ten.value, ten.low, ten.high) == pytest.approx((one.value, one.low, one.high))


def test_a_model_that_is_not_the_best_keeps_its_score_as_value() -> None:
    values = np.array([[1.0, 1, 1, 0] * 20, [1.0, 0, 0, 0] * 20])
    assert best_of(values, [str(n) for n in range(80)], 1).value == pytest.approx(0.25)


def test_nothing_to_correct_is_refused() -> None:
    with pytest.raises(DataError, match="needs items"):
        best_of(np.ones((2, 0)), [], 0)
    with pytest.raises(DataError, match="among those"):
        best_of(np.ones((2, 3)), ["a", "b", "c"], 2)
