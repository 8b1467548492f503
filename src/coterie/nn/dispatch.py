"""Move tokens to their experts and back: sort by expert once, gather in both directions, never scatter-add.

T tokens, D width, K chosen experts per token, E experts, R routed rows sorted by expert, N padding rows among
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from coterie.nn.autograd import GradFunction


@dataclass(frozen=True, eq=False)
class LocalMeta:
    """Where each routed row came from and where it went (all int64).

    `slot_R`: the flat (token, choice) index of each row; `token_R = slot_R // K`. `row_TK`: the row of each
    (token, choice). `padding_N`: rows that belong to no token (None: there are none); their slot reads 0.
    """

    slot_R: Tensor
    token_R: Tensor
    row_TK: Tensor
    padding_N: Tensor | None


class LocalDispatcher:
    """Dropless dispatch within one process; no parameters, no state."""

    def dispatch(
        self, x_TD: Tensor, ids_TK: Tensor, num_experts: int, weights_TK: Tensor | None = None
    ) -> tuple[Tensor, tuple[int, ...], LocalMeta]:
        """Rows `(R, D)` sorted by expert (ties in token order), rows per expert (they sum to R), and the way
        back.

        `weights_TK` scales each row (routers whose score multiplies the expert's input, as in Llama 4). On
        CPU each busy expert gets zero rows up to a round number (`row_multiple`).
        """
        meta, counts = sort_by_expert(ids_TK, num_experts)
        return _Dispatch.call(x_TD, weights_TK, meta), counts, meta

    def combine(self, y_RD: Tensor, weights_TK: Tensor | None, meta: LocalMeta) -> Tensor:
        """`y_TD`: the sum over each token's rows, weighted by `weights_TK` (None: plain sum)."""
        combined: Tensor = _Combine.call(y_RD, weights_TK, meta)
        return combined


def row_multiple(num_rows: int, num_experts: int, device: torch.device) -> int:
    """Rows per expert are rounded up to a multiple of this.

    oneDNN compiles a kernel (about a millisecond) for every new number of rows, and a new routing has new
    numbers at every step: 64 experts in bf16 ran 2.5 times slower than with multiples of 32. At most an
    eighth is wasted on average.
    """
    mean = num_rows / num_experts
    if device.type != "cpu" or mean < 12:  # products of fewer rows are not compiled
        return 1
    return 4 if mean < 64 else 16 if mean < 256 else 32 if mean < 1024 else 64


_FEW_ROWS = 64


def _sort_few(ids_TK: Tensor, num_experts: int) -> tuple[LocalMeta, tuple[int, ...]]:
    """The same as `sort_by_expert` for a handful of rows, which Python's own sort beats many small operations
    at.
    """
    num_chosen = ids_TK.shape[1]
    flat: list[int] = ids_TK.reshape(-1).tolist()
    order = sorted(range(len(flat)), key=flat.__getitem__)
    counts = [0] * num_experts
    row_of_slot = [0] * len(flat)
    for row, slot in enumerate(order):
        row_of_slot[slot] = row
        counts[flat[slot]] += 1
    slot_R, token_R, row_N = (
        torch.tensor(numbers, dtype=torch.int64)
        for numbers in (order, [slot // num_chosen for slot in order], row_of_slot)
    )
    return LocalMeta(slot_R, token_R, row_N.view_as(ids_TK), None), tuple(counts)


def sort_by_expert(ids_TK: Tensor, num_experts: int) -> tuple[LocalMeta, tuple[int, ...]]:
    """Where every (token, choice) goes, and the rows of each expert."""
    if ids_TK.numel() <= _FEW_ROWS and ids_TK.device.type == "cpu":
        return _sort_few(ids_TK, num_experts)
    device = ids_TK.device
    flat = ids_TK.reshape(-1)
    num_rows, num_chosen = flat.shape[0], ids_TK.shape[1]
    # Narrow keys sort several times faster.
    order = torch.argsort(flat.to(torch.uint8 if num_experts <= 256 else torch.int32), stable=True)
    counts = torch.bincount(flat, minlength=num_experts).tolist()
    multiple = row_multiple(num_rows, num_experts, device)
    padded = [-(-count // multiple) * multiple for count in counts]
    total = sum(padded)
    if total == num_rows:
        slot_R, row_of_sorted, padding_N = order, torch.arange(num_rows, device=device), None
    else:
        # Each expert's rows move down by the padding of the experts before it.
        counts_E, padded_E = torch.tensor(counts, device=device), torch.tensor(padded, device=device)
        shift_E = (padded_E - counts_E).cumsum(0) - (padded_E - counts_E)
        row_of_sorted = torch.arange(num_rows, device=device) + shift_E.repeat_interleave(
            counts_E, output_size=num_rows
        )
        slot_R = torch.zeros(total, dtype=torch.int64, device=device).index_copy_(0, row_of_sorted, order)
        is_padding_R = torch.ones(total, dtype=torch.bool, device=device).index_fill_(0, row_of_sorted, False)
        padding_N = is_padding_R.nonzero().squeeze(1)
    row_TK = torch.empty_like(order).index_copy_(0, order, row_of_sorted).view_as(ids_TK)
    token_R = slot_R if num_chosen == 1 else torch.div(slot_R, num_chosen, rounding_mode="floor")
    return LocalMeta(slot_R, token_R, row_TK, padding_N), tuple(padded)


def gather_rows(x_TD: Tensor, weights_TK: Tensor | None, meta: LocalMeta) -> Tensor:
    """`(R, D)`: each row's token, times its weight where given; padding is zero."""
    rows_RD = x_TD.index_select(0, meta.token_R)
    if meta.padding_N is not None:
        rows_RD.index_fill_(0, meta.padding_N, 0)
    return rows_RD if weights_TK is None else _scale(rows_RD, weights_TK, meta)


def _scale(rows_RD: Tensor, weights_TK: Tensor, meta: LocalMeta) -> Tensor:
    """Each row times its weight, in place."""
    weights_R = weights_TK.reshape(-1).index_select(0, meta.slot_R)
    return rows_RD.mul_(weights_R.unsqueeze(1).to(rows_RD.dtype))


def gather_sum(y_RD: Tensor, weights_TK: Tensor | None, meta: LocalMeta) -> Tensor:
    """Sum over k of `weights[t, k] * y[row[t, k]]`: the one fused gather-and-sum that PyTorch has."""
    if weights_TK is not None:
        weights_TK = weights_TK.to(y_RD.dtype)
    return F.embedding_bag(meta.row_TK, y_RD, mode="sum", per_sample_weights=weights_TK)


def _weight_gradient(a_RD: Tensor, b_RD: Tensor, weights_TK: Tensor, meta: LocalMeta) -> Tensor:
    # The sum adds up in float32 whatever its dtype; asking for float32 would first copy the product.
    dots_R = (a_RD * b_RD).sum(1)
    return dots_R.index_select(0, meta.row_TK.reshape(-1)).view_as(meta.row_TK).to(weights_TK.dtype)


class _Dispatch(GradFunction):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weights_TK: Tensor | None, meta: LocalMeta) -> Tensor:
        ctx.meta = meta
        ctx.save_for_backward(x_TD if weights_TK is not None else None, weights_TK)
        return gather_rows(x_TD, weights_TK, meta)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weights_TK = ctx.saved_tensors
        grad_x_TD = gather_sum(grads[0], weights_TK, ctx.meta) if ctx.needs_input_grad[0] else None
        grad_weights_TK = None
        if ctx.needs_input_grad[1]:
            grad_weights_TK = _weight_gradient(
                grads[0], gather_rows(x_TD, None, ctx.meta), weights_TK, ctx.meta
            )
        return grad_x_TD, grad_weights_TK, None


class _Combine(GradFunction):
    @staticmethod
    def forward(ctx: Any, y_RD: Tensor, weights_TK: Tensor | None, meta: LocalMeta) -> Tensor:
        ctx.meta = meta
        ctx.save_for_backward(y_RD if weights_TK is not None else None, weights_TK)
        return gather_sum(y_RD, weights_TK, meta)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        y_RD, weights_TK = ctx.saved_tensors
        rows_RD = gather_rows(grads[0], None, ctx.meta)
        grad_weights_TK = None
        if ctx.needs_input_grad[1]:
            grad_weights_TK = _weight_gradient(rows_RD, y_RD, weights_TK, ctx.meta)
        if weights_TK is not None:
            rows_RD = _scale(rows_RD, weights_TK, ctx.meta)
        return rows_RD, grad_weights_TK, None
