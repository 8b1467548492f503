"""Expert weights and their products: one product per expert that has rows, weights viewed in place.

R routed rows sorted by expert, N rows of one expert, E experts, I input features, O output features, D width,
F expert width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from coterie.nn.autograd import GradFunction
from coterie.nn.linear import drawn, product

Counts = tuple[int, ...]
TILE = 1 << 18


def grouped_linear(x_RI: Tensor, weight_EOI: Tensor, counts: Counts) -> Tensor:
    """`(R, O)`: each expert's rows times its own `weight[e].T`; `counts` are the rows per expert and sum to
    R.
    """
    weight_EOI = weight_EOI.to(x_RI.dtype)
    # grouped_mm wants rows of whole 16 bytes, and came with torch 2.10.
    whole = all(size % 8 == 0 for size in weight_EOI.shape[1:])
    if x_RI.is_cuda and x_RI.dtype == torch.bfloat16 and whole and hasattr(F, "grouped_mm"):
        ends_E = torch.tensor(counts, device=x_RI.device).cumsum(0).to(torch.int32)
        return F.grouped_mm(x_RI, weight_EOI.transpose(1, 2), offs=ends_E)
    y_RO: Tensor = _GroupedLinear.call(x_RI, weight_EOI, counts)
    return y_RO


class _GroupedLinear(GradFunction):
    """The loop over experts. An expert without rows gets a zero gradient."""

    @staticmethod
    def forward(ctx: Any, x_RI: Tensor, weight_EOI: Tensor, counts: Counts) -> Tensor:
        ctx.save_for_backward(x_RI, weight_EOI)
        ctx.counts = counts
        y_RO = x_RI.new_empty(x_RI.shape[0], weight_EOI.shape[1])
        for expert, rows in segments(counts):
            product(x_RI[rows], weight_EOI[expert], out=y_RO[rows])
        return y_RO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_RI, weight_EOI = ctx.saved_tensors
        grad_RO = grads[0]
        grad_x_RI = torch.empty_like(x_RI) if ctx.needs_input_grad[0] else None
        grad_weight_EOI = _empty_gradient(weight_EOI, ctx.counts) if ctx.needs_input_grad[1] else None
        for expert, rows in segments(ctx.counts):
            if grad_x_RI is not None:
                product(grad_RO[rows], weight_EOI[expert].t(), out=grad_x_RI[rows])
            if grad_weight_EOI is not None:
                torch.mm(grad_RO[rows].t(), x_RI[rows], out=grad_weight_EOI[expert])
        return grad_x_RI, grad_weight_EOI, None


def swiglu(gate_TF: Tensor, up_TF: Tensor) -> Tensor:
    """`silu(gate) * up`. In float32 on CPU twice as fast as the two operations; in bfloat16 it is the slower
    way.
    """
    if gate_TF.device.type != "cpu" or gate_TF.dtype != torch.float32:
        return F.silu(gate_TF) * up_TF
    hidden_TF: Tensor = _SiluMul.call(gate_TF, up_TF)
    return hidden_TF


class _SiluMul(GradFunction):
    """Rows are taken a tile at a time, which stays in cache between the steps; only the inputs are saved."""

    @staticmethod
    def forward(ctx: Any, gate_TF: Tensor, up_TF: Tensor) -> Tensor:
        ctx.save_for_backward(gate_TF, up_TF)
        hidden_TF = torch.empty_like(up_TF)
        for rows in _tiles(gate_TF):
            torch.mul(F.silu(gate_TF[rows]), up_TF[rows], out=hidden_TF[rows])
        return hidden_TF

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate_TF, up_TF = ctx.saved_tensors
        grad_gate_TF, grad_up_TF = torch.empty_like(gate_TF), torch.empty_like(up_TF)
        for rows in _tiles(gate_TF):
            grad, gate = grads[0][rows], gate_TF[rows]
            torch.mul(grad, F.silu(gate), out=grad_up_TF[rows])
            torch.ops.aten.silu_backward.grad_input(grad * up_TF[rows], gate, grad_input=grad_gate_TF[rows])
        return grad_gate_TF, grad_up_TF


def _tiles(x_TF: Tensor) -> list[slice]:
    """Slices of rows, TILE numbers each."""
    size = max(1, TILE // x_TF.shape[1])
    return [slice(start, start + size) for start in range(0, x_TF.shape[0], size)]


class _SwiGLU(GradFunction):
    """A whole layer of plain experts, one expert at a time so that its rows stay in cache between the
    products.
    """

    @staticmethod
    def forward(ctx: Any, x_RD: Tensor, gate_up_EOD: Tensor, down_EDF: Tensor, counts: Counts) -> Tensor:
        gate_up_RO = x_RD.new_empty(x_RD.shape[0], gate_up_EOD.shape[1])
        y_RD = torch.empty_like(x_RD)
        for expert, rows in segments(counts):
            product(x_RD[rows], gate_up_EOD[expert], out=gate_up_RO[rows])
            gate_NF, up_NF = gate_up_RO[rows].chunk(2, dim=1)
            product(F.silu(gate_NF).mul_(up_NF), down_EDF[expert], out=y_RD[rows])
        ctx.save_for_backward(x_RD, gate_up_RO, gate_up_EOD, down_EDF)
        ctx.counts = counts
        return y_RD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_RD, gate_up_RO, gate_up_EOD, down_EDF = ctx.saved_tensors
        grad_y_RD = grads[0]
        grad_x_RD = torch.empty_like(x_RD) if ctx.needs_input_grad[0] else None
        grad_gate_up_EOD = _empty_gradient(gate_up_EOD, ctx.counts) if ctx.needs_input_grad[1] else None
        grad_down_EDF = _empty_gradient(down_EDF, ctx.counts) if ctx.needs_input_grad[2] else None
        for expert, rows in segments(ctx.counts):
            gate_up_NO = gate_up_RO[rows]
            grad_y_ND = grad_y_RD[rows]
            grad_hidden_NF = product(grad_y_ND, down_EDF[expert].t())
            hidden_NF, grad_gate_up_NO = _swiglu_gradient(gate_up_NO, grad_hidden_NF)
            if grad_down_EDF is not None:
                torch.mm(grad_y_ND.t(), hidden_NF, out=grad_down_EDF[expert])
            if grad_gate_up_EOD is not None:
                torch.mm(grad_gate_up_NO.t(), x_RD[rows], out=grad_gate_up_EOD[expert])
            if grad_x_RD is not None:
                product(grad_gate_up_NO, gate_up_EOD[expert].t(), out=grad_x_RD[rows])
        return grad_x_RD, grad_gate_up_EOD, grad_down_EDF, None


def _swiglu_gradient(gate_up_NO: Tensor, grad_hidden_NF: Tensor) -> tuple[Tensor, Tensor]:
    """`silu(gate) * up` again, and the gradient of (gate, up)."""
    gate_NF, up_NF = gate_up_NO.chunk(2, dim=1)
    silu_NF = F.silu(gate_NF)
    grad_gate_up_NO = torch.empty_like(gate_up_NO)
    grad_gate_NF, grad_up_NF = grad_gate_up_NO.chunk(2, dim=1)
    torch.mul(grad_hidden_NF, silu_NF, out=grad_up_NF)
    torch.ops.aten.silu_backward.grad_input(grad_hidden_NF.mul_(up_NF), gate_NF, grad_input=grad_gate_NF)
    return silu_NF.mul_(up_NF), grad_gate_up_NO


def _empty_gradient(weight_EOI: Tensor, counts: Counts) -> Tensor:
    """Memory for the gradient; only experts without rows need zeros, the others are written whole."""
    gradient_EOI = torch.empty_like(weight_EOI)
    for expert, count in enumerate(counts):
        if count == 0:
            gradient_EOI[expert].zero_()
    return gradient_EOI


def segments(counts: Counts) -> list[tuple[int, slice]]:
    """(expert, its rows) of each expert that has rows."""
    segments = []
    start = 0
    for expert, count in enumerate(counts):
        if count:
            segments.append((expert, slice(start, start + count)))
        start += count
    return segments


class ExpertLinear(nn.Module):
    """One linear layer per expert: weight `(E, out, in)`, bias `(E, out)`."""

    def __init__(self, num_experts: int, in_features: int, out_features: int, bias: bool = False) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.in_features = in_features
        self.out_features = out_features
        self.weight = drawn(num_experts, out_features, in_features)
        self.bias = nn.Parameter(torch.zeros(num_experts, out_features)) if bias else None

    def effective_weight(self) -> Tensor:
        """The `(E, out, in)` weight the forward pass is equal to; adapted and quantised forms override it."""
        return self.weight

    def forward(self, x_RI: Tensor, counts: Counts) -> Tensor:
        """`(R, out)` for rows sorted by expert."""
        y_RO = grouped_linear(x_RI, self.effective_weight(), counts)
        return y_RO if self.bias is None else y_RO + self.per_row(self.bias, counts).to(x_RI.dtype)

    def per_row(self, values_EO: Tensor, counts: Counts) -> Tensor:
        """`(R, out)`: to each row what its expert has in `values_EO`."""
        counts_E = torch.tensor(counts, device=values_EO.device)
        return values_EO.repeat_interleave(counts_E, dim=0, output_size=sum(counts))

    def extra_repr(self) -> str:
        return f"{self.num_experts} experts, in_features={self.in_features}, out_features={self.out_features}"


class Experts(nn.Module):
    """SwiGLU experts: `down(silu(gate(x)) * up(x))`, with gate and up in one product (gate rows first)."""

    def __init__(self, num_experts: int, width: int, expert_width: int) -> None:
        super().__init__()
        self.gate_up = ExpertLinear(num_experts, width, 2 * expert_width)
        self.down = ExpertLinear(num_experts, expert_width, width)

    def forward(self, x_RD: Tensor, counts: Counts) -> Tensor:
        """`(R, D)` for rows sorted by expert."""
        plain = all(type(layer) is ExpertLinear and layer.bias is None for layer in (self.gate_up, self.down))
        if plain and x_RD.device.type == "cpu":
            weights = (self.gate_up.weight.to(x_RD.dtype), self.down.weight.to(x_RD.dtype))
            y_RD: Tensor = _SwiGLU.call(x_RD, *weights, counts)
            return y_RD
        gate_RF, up_RF = self.gate_up(x_RD, counts).chunk(2, dim=-1)
        return self.down(swiglu(gate_RF, up_RF), counts)
