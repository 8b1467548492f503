"""Routed experts with low-rank factors, dispatch and combination in one autograd function.

Tuning needs little memory this way: autograd keeps the (T, D) input and one (R, 2F) buffer per layer.
The rows of x are gathered again in the backward pass, and no expert's output is kept, because
`grad_y . (h W^T)` is `(grad_y W) . h`.

T tokens, D width, E experts, K chosen per token, R routed rows sorted by expert, N rows of one expert, F
expert width, r rank, O output and I input features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from coterie.nn.autograd import GradFunction
from coterie.nn.dispatch import Dispatcher, DispatchPlan
from coterie.nn.kernels import choose
from coterie.nn.kernels.dense import product
from coterie.nn.kernels.swiglu import gate_up_gradient, hidden_of
from coterie.nn.kernels.weights import ExpertWeights, matrix_of, segments
from coterie.nn.quantised_tensor import QuantisedTensor


def adapted_mixture(
    x_TD: Tensor,
    weights_TK: Tensor,
    gate_up: ExpertWeights,
    down: ExpertWeights,
    dispatcher: Dispatcher,
    plan: DispatchPlan,
) -> Tensor:
    """(T, D): `sum_k w_k down(silu(gate x) * up x)` with factors on both layers (`choose.mixture`)."""
    assert gate_up.a_SrI is not None and gate_up.b_SOr is not None
    assert down.a_SrI is not None and down.b_SOr is not None
    factors = (gate_up.a_SrI, gate_up.b_SOr, down.a_SrI, down.b_SOr)
    frozen = (_Frozen.of(gate_up), _Frozen.of(down))
    y_TD: Tensor = _AdaptedMixture.call(x_TD, weights_TK, *factors, frozen, dispatcher, plan)
    return y_TD


@dataclass(frozen=True)
class _Frozen:
    """The constant part of one layer: its weight, the factors' scale, and expert -> place in the factors."""

    weight: Tensor | QuantisedTensor
    scale: float
    slots: Mapping[int, int]

    @staticmethod
    def of(weights: ExpertWeights) -> _Frozen:
        return _Frozen(weights.matrix, weights.scale, weights.slots)

    def forward(self, x_NI: Tensor, expert: int, a_SrI: Tensor, b_SOr: Tensor, out: Tensor) -> None:
        """`x W^T + scale (x A^T) B^T` into `out`."""
        product(x_NI, matrix_of(self.weight, expert, x_NI.dtype), out=out)
        slot = self.slots.get(expert)
        if slot is not None:
            out.addmm_(product(x_NI, a_SrI[slot]), b_SOr[slot].t(), alpha=self.scale)

    def backward(
        self, grad_NO: Tensor, expert: int, a_SrI: Tensor, b_SOr: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """(gradient of x, `scale grad B` where the expert has factors)."""
        grad_NI = product(grad_NO, matrix_of(self.weight, expert, grad_NO.dtype).t())
        slot = self.slots.get(expert)
        if slot is None:
            return grad_NI, None
        inner_Nr = product(grad_NO, b_SOr[slot].t()).mul_(self.scale)
        return grad_NI.addmm_(inner_Nr, a_SrI[slot]), inner_Nr

    def factor_gradients(
        self,
        x_NI: Tensor,
        grad_NO: Tensor,
        inner_Nr: Tensor,
        expert: int,
        a_SrI: Tensor,
        into: tuple[Tensor, Tensor],
    ) -> None:
        """Write the gradients of this expert's A and B."""
        slot = self.slots[expert]
        torch.mm(inner_Nr.t(), x_NI, out=into[0][slot])
        torch.mm(grad_NO.t(), product(x_NI, a_SrI[slot]).mul_(self.scale), out=into[1][slot])


class _AdaptedMixture(GradFunction):
    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        weights_TK: Tensor,
        gate_up_a: Tensor,
        gate_up_b: Tensor,
        down_a: Tensor,
        down_b: Tensor,
        frozen: tuple[_Frozen, _Frozen],
        dispatcher: Dispatcher,
        plan: DispatchPlan,
    ) -> Tensor:
        gate_up, down = frozen
        x_RD = dispatcher.gather(x_TD, plan)
        gate_up_RO = x_RD.new_empty(x_RD.shape[0], gate_up_b.shape[1])
        passes = choose.one_pass(gate_up_RO)
        for expert, rows in segments(plan.counts):
            x_ND, gate_up_NO = x_RD[rows], gate_up_RO[rows]
            gate_up.forward(x_ND, expert, gate_up_a, gate_up_b, gate_up_NO)
            hidden_NF = hidden_of(gate_up_NO, passes)
            down.forward(hidden_NF, expert, down_a, down_b, x_ND)  # x's rows are done with
        ctx.save_for_backward(x_TD, weights_TK, gate_up_RO, gate_up_a, gate_up_b, down_a, down_b)
        ctx.frozen, ctx.dispatcher, ctx.plan, ctx.passes = frozen, dispatcher, plan, passes
        return dispatcher.gather_sum(x_RD, weights_TK, plan)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weights_TK, gate_up_RO, gate_up_a, gate_up_b, down_a, down_b = ctx.saved_tensors
        (gate_up, down), dispatcher, plan = ctx.frozen, ctx.dispatcher, ctx.plan
        x_RD, grad_RD = dispatcher.gather(x_TD, plan), dispatcher.gather(grads[0], plan)
        weights_R1 = dispatcher.per_row(weights_TK, plan).to(x_TD.dtype).unsqueeze(1)
        dots_R = x_RD.new_empty(x_RD.shape[0])
        factors = [torch.zeros_like(factor) for factor in (gate_up_a, gate_up_b, down_a, down_b)]
        for expert, rows in segments(plan.counts):
            grad_ND, weights_N1 = grad_RD[rows], weights_R1[rows]
            hidden_NF = hidden_of(gate_up_RO[rows], ctx.passes)
            grad_hidden_NF, inner_Nr = down.backward(grad_ND, expert, down_a, down_b)
            torch.sum(grad_hidden_NF * hidden_NF, 1, out=dots_R[rows])
            grad_hidden_NF.mul_(weights_N1)
            if inner_Nr is not None:
                inner_Nr.mul_(weights_N1)
                grad_ND.mul_(weights_N1)
                down.factor_gradients(hidden_NF, grad_ND, inner_Nr, expert, down_a, (factors[2], factors[3]))
            grad_gate_up_NO, _ = gate_up_gradient(gate_up_RO[rows], grad_hidden_NF, ctx.passes)
            grad_x_ND, inner_Nr = gate_up.backward(grad_gate_up_NO, expert, gate_up_a, gate_up_b)
            if inner_Nr is not None:
                into = (factors[0], factors[1])
                gate_up.factor_gradients(x_RD[rows], grad_gate_up_NO, inner_Nr, expert, gate_up_a, into)
            grad_RD[rows] = grad_x_ND
        grad_x_TD = dispatcher.gather_sum(grad_RD, None, plan) if ctx.needs_input_grad[0] else None
        grad_weights_TK = dispatcher.per_choice(dots_R, plan).to(weights_TK.dtype)
        return grad_x_TD, grad_weights_TK, *factors, None, None, None
