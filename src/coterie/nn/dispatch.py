"""Move tokens to their experts and back: sort by expert once, gather in both directions, never scatter-add.

T tokens, D width, K chosen experts per token, E experts, R routed rows sorted by expert, N padding rows among
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from coterie.nn.autograd import GradFunction
from coterie.nn.kernels import choose, one_pass
from coterie.nn.kernels.weights import Counts


class DispatchPlan(Protocol):
    """Where routed rows come from and go to; only the dispatcher that made it reads more than `counts`."""

    @property
    def counts(self) -> Counts:
        """Rows of each expert that this process runs, in order; they sum to R."""
        ...


class Dispatcher(Protocol):
    """Moves tokens to their experts and back.

    `dispatch` and `combine` are differentiable. The other methods are their pieces without autograd, for
    products that write their own backward pass.
    """

    def plan(self, ids_TK: Tensor, num_experts: int) -> Any:
        """The `DispatchPlan` of one routing, which every other method takes."""
        ...

    def dispatch(self, x_TD: Tensor, weights_TK: Tensor | None, plan: Any) -> Tensor:
        """Rows (R, D) sorted by expert, each times its weight where `weights_TK` is given (Llama 4)."""
        ...

    def combine(self, y_RD: Tensor, weights_TK: Tensor | None, plan: Any) -> Tensor:
        """(T, D): the sum over each token's rows, weighted by `weights_TK` (None: plain sum)."""
        ...

    def gather(self, x_TD: Tensor, plan: Any) -> Tensor:
        """(R, D): each row's token."""
        ...

    def gather_sum(self, y_RD: Tensor, weights_TK: Tensor | None, plan: Any) -> Tensor:
        """(T, D): as `combine`."""
        ...

    def per_row(self, values_TK: Tensor, plan: Any) -> Tensor:
        """(R,): the value of the (token, choice) that each row came from."""
        ...

    def per_choice(self, values_R: Tensor, plan: Any) -> Tensor:
        """(T, K): the value of each (token, choice)'s row."""
        ...


@dataclass(frozen=True, eq=False)
class LocalPlan:
    """Where each routed row came from and where it went (tensors are int64).

    `counts`: rows per expert. Each busy expert gets zero rows up to a round number
    (`choose.row_multiple`). `slot_R`: the flat (token, choice) index of each row; `token_R = slot_R // K`.
    `row_TK`: the row of each (token, choice). `padding_N`: rows that belong to no token (None: there are
    none); their slot reads 0.
    """

    counts: Counts
    slot_R: Tensor
    token_R: Tensor
    row_TK: Tensor
    padding_N: Tensor | None


class LocalDispatcher:
    """Dropless dispatch within one process; no parameters, no state."""

    def plan(self, ids_TK: Tensor, num_experts: int) -> LocalPlan:
        """Sort by expert, ties in token order."""
        if choose.sorts_in_python(ids_TK):
            return _sort_few(ids_TK, num_experts)
        return _sort(ids_TK, num_experts)

    def dispatch(self, x_TD: Tensor, weights_TK: Tensor | None, plan: LocalPlan) -> Tensor:
        """(R, D): rows sorted by expert, weighted where `weights_TK` is given; padding rows are zero."""
        rows_RD: Tensor = _Dispatch.call(x_TD, weights_TK, plan)
        return rows_RD

    def combine(self, y_RD: Tensor, weights_TK: Tensor | None, plan: LocalPlan) -> Tensor:
        """(T, D): the weighted sum over each token's rows."""
        combined_TD: Tensor = _Combine.call(y_RD, weights_TK, plan)
        return combined_TD

    def gather(self, x_TD: Tensor, plan: LocalPlan) -> Tensor:
        """(R, D): each row's token, not differentiable."""
        return _gather(x_TD, plan)

    def gather_sum(self, y_RD: Tensor, weights_TK: Tensor | None, plan: LocalPlan) -> Tensor:
        """(T, D): as `combine`, not differentiable."""
        return _gather_sum(y_RD, weights_TK, plan)

    def per_row(self, values_TK: Tensor, plan: LocalPlan) -> Tensor:
        """(R,): the value of each row's (token, choice); padding rows get that of slot 0."""
        return values_TK.reshape(-1).index_select(0, plan.slot_R)

    def per_choice(self, values_R: Tensor, plan: LocalPlan) -> Tensor:
        """(T, K): the value of each choice's row."""
        return values_R.index_select(0, plan.row_TK.reshape(-1)).view_as(plan.row_TK)


LOCAL = LocalDispatcher()


