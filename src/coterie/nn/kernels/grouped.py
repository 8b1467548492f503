"""Each expert's rows times its own matrix: one loop for plain, quantised, adapted and partly trained weights.

R routed rows sorted by expert, N rows of one expert, E experts, S of them adapted or trained alone, I input
features, O output features, r rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from coterie.nn.autograd import GradFunction
from coterie.nn.kernels import choose
from coterie.nn.kernels.cuda import grouped_mm
from coterie.nn.kernels.dense import product
from coterie.nn.kernels.weights import Counts, ExpertWeights, empty_gradient, matrix_of, segments
from coterie.nn.quantised_tensor import QuantisedTensor


def expert_product(x_RI: Tensor, weights: ExpertWeights, counts: Counts) -> Tensor:
    """(R, O) for rows sorted by expert; `counts` are the rows per expert and sum to R."""
    y_RO = _multiplied(x_RI, weights, counts)
    if weights.gain_EO is not None:
        y_RO = y_RO * per_row(weights.gain_EO, counts).to(y_RO.dtype)
    return y_RO if weights.bias_EO is None else y_RO + per_row(weights.bias_EO, counts).to(y_RO.dtype)


def grouped_linear(x_RI: Tensor, weight_EOI: Tensor, counts: Counts) -> Tensor:
    """(R, O): each expert's rows times its own `weight[e].T`, in the rows' dtype."""
    return _multiplied(x_RI, ExpertWeights(weight_EOI.to(x_RI.dtype)), counts)


def per_row(values_EO: Tensor, counts: Counts) -> Tensor:
    """(R, O): each row gets its expert's values."""
    counts_E = torch.tensor(counts, device=values_EO.device)
    return values_EO.repeat_interleave(counts_E, dim=0, output_size=sum(counts))


def _multiplied(x_RI: Tensor, weights: ExpertWeights, counts: Counts) -> Tensor:
    kind = choose.grouped(x_RI, weights)
    if kind == "composed":
        return _composed(x_RI, weights, counts)
    matrix = weights.matrix
    if kind == "grouped_mm":
        assert isinstance(matrix, Tensor)
        return grouped_mm(x_RI, matrix, counts)
    plain, codes = (matrix, None) if isinstance(matrix, Tensor) else (None, matrix)
    rest = _LoopConstants(codes, weights.slots, weights.scale, counts)
    y_RO: Tensor = _Loop.call(x_RI, plain, weights.slices_SOI, weights.a_SrI, weights.b_SOr, rest)
    return y_RO


def _composed(x_RI: Tensor, weights: ExpertWeights, counts: Counts) -> Tensor:
    """The same from differentiable pieces: with dropout, and on CUDA."""
    matrix, a_SrI, b_SOr = weights.matrix, weights.a_SrI, weights.b_SOr
    if weights.slices_SOI is not None:
        assert isinstance(matrix, Tensor)
        index_S = torch.tensor(list(weights.slots), device=matrix.device)
        matrix = matrix.index_copy(0, index_S, weights.slices_SOI)
    y_RO = _multiplied(x_RI, ExpertWeights(matrix), counts)
    if a_SrI is None or b_SOr is None:
        return y_RO
    rows = None
    if len(weights.slots) < len(counts):
        found = dict(segments(counts))
        parts = [torch.arange(found[e].start, found[e].stop) for e in weights.slots if e in found]
        rows = (torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)).to(x_RI.device)
        x_RI, counts = x_RI[rows], tuple(counts[expert] for expert in weights.slots)
    read_RI = F.dropout(x_RI, weights.dropout) if weights.dropout else x_RI
    inner_Rr = grouped_linear(read_RI, a_SrI, counts)
    added_RO = weights.scale * grouped_linear(inner_Rr, b_SOr, counts)
    return y_RO + added_RO if rows is None else y_RO.index_add(0, rows, added_RO)


@dataclass(frozen=True, eq=False)
class _LoopConstants:
    """What the loop reads without a gradient."""

    codes: QuantisedTensor | None
    slots: Mapping[int, int]
    scale: float
    counts: Counts


class _Loop(GradFunction):
    """One expert at a time, so that its rows are still in cache when the factors read them.

    Experts without rows get zero gradients. Of `matrix` (E, O, I) and `codes` one is None.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_RI: Tensor,
        matrix: Tensor | None,
        slices_SOI: Tensor | None,
        a_SrI: Tensor | None,
        b_SOr: Tensor | None,
        rest: _LoopConstants,
    ) -> Tensor:
        ctx.save_for_backward(x_RI, matrix, slices_SOI, a_SrI, b_SOr)
        ctx.rest = rest
        weight = matrix if rest.codes is None else rest.codes
        assert weight is not None
        y_RO = x_RI.new_empty(x_RI.shape[0], weight.shape[1])
        for expert, rows in segments(rest.counts):
            slot = rest.slots.get(expert)
            if slot is None or slices_SOI is None:
                matrix_OI = matrix_of(weight, expert, x_RI.dtype)
            else:
                matrix_OI = slices_SOI[slot]
            product(x_RI[rows], matrix_OI, out=y_RO[rows])
            if slot is not None and a_SrI is not None and b_SOr is not None:
                y_RO[rows].addmm_(product(x_RI[rows], a_SrI[slot]), b_SOr[slot].t(), alpha=rest.scale)
        return y_RO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_RI, matrix, slices_SOI, a_SrI, b_SOr = ctx.saved_tensors
        rest, grad_RO = ctx.rest, grads[0]
        weight = matrix if rest.codes is None else rest.codes
        grad_x_RI = torch.empty_like(x_RI) if ctx.needs_input_grad[0] else None
        grad_matrix = empty_gradient(matrix, rest.counts) if ctx.needs_input_grad[1] else None
        grad_slices, grad_a, grad_b = (
            None if part is None or not wanted else torch.zeros_like(part)
            for part, wanted in zip((slices_SOI, a_SrI, b_SOr), ctx.needs_input_grad[2:5], strict=True)
        )
        for expert, rows in segments(rest.counts):
            x_NI, grad_NO, slot = x_RI[rows], grad_RO[rows], rest.slots.get(expert)
            own = slices_SOI is not None and slot is not None
            if grad_x_RI is not None:
                matrix_OI = slices_SOI[slot] if own else matrix_of(weight, expert, grad_RO.dtype)
                product(grad_NO, matrix_OI.t(), out=grad_x_RI[rows])
            if grad_matrix is not None:
                torch.mm(grad_NO.t(), x_NI, out=grad_matrix[expert])
            if own and grad_slices is not None:
                torch.mm(grad_NO.t(), x_NI, out=grad_slices[slot])
            if a_SrI is None or slot is None:
                continue
            grad_inner_Nr = product(grad_NO, b_SOr[slot].t()).mul_(rest.scale)
            if grad_a is not None:
                torch.mm(grad_inner_Nr.t(), x_NI, out=grad_a[slot])
            if grad_b is not None:
                torch.mm(grad_NO.t(), product(x_NI, a_SrI[slot]).mul_(rest.scale), out=grad_b[slot])
            if grad_x_RI is not None:
                grad_x_RI[rows].addmm_(grad_inner_Nr, a_SrI[slot])
        return grad_x_RI, grad_matrix, grad_slices, grad_a, grad_b, None
