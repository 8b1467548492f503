"""Tolerances hold for every order of a sum, and are not so wide that mistakes fit in."""

from __future__ import annotations

import pytest
import torch

from tests.arithmetic import approx, assert_close, assert_norm_close, tolerance

LOOSE = 50  # a bound this many times the error of a thousand results would hide mistakes


def added(x: torch.Tensor) -> torch.Tensor:
    """The sums of rows, one column after another: `torch.sum` adds in pairs and `cumsum` in float64."""
    total = torch.zeros(len(x))
    for column in x.T:
        total = total + column
    return total


@pytest.mark.parametrize("terms", [4, 64, 1024])
def test_sums_in_two_orders(terms: int) -> None:
    x = torch.randn(1000, terms, generator=torch.Generator().manual_seed(terms))
    forward, backward = added(x), added(x.flip(1))
    seen, bound = float((forward - backward).abs().max()), tolerance(forward, terms)
    assert bound / LOOSE < seen <= bound
    assert_close(forward, backward, terms)
    forward[7] += 2 * bound
    with pytest.raises(AssertionError):
        assert_close(forward, backward, terms)


def test_a_product_in_bfloat16_is_rounded_once_however_long_it_is() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(64, 512, generator=generator).bfloat16() for _ in range(2))
    exact = x.double() @ weight.double().T
    found = x @ weight.T
    seen, bound = float((found.double() - exact).abs().max()), tolerance(exact, 512, dtype=torch.bfloat16)
    assert bound / LOOSE < seen <= bound
    assert_close(found, exact, terms=512)
    assert_norm_close(found, exact, terms=512)
    with pytest.raises(AssertionError, match="the difference has norm"):
        assert_norm_close(1.1 * found, exact, terms=512)


def test_numbers() -> None:
    near, one, large = 0.1 + 1e-8, approx(0.1, terms=4), approx(0.1, terms=4, size=10.0)
    assert near == one and near + 1e-6 != one and near + 1e-6 == large
    assert [0.5, near] == approx([0.5, 0.1], terms=4)
