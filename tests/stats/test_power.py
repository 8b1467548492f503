"""What a replay finds, by formula and by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from coterie.config.errors import DataError
from coterie.stats.power import replay_items, replay_power, smallest_difference


@pytest.mark.parametrize(("share", "items"), [(0.02, 149), (0.05, 59)])
def test_the_items_of_the_specification(share: float, items: int) -> None:
    assert replay_items(share) == items
    assert replay_power(share, items) >= 0.95 > replay_power(share, items - 1)
    drawn = np.random.default_rng(0).random((1000, items)) < share
    assert drawn.any(1).mean() == pytest.approx(0.95, abs=0.025)


def test_edges() -> None:
    assert smallest_difference(0.0, 10) is None and smallest_difference(0.1, 1) is None
    with pytest.raises(DataError, match="between 0 and 1"):
        replay_items(0)
