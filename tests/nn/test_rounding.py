"""Codes that make up for each other's rounding: the method written out, and where nothing is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from coterie.nn.quantised_tensor import QuantisedTensor
from coterie.nn.rounding import compensated_codes, nearest_codes, searched_scales


def problem(seed: int, rows: int = 24, width: int = 160, block: int = 32) -> tuple[Tensor, Tensor, Tensor]:
    """A matrix, scales of its blocks, and the moments of inputs whose columns depend on each other."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, width, generator=generator)
    mixing = torch.randn(20, width, generator=generator) * torch.rand(width, generator=generator).pow(3)
    inputs = torch.randn(900, 20, generator=generator) @ mixing
    inputs += 0.1 * torch.randn(900, width, generator=generator)
    return weight, nearest(weight, 4, block).scales, inputs.T @ inputs


def nearest(weight: Tensor, bits: int, block: int) -> QuantisedTensor:
    rounded = QuantisedTensor(tuple(weight.shape), bits, block)
    rounded.store(weight)
    return rounded


def wide(codes: Tensor, scales: Tensor) -> Tensor:
    return (codes.float().unflatten(-1, (scales.shape[-1], -1)) * scales.float()[..., None]).flatten(-2)


def written_out(weight: Tensor, scales: Tensor, moments: Tensor, damping: float) -> Tensor:
    """One column after the other, with the inverse of what is left computed anew for each (float64)."""
    width = weight.shape[1]
    hessian = moments.double()
    hessian = hessian + damping * hessian.diagonal().mean() * torch.eye(width, dtype=torch.float64)
    left = moments.diagonal().argsort(descending=True).tolist()
    rest, codes = weight.double().clone(), torch.zeros_like(weight, dtype=torch.int8)
    while left:
        column = left[0]
        inverse = torch.linalg.inv(hessian[left][:, left])
        scale = scales[:, column // (width // scales.shape[1])].double()
        codes[:, column] = (rest[:, column] / scale).round().clamp(-8, 7).to(torch.int8)
        error = (rest[:, column] - codes[:, column] * scale) / inverse[0, 0]
        rest[:, left] -= torch.outer(error, inverse[0])
        left = left[1:]
    return codes


@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_the_method_written_out(seed: int) -> None:
    weight, scales, moments = problem(seed)
    found, wanted = compensated_codes(weight, scales, 4, moments), written_out(weight, scales, moments, 0.01)
    # A number halfway between two codes may go either way, and moves those after it.
    assert (found != wanted).float().mean() < 0.01
    error, plain = (
        float(((change @ moments) * change).sum())
        for change in (wide(found, scales) - weight, nearest(weight, 4, 32).dequantise() - weight)
    )
    assert error < 0.5 * plain


@pytest.mark.parametrize("bits", [4, 8])
def test_without_dependence_it_is_the_nearest_code(bits: int) -> None:
    weight, _, _ = problem(2)
    plain = nearest(weight, bits, 32)
    for moments in (torch.zeros(160, 160), torch.diag(torch.rand(160, generator=torch.manual_seed(0)))):
        assert torch.equal(compensated_codes(weight, plain.scales, bits, moments), plain.signed())


def test_searched_scales_lose_less(seed: int = 4) -> None:
    weight, scales, _ = problem(seed)
    weight[0, :32] = 0
    found = searched_scales(weight, 4, 32)
    errors = [
        (wide(nearest_codes(weight, given, 4), given) - weight).unflatten(-1, (-1, 32)).square().sum(-1)
        for given in (scales, found)
    ]
    assert bool((errors[1] <= errors[0]).all()) and errors[1].sum() < 0.95 * errors[0].sum()
    assert not found[0, 0]
    assert torch.equal(searched_scales(weight, 8, 32), nearest(weight, 8, 32).scales)


def test_a_block_of_zeros_stays_zero() -> None:
    weight, _, moments = problem(3)
    weight[0, :32] = 0
    scales = nearest(weight, 4, 32).scales
    assert not compensated_codes(weight, scales, 4, moments)[0, :32].any()
