"""Every epoch is a permutation, and every world size reads the same batches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.config import ConfigError
from coterie.data.order import Order, read_batches


@given(num_rows=st.integers(1, 300), seed=st.integers(0, 2**40), epoch=st.integers(0, 1000))
@settings(max_examples=200, deadline=None)
def test_every_epoch_is_a_permutation(num_rows, seed, epoch):
    order = Order(num_rows, seed)
    assert sorted(order[epoch * num_rows + n] for n in range(num_rows)) == list(range(num_rows))


def test_epochs_and_seeds_differ_and_places_are_uniform():
    first, second, other = (
        [Order(1000, s)[e * 1000 + n] for n in range(1000)] for s, e in [(1, 0), (1, 1), (2, 0)]
    )
    for a, b in [(first, second), (first, other), (first, list(range(1000)))]:
        assert sum(x == y for x, y in zip(a, b, strict=True)) < 10  # about 1 is expected
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.15
    # chi-square of where row 3 of 8 comes to lie over many seeds: 7 degrees of freedom, 99.99 % below 29.9
    counts = np.bincount([Order(8, seed)[3] for seed in range(4000)], minlength=8)
    assert ((counts - 500) ** 2 / 500).sum() < 29.9
    assert [Order(10, 0)[n] for n in range(10)] == PINNED


PINNED = [4, 6, 2, 9, 1, 0, 8, 5, 7, 3]  # a checkpoint's place in its data depends on these never changing


@pytest.mark.parametrize(("world", "start"), [(1, 0), (2, 0), (4, 8), (8, 3)])
def test_batches_are_the_same_for_every_world_size(world, start):
    rows = list(range(37))
    order = Order(37, 5)
    readers = [read_batches(rows, order, start, 8, rank, world) for rank in range(world)]
    for batch in range(12):
        parts = [next(reader) for reader in readers]
        together = [parts[n % world][n // world] for n in range(8)]
        assert together == [order[start + batch * 8 + n] for n in range(8)]


def test_batches_refuse_what_cannot_be_shared():
    rows, order = list(range(4)), Order(4, 0)
    for arguments in [
        (rows, order, 0, 6, 0, 4),
        (rows, Order(5, 0), 0, 4),
        (rows, order, -1, 4),
        (rows, order, 0, 4, 2, 2),
    ]:
        with pytest.raises(ConfigError):
            read_batches(*arguments)
    with pytest.raises(ConfigError):
        Order(0, 0)
