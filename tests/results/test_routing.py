"""Specialisation by hand: 0 where all texts are routed alike, 1 where no expert is shared."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.results.routing import order_experts, specialisation, specialists
from tests.report.fake import fake_results


def test_specialisation_ends():
    assert specialisation([[0.1, 0.9, 0.0]] * 4) == pytest.approx(0)
    assert specialisation([[1, 0, 0], [0, 0.3, 0.7]]) == pytest.approx(1)
    assert specialisation([[0.5, 0.5]]) == 0


def test_specialisation_by_hand():
    # mean (3/4, 1/4): slice 1 adds 1 * log(4/3), slice 2 adds 1/2 log(2/3) + 1/2 log 2
    expected = (math.log(4 / 3) + 0.5 * math.log(2 / 3) + 0.5 * math.log(2)) / 2 / math.log(2)
    assert specialisation([[1.0, 0.0], [0.5, 0.5]]) == pytest.approx(expected)


@given(
    st.integers(2, 6).flatmap(
        lambda e: st.lists(st.lists(st.floats(0.01, 1), min_size=e, max_size=e), min_size=2)
    )
)
def test_specialisation_stays_in_range(rows):
    share = [[x / sum(row) for x in row] for row in rows]
    assert -1e-12 <= specialisation(share) <= 1 + 1e-12


def test_order_makes_blocks():
    share = [[0.1, 0.6, 0.1, 0.2], [0.1, 0.2, 0.6, 0.1], [0.8, 0.2, 0.0, 0.0]]
    assert order_experts(share) == [3, 1, 2, 0]


def test_the_strongest_specialist_is_found():
    results = fake_results(layers=2, experts=4, slices=("a", "b"))
    share = [[[0.25] * 4] * 2, [[0.7, 0.1, 0.1, 0.1], [0.1, 0.3, 0.3, 0.3]]]
    best = specialists(results.routing.model_copy(update={"share": share}), num=1)[0]
    assert (best.layer, best.expert, best.slice, best.share) == (1, 0, "a", 0.7)
    assert best.lift == pytest.approx(0.7 / 0.4)
