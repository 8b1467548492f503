"""SwiGLU and its relatives: the activations, and whole layers of plain experts.

T tokens, R routed rows sorted by expert, N rows of one expert, E experts, D width, F inner width, O = 2 F.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from coterie.config.feed_forward import Activation
from coterie.nn.autograd import GradFunction
from coterie.nn.kernels import choose, one_pass
from coterie.nn.kernels.dense import product
from coterie.nn.kernels.weights import Counts, empty_gradient, segments

TILE = 1 << 18  # numbers of one tile; several of them fit into the second-level cache


def swiglu(gate_TF: Tensor, up_TF: Tensor) -> Tensor:
    """`silu(gate) * up`."""
    if not choose.tiles_swiglu(gate_TF) and not choose.one_pass(gate_TF, up_TF):
        return F.silu(gate_TF) * up_TF
    hidden_TF: Tensor = _SiluMul.call(gate_TF, up_TF)
    return hidden_TF


def gated(gate_TF: Tensor, up_TF: Tensor, activation: Activation) -> Tensor:
    """`activation(gate) * up`."""
    if activation == "silu":
        return swiglu(gate_TF, up_TF)
    return activated(gate_TF, activation) * up_TF


def activated(x_TF: Tensor, activation: Activation) -> Tensor:
    """`activation(x)`."""
    if activation == "relu2":
        return F.relu(x_TF).square()
    return F.silu(x_TF) if activation == "silu" else F.gelu(x_TF, approximate="tanh")


class _SiluMul(GradFunction):
    """In one pass, or a tile of rows at a time, which stays in cache; only the inputs are saved."""

    @staticmethod
    def forward(ctx: Any, gate_TF: Tensor, up_TF: Tensor) -> Tensor:
        ctx.save_for_backward(gate_TF, up_TF)
        if choose.one_pass(gate_TF, up_TF):
            return one_pass.swiglu(gate_TF, up_TF)
        hidden_TF = torch.empty_like(up_TF)
        for rows in _tiles(gate_TF):
            torch.mul(F.silu(gate_TF[rows]), up_TF[rows], out=hidden_TF[rows])
        return hidden_TF

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate_TF, up_TF = ctx.saved_tensors
        grad_gate_TF, grad_up_TF = torch.empty_like(gate_TF), torch.empty_like(up_TF)
        if choose.one_pass(gate_TF, up_TF, grads[0]):
            one_pass.swiglu_gradient(gate_TF, up_TF, grads[0], grad_gate_TF, grad_up_TF)
            return grad_gate_TF, grad_up_TF
        for rows in _tiles(gate_TF):
            grad, gate = grads[0][rows], gate_TF[rows]
            torch.mul(grad, F.silu(gate), out=grad_up_TF[rows])
            torch.ops.aten.silu_backward.grad_input(grad * up_TF[rows], gate, grad_input=grad_gate_TF[rows])
        return grad_gate_TF, grad_up_TF


def _tiles(x_TF: Tensor) -> list[slice]:
    """Slices of rows, TILE numbers each."""
    size = max(1, TILE // x_TF.shape[1])
    return [slice(start, start + size) for start in range(0, x_TF.shape[0], size)]


def swiglu_experts(x_RD: Tensor, gate_up_EOD: Tensor, down_EDF: Tensor, counts: Counts) -> Tensor:
    """(R, D): `down(silu(gate x) * up x)` of each row's expert; the gate rows of `gate_up` come first."""
    y_RD: Tensor = _Experts.call(x_RD, gate_up_EOD, down_EDF, counts)
    return y_RD


class _Experts(GradFunction):
    """One expert at a time, so that its rows stay in cache between the two products."""

    @staticmethod
    def forward(ctx: Any, x_RD: Tensor, gate_up_EOD: Tensor, down_EDF: Tensor, counts: Counts) -> Tensor:
        gate_up_RO = x_RD.new_empty(x_RD.shape[0], gate_up_EOD.shape[1])
        y_RD, passes = torch.empty_like(x_RD), choose.one_pass(gate_up_RO)
        for expert, rows in segments(counts):
            product(x_RD[rows], gate_up_EOD[expert], out=gate_up_RO[rows])
            product(hidden_of(gate_up_RO[rows], passes), down_EDF[expert], out=y_RD[rows])
        ctx.save_for_backward(x_RD, gate_up_RO, gate_up_EOD, down_EDF)
        ctx.counts, ctx.passes = counts, passes
        return y_RD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_RD, gate_up_RO, gate_up_EOD, down_EDF = ctx.saved_tensors
        grad_y_RD = grads[0]
        grad_x_RD = torch.empty_like(x_RD) if ctx.needs_input_grad[0] else None
        grad_gate_up_EOD = empty_gradient(gate_up_EOD, ctx.counts) if ctx.needs_input_grad[1] else None
        grad_down_EDF = empty_gradient(down_EDF, ctx.counts) if ctx.needs_input_grad[2] else None
        for expert, rows in segments(ctx.counts):
            gate_up_NO, grad_y_ND = gate_up_RO[rows], grad_y_RD[rows]
            grad_hidden_NF = product(grad_y_ND, down_EDF[expert].t())
            grad_gate_up_NO, hidden_NF = gate_up_gradient(gate_up_NO, grad_hidden_NF, ctx.passes)
            if grad_down_EDF is not None:
                torch.mm(grad_y_ND.t(), hidden_NF, out=grad_down_EDF[expert])
            if grad_gate_up_EOD is not None:
                torch.mm(grad_gate_up_NO.t(), x_RD[rows], out=grad_gate_up_EOD[expert])
            if grad_x_RD is not None:
                product(grad_gate_up_NO, gate_up_EOD[expert].t(), out=grad_x_RD[rows])
        return grad_x_RD, grad_gate_up_EOD, grad_down_EDF, None


def hidden_of(gate_up_NO: Tensor, passes: bool) -> Tensor:
    """(N, F): `silu(gate) * up` of both halves. `passes`: in one pass (`choose.one_pass`)."""
    gate_NF, up_NF = gate_up_NO.chunk(2, dim=1)
    return one_pass.swiglu(gate_NF, up_NF) if passes else F.silu(gate_NF).mul_(up_NF)


def gate_up_gradient(gate_up_NO: Tensor, grad_hidden_NF: Tensor, passes: bool) -> tuple[Tensor, Tensor]:
    """Gradient of (gate, up) from that of `silu(gate) * up`, which it overwrites; and `silu(gate) * up`."""
    gate_NF, up_NF = gate_up_NO.chunk(2, dim=1)
    grad_gate_up_NO = torch.empty_like(gate_up_NO)
    grad_gate_NF, grad_up_NF = grad_gate_up_NO.chunk(2, dim=1)
    if passes:
        both = grad_gate_NF, grad_up_NF
        return grad_gate_up_NO, one_pass.swiglu_gradient(gate_NF, up_NF, grad_hidden_NF, *both)
    silu_NF = F.silu(gate_NF)
    torch.mul(grad_hidden_NF, silu_NF, out=grad_up_NF)
    torch.ops.aten.silu_backward.grad_input(grad_hidden_NF.mul_(up_NF), gate_NF, grad_input=grad_gate_NF)
    return grad_gate_up_NO, silu_NF.mul_(up_NF)