def _sort_few(ids_TK: Tensor, num_experts: int) -> LocalPlan:
    """The same as `_sort` by Python's own sort."""
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
    return LocalPlan(tuple(counts), slot_R, token_R, row_N.view_as(ids_TK), None)


def _sort(ids_TK: Tensor, num_experts: int) -> LocalPlan:
    device = ids_TK.device
    flat = ids_TK.reshape(-1)
    num_rows, num_chosen = flat.shape[0], ids_TK.shape[1]
    # Narrow keys sort several times faster.
    order = torch.argsort(flat.to(torch.uint8 if num_experts <= 256 else torch.int32), stable=True)
    counts = torch.bincount(flat, minlength=num_experts).tolist()
    multiple = choose.row_multiple(num_rows, num_experts, device)
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
    return LocalPlan(tuple(padded), slot_R, token_R, row_TK, padding_N)


def _gather(x_TD: Tensor, plan: LocalPlan) -> Tensor:
    """(R, D): each row's token; padding is zero."""
    rows_RD = x_TD.index_select(0, plan.token_R)
    return rows_RD if plan.padding_N is None else rows_RD.index_fill_(0, plan.padding_N, 0)


def _scale(rows_RD: Tensor, weights_TK: Tensor, plan: LocalPlan) -> Tensor:
    """Each row times its weight, in place."""
    weights_R = LOCAL.per_row(weights_TK, plan)
    return rows_RD.mul_(weights_R.unsqueeze(1).to(rows_RD.dtype))


def _gather_sum(y_RD: Tensor, weights_TK: Tensor | None, plan: LocalPlan) -> Tensor:
    """Sum over k of `weights[t, k] * y[row[t, k]]`: the one fused gather-and-sum that PyTorch has."""
    if weights_TK is not None:
        weights_TK = weights_TK.to(y_RD.dtype)
    return F.embedding_bag(plan.row_TK, y_RD, mode="sum", per_sample_weights=weights_TK)


def _weight_gradient(a_RD: Tensor, b_RD: Tensor, weights_TK: Tensor, plan: LocalPlan) -> Tensor:
    # The sum adds up in float32 whatever its dtype; asking for float32 would first copy the product.
    return LOCAL.per_choice((a_RD * b_RD).sum(1), plan).to(weights_TK.dtype)


def _weighted_rows(
    grad_TD: Tensor, y_RD: Tensor, weights_TK: Tensor, plan: LocalPlan
) -> tuple[Tensor, Tensor]:
    """The gradients of y and of the weights from that of `sum_k w_k y_k`."""
    rows_RD, dots_R = one_pass.weighted_rows(grad_TD, y_RD, weights_TK, plan.token_R, plan.slot_R)
    if plan.padding_N is not None:
        rows_RD.index_fill_(0, plan.padding_N, 0)
    return rows_RD, LOCAL.per_choice(dots_R, plan).to(weights_TK.dtype)


class _Dispatch(GradFunction):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weights_TK: Tensor | None, plan: LocalPlan) -> Tensor:
        ctx.plan = plan
        ctx.save_for_backward(x_TD if weights_TK is not None else None, weights_TK)
        rows_RD = _gather(x_TD, plan)
        return rows_RD if weights_TK is None else _scale(rows_RD, weights_TK, plan)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weights_TK = ctx.saved_tensors
        grad_x_TD = _gather_sum(grads[0], weights_TK, ctx.plan) if ctx.needs_input_grad[0] else None
        grad_weights_TK = None
        if ctx.needs_input_grad[1]:
            grad_weights_TK = _weight_gradient(grads[0], _gather(x_TD, ctx.plan), weights_TK, ctx.plan)
        return grad_x_TD, grad_weights_TK, None


class _Combine(GradFunction):
    @staticmethod
    def forward(ctx: Any, y_RD: Tensor, weights_TK: Tensor | None, plan: LocalPlan) -> Tensor:
        ctx.plan = plan
        ctx.save_for_backward(y_RD if weights_TK is not None else None, weights_TK)
        return _gather_sum(y_RD, weights_TK, plan)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        y_RD, weights_TK = ctx.saved_tensors
        if ctx.needs_input_grad[1] and choose.one_pass(y_RD, weights_TK, grads[0]):
            return *_weighted_rows(grads[0], y_RD, weights_TK, ctx.plan), None
        rows_RD = _gather(grads[0], ctx.plan)
        grad_weights_TK = None
        if ctx.needs_input_grad[1]:
            grad_weights_TK = _weight_gradient(rows_RD, y_RD, weights_TK, ctx.plan)
        if weights_TK is not None:
            rows_RD = _scale(rows_RD, weights_TK, ctx.plan)
        return rows_RD, grad_weights_TK, None
