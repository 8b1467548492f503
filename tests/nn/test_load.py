"""Load statistics against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from coterie.nn.load import LoadStatistics, load_statistics


def test_even_use():
    assert load_statistics([5, 5, 5]) == LoadStatistics(pytest.approx(1.0), 1.0, ())


def test_one_expert_with_everything():
    assert load_statistics([0, 8, 0, 0]) == LoadStatistics(0.0, 4.0, (0, 2, 3))


def test_uneven_use():
    found = load_statistics([3, 1, 0])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(3)
    assert (
        found.entropy == pytest.approx(entropy)
        and found.overload == pytest.approx(2.25)
        and found.dead == (2,)
    )


@pytest.mark.parametrize("counts", [[0, 0], [7], []])
def test_nothing_to_compare(counts):
    found = load_statistics(counts)
    assert (found.entropy, found.overload) == (1.0, 1.0)
