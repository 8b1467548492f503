"""Which score of a task counts, and what must be said above it."""

from __future__ import annotations

import pytest

from coterie.results.evaluation import ClassScore, ScoreSplits
from coterie.results.intervals import Estimate


def split(clean: int, contaminated: int, unscannable: int = 0, change: Estimate | None = None) -> ScoreSplits:
    return ScoreSplits(
        clean=ClassScore(items=clean),
        contaminated=ClassScore(items=contaminated),
        unscannable=ClassScore(items=unscannable),
        clean_minus_all=change,
        coverage=1.0,
    )


@pytest.mark.parametrize(
    ("contaminated", "clean_counts", "flagged"),
    [(0, False, False), (1, False, False), (2, False, True), (5, False, True), (6, True, True)],
)
def test_the_share_of_contaminated_items_decides(
    contaminated: int, clean_counts: bool, flagged: bool
) -> None:
    found = split(90 - contaminated, contaminated, 10)
    assert (found.clean_counts, found.is_flagged) == (clean_counts, flagged)


def test_a_certain_difference_decides_alone() -> None:
    lower = Estimate(value=-0.04, low=-0.06, high=-0.01)
    either = Estimate(value=-0.01, low=-0.03, high=0.01)
    assert split(99, 1, change=lower).clean_counts and split(99, 1, change=lower).is_flagged
    assert not split(99, 1, change=either).clean_counts and not split(99, 1, change=either).is_flagged


def test_a_split_of_nothing_has_nothing_contaminated() -> None:
    assert split(0, 0).contaminated_share == 0 and not split(0, 0).is_flagged
