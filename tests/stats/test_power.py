"""What a comparison and a replay find, by formula and by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from coterie.stats.power import replay_power, smallest_difference


@pytest.mark.parametrize(("share", "items"), [(0.02, 149), (0.05, 59)])
def test_the_items_of_the_specification(share: float, items: int) -> None:
    """Of a million items, as many as are drawn with replacement."""
    total = 10**6
    assert replay_power(total, items, share) >= 0.95 > replay_power(total, items - 1, share)


def test_a_small_report_needs_fewer() -> None:
    random = np.random.default_rng(0)
    changed, count = 8, 120
    found = [(random.permutation(400)[:count] < changed).any() for _ in range(1000)]
    expected = replay_power(400, count, changed / 400)
    assert abs(np.mean(found) - expected) < 4 * (expected * (1 - expected) / 1000) ** 0.5
    assert expected > 1 - (1 - 0.02) ** count


def test_edges() -> None:
    assert smallest_difference(0.0, 10) is None and smallest_difference(0.1, 1) is None
    assert replay_power(10, 20, 0.1) == 1.0 and replay_power(10, 5, 0.0) == 0.0
