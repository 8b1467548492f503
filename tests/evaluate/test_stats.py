"""Intervals cover the truth as often as they claim, and pairing sharpens them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from coterie.config import DataError
from coterie.evaluate.bits import DocumentScore
from coterie.evaluate.stats import difference_intervals, score_intervals
from coterie.report.words import winner


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for trial in range(60):
        scores = [DocumentScore("a", float(random.normal(10, 3)) * math.log(2), 10, 5) for _ in range(60)]
        interval = score_intervals(scores, seed=trial)
        covered += interval.low <= 1.0 <= interval.high
    assert 50 <= covered <= 60


def test_pairing_finds_a_small_steady_difference_in_large_noise() -> None:
    random = np.random.default_rng(3)
    base = [abs(float(random.normal(100, 60))) + 5 for _ in range(80)]
    first = [DocumentScore("a", value * 0.99, 50, 5) for value in base]
    second = [DocumentScore("a", value, 50, 5) for value in base]
    assert difference_intervals(first, second).high < 0
    alone = [score_intervals(side) for side in (first, second)]
    assert alone[0].high > alone[1].low, "unpaired intervals overlap: the pairing did the work"
    with pytest.raises(DataError, match="same documents"):
        difference_intervals(first, second[1:])


def test_few_documents_never_make_a_winner() -> None:
    for num in (1, 7, 8):
        first = [DocumentScore("a", 9.0 + i, 50, 5) for i in range(num)]
        second = [DocumentScore("a", 10.0 + i, 50, 5) for i in range(num)]
        interval = difference_intervals(first, second)
        assert interval.documents == num
        assert winner(interval) == ("moe" if num >= 8 else None)
