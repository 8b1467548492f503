"""Exact rank tests against counting all cases, their error by simulation, and drawing that stops early."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

from coterie.stats.ranks import exchangeable, sequential_rank


def midrank(value: float, group: list[float]) -> Fraction:
    return sum((Fraction(value > one) + Fraction(value == one, 2) for one in group), start=Fraction(-1, 2))


@pytest.mark.parametrize("seed", range(6))
def test_the_p_value_counts_all_choices(seed: int) -> None:
    random = np.random.default_rng(seed)
    groups = [[float(v) for v in random.integers(0, 4, size)] for size in (3, 4, 2, 5)]
    ranks = [[midrank(value, group) for value in group] for group in groups]
    own = sum(row[0] for row in ranks)
    sums = [sum(choice) for choice in itertools.product(*ranks)]
    found = exchangeable([(group[0], group[1:]) for group in groups])
    assert found.p == pytest.approx(sum(one >= own for one in sums) / len(sums), rel=1e-12)
    assert found.groups == 4
    places = [row[0] / (len(row) - 1) for row in ranks]
    assert found.place == pytest.approx(float(sum(places) / 4))


def test_certain_cases() -> None:
    assert exchangeable([]).p == exchangeable([(1.0, [])]).p == 1.0
    assert exchangeable([(2.0, [0.0, 1.0])] * 3).p == pytest.approx(3.0**-3)
    assert exchangeable([(1.0, [1.0, 1.0])] * 9).p == 1.0 and exchangeable([(0.0, [1.0])] * 9).p == 1.0
    assert exchangeable([(1.0, [0.0] * 5)] * 300).p == pytest.approx(6.0**-300, rel=1e-9)


@pytest.mark.parametrize("share", [0.03, 0.5, 0.97])
def test_right_and_wrong_answers_alike_are_not_flagged(share: float) -> None:
    """Also where nearly all are right, at which a t test over templates errs too often."""
    random, level, runs = np.random.default_rng(1), 0.05, 800
    ps = []
    for _ in range(runs):
        scores = (random.random((20, 6)) < share).astype(float)
        ps.append(exchangeable([(row[0], row[1:].tolist()) for row in scores]).p)
    assert np.mean(np.asarray(ps) <= level) <= level + 4 * (level * (1 - level) / runs) ** 0.5


def test_drawing_stops_where_nothing_is_special() -> None:
    random = np.random.default_rng(0)

    def draw(count: int) -> list[float]:
        return random.random(count).tolist()

    p, seen = sequential_rank(0.5, draw, 10_000)
    assert 0.2 < p < 0.8 and 10 <= seen <= 64
    assert sequential_rank(2.0, draw, 999) == (1 / 1000, 999)
    ps = np.array([sequential_rank(float(random.random()), draw, 500)[0] for _ in range(800)])
    for level in (0.02, 0.1, 0.5):
        assert np.mean(ps <= level) <= level + 4 * (level * (1 - level) / 800) ** 0.5
    assert np.mean(ps <= 0.5) > 0.4
