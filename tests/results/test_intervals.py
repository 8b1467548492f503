"""The one rule by which a difference decides between two."""

from __future__ import annotations

import pytest

from coterie.results.intervals import MIN_DOCUMENTS, Interval, lower


@pytest.mark.parametrize(
    ("low", "high", "documents", "who"),
    [
        (-2.0, -1.0, 100, "first"),
        (1.0, 2.0, 100, "second"),
        (-1.0, 1.0, 100, None),
        (0.0, 1.0, 100, None),
        (-2.0, -1.0, MIN_DOCUMENTS - 1, None),
        (-2.0, -1.0, None, "first"),
    ],
)
def test_lower(low: float, high: float, documents: int | None, who: str | None) -> None:
    assert lower(Interval(value=(low + high) / 2, low=low, high=high, documents=documents)) == who
