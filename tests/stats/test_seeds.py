"""A difference over seeds and documents: its value, its interval, and how often that holds the truth."""

from __future__ import annotations

import numpy as np
import pytest

from coterie.config import DataError
from coterie.stats.seeds import seeded_difference

SIZES = np.array([100.0, 300.0, 50.0, 150.0, 80.0, 120.0])


def test_the_value_is_a_ratio_of_sums() -> None:
    values = np.array([[1.0, 2, 3, 4, 5, 6], [0.0, 0, 0, 0, 0, 8]])
    found = seeded_difference(values, SIZES)
    assert found.per_seed == [pytest.approx(21 / 800), pytest.approx(8 / 800)]
    assert found.interval.value == pytest.approx(14.5 / 800)
    assert found.interval.documents == 6
    assert found.interval.low < found.interval.value < found.interval.high
    assert found.mde80 > found.interval.high - found.interval.value


def test_seeds_that_agree_add_nothing_and_one_seed_is_documents_alone() -> None:
    one = np.array([[1.0, 2, 3, 4, 5, 6]])
    alone, twice = seeded_difference(one, SIZES), seeded_difference(np.repeat(one, 2, 0), SIZES)
    assert alone.interval == twice.interval
    assert alone.from_seeds is None and twice.from_seeds == 0.0
    apart = seeded_difference(np.concatenate([one, -one]), SIZES)
    assert apart.from_seeds is not None and apart.from_seeds > 0.9
    assert apart.interval.low < 0 < apart.interval.high
    with pytest.raises(DataError, match="no interval"):
        seeded_difference(one[:, :1], SIZES[:1])


@pytest.mark.parametrize(("seeds", "by_seed"), [(3, 0.03), (5, 0.002)])
def test_the_interval_holds_the_truth_as_often_as_it_says(seeds: int, by_seed: float) -> None:
    random, held, rounds, documents = np.random.default_rng(seeds), 0, 600, 60
    for _ in range(rounds):
        sizes = random.uniform(50, 400, documents)
        effect = -0.01 + random.normal(0, by_seed, (seeds, 1))
        values = sizes * (effect + random.normal(0, 0.02, documents))
        interval = seeded_difference(values, sizes).interval
        held += interval.low <= -0.01 <= interval.high
    # 95 % of 600, less three standard deviations of that count and a little for ratios of few documents.
    assert 0.92 <= held / rounds <= 0.99
