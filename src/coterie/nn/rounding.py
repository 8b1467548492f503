"""Codes and scales of a matrix that lose less than rounding each number to the nearest code.

Scales are searched for the least error; with statistics of what the matrix is multiplied with, later columns
make up for the rounding of earlier ones.

`*` leading dimensions (experts or none), O output and I input features, B blocks of a row, b numbers of a
block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from coterie.nn.quantised_tensor import away_from_zero

# A block's largest number times these, over 8, are tried as scales: cutting off the largest numbers a little
# makes the grid finer for all others.
_FACTORS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 1.05, 1.1, 1.15)
_REFITS = 2
_COLUMNS = 128  # that are rounded before the columns after them are changed


def searched_scales(weight: Tensor, bits: int, block: int, counts_I: Tensor | None = None) -> Tensor:
    """Scales (*, O, B), bfloat16, of least squared error of `weight` (*, O, I), which blocks fill evenly.

    8 bits: the least scale that holds the largest number. `counts_I`: how much the errors of a column count.
    """
    blocks = weight.float().unflatten(-1, (-1, block))
    largest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True)).squeeze(-1)
    if bits == 8:
        return away_from_zero(largest.abs() / 127)
    counts = torch.ones(block) if counts_I is None else counts_I.float().unflatten(-1, (-1, block))
    best, least = torch.zeros_like(largest), torch.full_like(largest, torch.inf)
    for turn in range(len(_FACTORS) + _REFITS):
        if turn < len(_FACTORS):
            scales = (largest * (_FACTORS[turn] / -8)).bfloat16().float()
        else:  # the best scale of the best codes so far
            codes = _nearest(blocks, best)
            size = (codes.square() * counts).sum(-1)
            scales = torch.where(size > 0, (codes * blocks * counts).sum(-1) / size, best).bfloat16().float()
        error = ((_nearest(blocks, scales) * scales[..., None] - blocks).square() * counts).sum(-1)
        better = error < least
        best, least = torch.where(better, scales, best), torch.where(better, error, least)
    return best.bfloat16()


def nearest_codes(weight: Tensor, scales: Tensor, bits: int) -> Tensor:
    """Codes (*, O, I), int8 around 0: the nearest for the given scales (*, O, B)."""
    blocks = weight.float().unflatten(-1, (scales.shape[-1], -1))
    return _nearest(blocks, scales.float(), bits).to(torch.int8).flatten(-2)


def compensated_codes(
    weight_OI: Tensor, scales_OB: Tensor, bits: int, moments_II: Tensor, damping: float = 0.01
) -> Tensor:
    """Codes (O, I), int8 around 0, by GPTQ (Frantar et al. 2022, arXiv:2210.17323), busiest columns first.

    `moments_II`: the sum of `x x^T` over the inputs x of the matrix. `damping`: of its mean diagonal, added
    to it, for what was not seen. The scales stay those given, so columns may be rounded in any order.
    """
    order_I = moments_II.diagonal().argsort(descending=True)
    factor_II = _factor(moments_II[order_I][:, order_I], damping)
    block = weight_OI.shape[1] // scales_OB.shape[1]
    scales_OI = scales_OB.float()[:, order_I // block]
    inverse_OI = torch.where(scales_OI == 0, 0.0, 1.0 / scales_OI)
    low, high = (-127, 127) if bits == 8 else (-8, 7)
    rest_OI, codes_OI = weight_OI.float()[:, order_I], torch.empty_like(weight_OI, dtype=torch.int8)
    for first in range(0, weight_OI.shape[1], _COLUMNS):
        last = min(first + _COLUMNS, weight_OI.shape[1])
        errors = []
        for column in range(first, last):
            code_O = (rest_OI[:, column] * inverse_OI[:, column]).round_().clamp_(low, high)
            codes_OI[:, order_I[column]] = code_O.to(torch.int8)
            error_O = (rest_OI[:, column] - code_O * scales_OI[:, column]) / factor_II[column, column]
            rest_OI[:, column + 1 : last] -= torch.outer(error_O, factor_II[column, column + 1 : last])
            errors.append(error_O)
        rest_OI[:, last:] -= torch.stack(errors, 1) @ factor_II[first:last, last:]
    return codes_OI


def _factor(moments_II: Tensor, damping: float) -> Tensor:
    """The upper factor U of the damped inverse, `U^T U`; the identity where all moments are 0."""
    damped = moments_II.double()
    mean = float(damped.diagonal().mean())
    damped = damped + torch.eye(len(damped), dtype=torch.float64) * (damping * mean if mean > 0 else 1.0)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True).float()


def _nearest(blocks: Tensor, scales: Tensor, bits: int = 4) -> Tensor:
    inverse = torch.where(scales == 0, 0.0, 1.0 / scales)
    codes = (blocks * inverse[..., None]).round_()
    return codes.clamp_(-127, 127) if bits == 8 else codes.clamp_(-8, 7)
