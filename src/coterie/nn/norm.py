"""Root-mean-square norms. T tokens, D the normed width."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from coterie.nn.autograd import GradFunction


class _RMSNormFunction(GradFunction):
    """`weight * (x * rsqrt(mean(x^2) + eps)).to(dtype)` with statistics in fp32 (Llama's order of rounding).

    `late`: rounds to the input's dtype after the weight (gpt-oss's order).
    Saves the input and one number per row instead of the five intermediates that autograd would keep.
    """

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight_D: Tensor, eps: float, late: bool) -> Tensor:
        x32_TD = x_TD.float()
        scale_T1 = torch.rsqrt(x32_TD.square().mean(-1, keepdim=True).add_(eps))
        ctx.save_for_backward(x_TD, weight_D, scale_T1)
        if late:
            return (x32_TD * scale_T1 * weight_D.float()).to(x_TD.dtype)
        return (x32_TD * scale_T1).to(x_TD.dtype) * weight_D.to(x_TD.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (grad_TD,) = grads
        x_TD, weight_D, scale_T1 = ctx.saved_tensors
        normed_TD = x_TD.float() * scale_T1
        grad32_TD = grad_TD.float()
        grad_weight_D = (grad32_TD * normed_TD).flatten(0, -2).sum(0).to(weight_D.dtype)
        grad_normed_TD = grad32_TD * weight_D.float()
        inner_T1 = (grad_normed_TD * normed_TD).mean(-1, keepdim=True)
        grad_x_TD = grad_normed_TD.addcmul_(normed_TD, inner_T1, value=-1).mul_(scale_T1)
        return grad_x_TD.to(x_TD.dtype), grad_weight_D, None, None


class RMSNorm(nn.Module):
    """RMSNorm (arXiv 1910.07467) over the last dimension with a weight (D,); output in the input's dtype.

    Rounding comes before the weight, or after it with `late`.
    """

    def __init__(self, width: int, eps: float, late: bool = False) -> None:
        super().__init__()
        self.late = late
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x_TD: Tensor) -> Tensor:
        """Of `x_TD`'s shape and dtype."""
        normed_TD: Tensor = _RMSNormFunction.call(x_TD, self.weight, self.eps, self.late)
        return normed_TD


def rms(x_TD: Tensor, eps: float) -> Tensor:
    """The same without a weight (Llama 4's norm of queries and keys)."""
    return (x_TD.float() * torch.rsqrt(x_TD.float().square().mean(-1, keepdim=True) + eps)).to(x_TD.dtype)
