"""Move tokens to their experts and back: sort by expert once, gather in both directions, never scatter-add.

T tokens, D width, K chosen experts per token, E experts, R = T * K routed rows, sorted by expert.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True, eq=False)
class LocalMeta:
    """Where each routed row came from and where it went.

    `token_R`: the token of each row. `row_TK`: the row of each (token, choice). Both int64.
    `order_R`: the flat (token, choice) index of each row, so `order_R = token_R * K + choice_R`.
    """

    order_R: Tensor
    token_R: Tensor
    row_TK: Tensor
    counts: tuple[int, ...]


class LocalDispatcher:
    """Dropless dispatch within one process; no parameters, no state."""

    def dispatch(
        self, x_TD: Tensor, ids_TK: Tensor, num_experts: int, weights_TK: Tensor | None = None
    ) -> tuple[Tensor, tuple[int, ...], LocalMeta]:
        """Rows `(R, D)` sorted by expert (ties in token order), rows per expert, and the way back.

        `weights_TK` scales each row (routers whose score multiplies the expert's input, as in Llama 4).
        """
        meta = self.plan(ids_TK, num_experts)
        return _Dispatch.apply(x_TD, weights_TK, meta), meta.counts, meta

    def combine(self, y_RD: Tensor, weights_TK: Tensor | None, meta: LocalMeta) -> Tensor:
        """`y_TD`: the sum over each token's rows, weighted by `weights_TK` (None: plain sum)."""
        return _Combine.apply(y_RD, weights_TK, meta)

    def plan(self, ids_TK: Tensor, num_experts: int) -> LocalMeta:
        """The order of the rows for `ids_TK` (T, K) with values in `[0, num_experts)`."""
        flat_R = ids_TK.reshape(-1)
        order_R = torch.argsort(flat_R, stable=True)
        row_R = torch.empty_like(order_R)
        row_R[order_R] = torch.arange(order_R.shape[0], device=order_R.device)
        counts = tuple(torch.bincount(flat_R, minlength=num_experts).tolist())
        token_R = torch.div(order_R, ids_TK.shape[1], rounding_mode="floor")
        return LocalMeta(order_R, token_R, row_R.view_as(ids_TK), counts)


def _gather(x_TD: Tensor, weights_TK: Tensor | None, meta: LocalMeta) -> Tensor:
    rows_RD = x_TD.index_select(0, meta.token_R)
    if weights_TK is not None:
        rows_RD *= _by_row(weights_TK, meta).to(rows_RD.dtype)
    return rows_RD


def _gather_sum(y_RD: Tensor, weights_TK: Tensor | None, meta: LocalMeta) -> Tensor:
    """sum over k of weights[t, k] * y[row[t, k]]."""
    num_tokens, num_chosen = meta.row_TK.shape
    y_TKD = y_RD.index_select(0, meta.row_TK.reshape(-1)).view(num_tokens, num_chosen, -1)
    if weights_TK is None:
        return y_TKD.sum(1) if num_chosen > 1 else y_TKD[:, 0]
    return torch.bmm(weights_TK.to(y_RD.dtype).unsqueeze(1), y_TKD).squeeze(1)


def _by_row(weights_TK: Tensor, meta: LocalMeta) -> Tensor:
    return weights_TK.reshape(-1).index_select(0, meta.order_R).unsqueeze(1)


def _weight_gradient(a_RD: Tensor, b_RD: Tensor, weights_TK: Tensor, meta: LocalMeta) -> Tensor:
    dots_R = (a_RD * b_RD).sum(1, dtype=torch.float32)
    return dots_R.index_select(0, meta.row_TK.reshape(-1)).view_as(meta.row_TK).to(weights_TK.dtype)


class _Dispatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weights_TK: Tensor | None, meta: LocalMeta) -> Tensor:
        ctx.meta = meta
        ctx.save_for_backward(x_TD if weights_TK is not None else None, weights_TK)
        return _gather(x_TD, weights_TK, meta)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_RD = grads[0]
        x_TD, weights_TK = ctx.saved_tensors
        grad_x_TD = _gather_sum(grad_RD, weights_TK, ctx.meta) if ctx.needs_input_grad[0] else None
        grad_weights_TK = None
        if ctx.needs_input_grad[1]:
            grad_weights_TK = _weight_gradient(grad_RD, _gather(x_TD, None, ctx.meta), weights_TK, ctx.meta)
        return grad_x_TD, grad_weights_TK, None


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y_RD: Tensor, weights_TK: Tensor | None, meta: LocalMeta) -> Tensor:
        ctx.meta = meta
        ctx.save_for_backward(y_RD if weights_TK is not None else None, weights_TK)
        return _gather_sum(y_RD, weights_TK, meta)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        y_RD, weights_TK = ctx.saved_tensors
        rows_RD = _gather(grads[0], None, ctx.meta)
        grad_weights_TK = None
        if ctx.needs_input_grad[1]:
            grad_weights_TK = _weight_gradient(rows_RD, y_RD, weights_TK, ctx.meta)
        if weights_TK is not None:
            rows_RD *= _by_row(weights_TK, ctx.meta).to(rows_RD.dtype)
        return rows_RD if ctx.needs_input_grad[0] else None, grad_weights_TK, None
