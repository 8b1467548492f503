"""Expert weights and their products: one product per expert that has rows, weights viewed in place.

R routed rows sorted by expert, E experts, I input features, O output features, D width, F expert width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from coterie.nn.linear import product

Counts = tuple[int, ...]


def grouped_linear(x_RI: Tensor, weight_EOI: Tensor, counts: Counts) -> Tensor:
    """`(R, O)`: each expert's rows times its own `weight[e].T`; `counts` are the rows per expert and sum to R."""
    weight_EOI = weight_EOI.to(x_RI.dtype)
    return _GroupedLinear.apply(x_RI, weight_EOI, counts)


class _GroupedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_RI: Tensor, weight_EOI: Tensor, counts: Counts) -> Tensor:
        ctx.save_for_backward(x_RI, weight_EOI)
        ctx.counts = counts
        y_RO = x_RI.new_empty(x_RI.shape[0], weight_EOI.shape[1])
        for expert, start, end in _segments(counts):
            y_RO[start:end] = product(x_RI[start:end], weight_EOI[expert])
        return y_RO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_RO = grads[0]
        x_RI, weight_EOI = ctx.saved_tensors
        grad_x_RI = torch.empty_like(x_RI)
        grad_weight_EOI = torch.zeros_like(weight_EOI)
        for expert, start, end in _segments(ctx.counts):
            grad_x_RI[start:end] = product(grad_RO[start:end], weight_EOI[expert].t())
            grad_weight_EOI[expert] = product(grad_RO[start:end].t(), x_RI[start:end].t())
        return grad_x_RI, grad_weight_EOI, None


def _segments(counts: Counts) -> list[tuple[int, int, int]]:
    """(expert, first row, end row) of each expert that has rows."""
    segments = []
    start = 0
    for expert, count in enumerate(counts):
        if count:
            segments.append((expert, start, start + count))
        start += count
    return segments


class ExpertLinear(nn.Module):
    """One linear layer per expert: weight `(E, out, in)`, bias `(E, out)`."""

    def __init__(self, num_experts: int, in_features: int, out_features: int, bias: bool = False) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(torch.empty(num_experts, out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(num_experts, out_features)) if bias else None
        nn.init.normal_(self.weight, std=0.02)

    def effective_weight(self) -> Tensor:
        """The `(E, out, in)` weight the forward pass is equal to; adapted and quantised forms override it."""
        return self.weight

    def forward(self, x_RI: Tensor, counts: Counts) -> Tensor:
        """`(R, out)` for rows sorted by expert."""
        y_RO = grouped_linear(x_RI, self.effective_weight(), counts)
        if self.bias is None:
            return y_RO
        counts_E = torch.tensor(counts, device=x_RI.device)
        return y_RO + self.bias.to(x_RI.dtype).repeat_interleave(counts_E, dim=0, output_size=x_RI.shape[0])


class Experts(nn.Module):
    """SwiGLU experts: `down(silu(gate(x)) * up(x))`, with gate and up in one product (gate rows first)."""

    def __init__(self, num_experts: int, width: int, expert_width: int) -> None:
        super().__init__()
        self.gate_up = ExpertLinear(num_experts, width, 2 * expert_width)
        self.down = ExpertLinear(num_experts, expert_width, width)

    def forward(self, x_RD: Tensor, counts: Counts) -> Tensor:
        """`(R, D)` for rows sorted by expert."""
        gate_RF, up_RF = self.gate_up(x_RD, counts).chunk(2, dim=-1)
        return self.down(F.silu(gate_RF) * up_RF, counts)
