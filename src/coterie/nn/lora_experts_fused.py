"""Routed experts with factors, dispatch and combination in one autograd function: for tuning in little
memory.

Autograd keeps the (T, D) input and one (R, 2F) buffer per layer: the rows of x are gathered again in the
backward pass, and no expert's output is kept, because `grad_y . (h W^T)` is `(grad_y W) . h`.

T tokens, D width, E experts, K chosen per token, R routed rows sorted by expert, N rows of one expert, F
expert width, r rank, O output and I input features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from coterie.nn.autograd import GradFunction
from coterie.nn.dispatch import LocalMeta, gather_rows, gather_sum, sort_by_expert
from coterie.nn.experts import Counts, Experts, segments
from coterie.nn.linear import product
from coterie.nn.lora import LoRAExpertLinear
from coterie.nn.quantised_layers import matrix_of
from coterie.nn.quantised_tensor import QuantisedTensor

_MANY = 256  # routed rows from which it pays


@dataclass(frozen=True)
class _Frozen:
    """What of one layer is constant: its weight, the factors' scale, and expert -> place in the factors."""

    weight: Tensor | QuantisedTensor
    scale: float
    slots: Mapping[int, int]

    @staticmethod
    def of(layer: LoRAExpertLinear, dtype: torch.dtype) -> _Frozen:
        weight = layer.weight.to(dtype) if layer.quantised is None else layer.quantised
        return _Frozen(weight, layer.scale, {expert: slot for slot, expert in enumerate(layer.chosen)})

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


class _AdaptedMoE(GradFunction):
    """`sum_k w_k down(silu(gate x) * up x)` with factors on both layers of every chosen expert."""

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
        counts: Counts,
        meta: LocalMeta,
    ) -> Tensor:
        gate_up, down = frozen
        x_RD = gather_rows(x_TD, None, meta)
        gate_up_RO = x_RD.new_empty(x_RD.shape[0], gate_up_b.shape[1])
        for expert, rows in segments(counts):
            x_ND, gate_up_NO = x_RD[rows], gate_up_RO[rows]
            gate_up.forward(x_ND, expert, gate_up_a, gate_up_b, gate_up_NO)
            gate_NF, up_NF = gate_up_NO.chunk(2, dim=1)
            down.forward(F.silu(gate_NF).mul_(up_NF), expert, down_a, down_b, x_ND)  # x's rows are done with
        ctx.save_for_backward(x_TD, weights_TK, gate_up_RO, gate_up_a, gate_up_b, down_a, down_b)
        ctx.frozen, ctx.counts, ctx.meta = frozen, counts, meta
        return gather_sum(x_RD, weights_TK, meta)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weights_TK, gate_up_RO, gate_up_a, gate_up_b, down_a, down_b = ctx.saved_tensors
        (gate_up, down), meta = ctx.frozen, ctx.meta
        x_RD, grad_RD = gather_rows(x_TD, None, meta), gather_rows(grads[0], None, meta)
        weights_R1 = weights_TK.reshape(-1).index_select(0, meta.slot_R).to(x_TD.dtype).unsqueeze(1)
        dots_R = x_RD.new_empty(x_RD.shape[0])
        factors = [torch.zeros_like(factor) for factor in (gate_up_a, gate_up_b, down_a, down_b)]
        for expert, rows in segments(ctx.counts):
            grad_ND, weights_N1 = grad_RD[rows], weights_R1[rows]
            gate_NF, up_NF = gate_up_RO[rows].chunk(2, dim=1)
            silu_NF = F.silu(gate_NF)
            hidden_NF = silu_NF * up_NF
            grad_hidden_NF, inner_Nr = down.backward(grad_ND, expert, down_a, down_b)
            torch.sum(grad_hidden_NF * hidden_NF, 1, out=dots_R[rows])
            grad_hidden_NF.mul_(weights_N1)
            if inner_Nr is not None:
                inner_Nr.mul_(weights_N1)
                grad_ND.mul_(weights_N1)
                down.factor_gradients(hidden_NF, grad_ND, inner_Nr, expert, down_a, (factors[2], factors[3]))
            grad_gate_up_NO = torch.empty_like(gate_up_RO[rows])
            grad_gate_NF, grad_up_NF = grad_gate_up_NO.chunk(2, dim=1)
            torch.mul(grad_hidden_NF, silu_NF, out=grad_up_NF)
            torch.ops.aten.silu_backward.grad_input(
                grad_hidden_NF.mul_(up_NF), gate_NF, grad_input=grad_gate_NF
            )
            grad_x_ND, inner_Nr = gate_up.backward(grad_gate_up_NO, expert, gate_up_a, gate_up_b)
            if inner_Nr is not None:
                into = (factors[0], factors[1])
                gate_up.factor_gradients(x_RD[rows], grad_gate_up_NO, inner_Nr, expert, gate_up_a, into)
            grad_RD[rows] = grad_x_ND
        grad_x_TD = gather_sum(grad_RD, None, meta) if ctx.needs_input_grad[0] else None
        grad_weights_TK = (
            dots_R.index_select(0, meta.row_TK.reshape(-1)).view_as(meta.row_TK).to(weights_TK.dtype)
        )
        return grad_x_TD, grad_weights_TK, *factors, None, None, None


def adapted_moe(x_TD: Tensor, ids_TK: Tensor, weights_TK: Tensor, experts: nn.Module) -> Tensor | None:
    """`(T, D)`: the experts' weighted sum; None where this form does not serve and the composed one must.

    It serves plain SwiGLU experts with factors on both layers, on CPU, without DoRA or active dropout.
    """
    if type(experts) is not Experts or x_TD.device.type != "cpu" or ids_TK.numel() < _MANY:
        return None
    layers = experts.gate_up, experts.down
    if not all(isinstance(layer, LoRAExpertLinear) and _serves(layer) for layer in layers):
        return None
    meta, counts = sort_by_expert(ids_TK, layers[0].num_experts)
    factors = [factor.to(x_TD.dtype) for layer in layers for factor in (layer.lora_A, layer.lora_B)]  # type: ignore[union-attr]
    frozen = tuple(_Frozen.of(layer, x_TD.dtype) for layer in layers)  # type: ignore[arg-type]
    result: Tensor = _AdaptedMoE.call(x_TD, weights_TK, *factors, frozen, counts, meta)
    return result


def _serves(layer: LoRAExpertLinear) -> bool:
    drops = layer.training and layer.dropout > 0
    frozen = layer.quantised is not None or not layer.weight.requires_grad
    return layer.lora_magnitude is None and layer.bias is None and not drops and frozen
