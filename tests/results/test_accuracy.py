"""Intervals and paired tests against scipy's numbers and by simulation."""

from __future__ import annotations

import itertools
import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.results.accuracy import accuracy, accuracy_change, mcnemar, pass_at_k


@pytest.mark.parametrize(("right", "count"), [(8, 10), (0, 10), (10, 10), (500, 1000), (1, 7)])
def test_intervals_are_where_the_score_test_rejects(right: int, count: int) -> None:
    found = accuracy([True] * right + [False] * (count - right))
    assert found.value == right / count and found.problems == count
    for end in (found.low, found.high):
        if 1e-9 < end < 1 - 1e-9:
            z = (right / count - end) / math.sqrt(end * (1 - end) / count)
            assert abs(z) == pytest.approx(1.959964, rel=1e-6)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_test(gained: int, lost: int) -> None:
    count = gained + lost
    tail = Fraction(sum(math.comb(count, k) for k in range(min(gained, lost) + 1)), 2**count)
    assert mcnemar(gained, lost) == pytest.approx(float(min(Fraction(1), 2 * tail)), rel=1e-9)
    assert mcnemar(lost, gained) == mcnemar(gained, lost)


def test_large_counts_do_not_overflow() -> None:
    assert mcnemar(1500, 1500) == pytest.approx(1.0)
    assert 0 < mcnemar(1700, 1300) < 1e-12
    assert mcnemar(999, 0) == pytest.approx(2.0 * 2.0**-999)


def test_identical_answers_are_no_change() -> None:
    found = accuracy_change([True, False] * 50, [True, False] * 50)
    assert (found.gained, found.lost, found.p) == (0, 0, 1.0)


def test_intervals_cover_as_often_as_they_say() -> None:
    draw = random.Random(0)
    inside = 0
    for _ in range(400):
        found = accuracy([draw.random() < 0.3 for _ in range(60)])
        inside += found.low <= 0.3 <= found.high
    assert inside / 400 > 0.95 - 3 * math.sqrt(0.95 * 0.05 / 400)


def test_pass_at_k_by_hand() -> None:
    assert pass_at_k([0, 1, 4], 4, 2) == pytest.approx((0 + 1 / 2 + 1) / 3)
    assert pass_at_k([0, 1, 4], 4, 1) == pytest.approx((0 + 1 / 4 + 1) / 3)
    assert pass_at_k([0, 1, 4], 4, 4) == pytest.approx(2 / 3)


@given(st.integers(1, 9), st.data())
def test_pass_at_k_is_the_mean_over_all_choices_of_k_replies(replies: int, data: st.DataObject) -> None:
    right, k = data.draw(st.integers(0, replies)), data.draw(st.integers(1, replies))
    tries = [at < right for at in range(replies)]
    chosen = [any(choice) for choice in itertools.combinations(tries, k)]
    assert pass_at_k([right], replies, k) == pytest.approx(sum(chosen) / len(chosen))
