"""Root-mean-square norms. T tokens, D the normed width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from coterie.config.model import ModelConfig
from coterie.nn.autograd import GradFunction
from coterie.nn.kernels import choose, one_pass


class _RMSNormFunction(GradFunction):
    """`weight * (x * rsqrt(mean(x^2) + eps)).to(dtype)` with statistics in fp32 (Llama's order of rounding).

    `late`: rounds to the input's dtype after the weight (gpt-oss's order).
    Saves the input and one number per row instead of the five intermediates that autograd would keep.
    """

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight_D: Tensor, eps: float, late: bool) -> Tensor:
        passes = choose.one_pass(x_TD) and x_TD.is_contiguous()
        ctx.passes = passes
        if passes:
            factor_D = weight_D.float() if late else weight_D.to(x_TD.dtype).float()
            y_TD, scale_T1 = one_pass.norm(x_TD, factor_D, eps, late)
            ctx.save_for_backward(x_TD, weight_D, scale_T1)
            return y_TD
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
        if ctx.passes and not torch.is_grad_enabled():
            grad_x_TD, grad_weight_D = one_pass.norm_gradient(
                x_TD, weight_D.float(), scale_T1, grad_TD.contiguous()
            )
            return grad_x_TD, grad_weight_D.to(weight_D.dtype), None, None
        normed_TD = x_TD.float() * scale_T1
        grad32_TD = grad_TD.float()
        grad_weight_D = (grad32_TD * normed_TD).flatten(0, -2).sum(0).to(weight_D.dtype)
        grad_normed_TD = grad32_TD * weight_D.float()
        inner_T1 = (grad_normed_TD * normed_TD).mean(-1, keepdim=True)
        grad_x_TD = grad_normed_TD.addcmul_(normed_TD, inner_T1, value=-1).mul_(scale_T1)
        return grad_x_TD.to(x_TD.dtype), grad_weight_D, None, None


class RMSNorm(nn.Module):
    """RMSNorm (arXiv 1910.07467) over the last dimension with a weight (D,); output in the input's dtype.

    Rounding comes before the weight, or after it with `late`. `plus_one`: the factor is 1 + weight.
    """

    def __init__(self, width: int, eps: float, late: bool = False, plus_one: bool = False) -> None:
        super().__init__()
        self.late = late
        self.plus_one = plus_one
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Make the factor 1."""
        self.weight.fill_(0.0 if self.plus_one else 1.0)

    def forward(self, x_TD: Tensor) -> Tensor:
        """Of `x_TD`'s shape and dtype."""
        factor_D = self.weight.float() + 1 if self.plus_one else self.weight
        normed_TD: Tensor = _RMSNormFunction.call(x_TD, factor_D, self.eps, self.late)
        return normed_TD


@dataclass(frozen=True)
class NormKind:
    """How all RMSNorms of a model are made; `of` makes one."""

    eps: float
    late: bool
    plus_one: bool

    @staticmethod
    def of_model(config: ModelConfig) -> NormKind:
        """That of the norms before the last one."""
        return NormKind(config.norm_eps, config.norm_rounding == "after_weight", config.norm_plus_one)

    def of(self, width: int, eps: float | None = None) -> RMSNorm:
        """A norm of `width` numbers; `eps`: another one than the model's."""
        return RMSNorm(width, self.eps if eps is None else eps, self.late, self.plus_one)


def rms(x_TD: Tensor, eps: float) -> Tensor:
    """The same without a weight."""
    return (x_TD.float() * torch.rsqrt(x_TD.float().square().mean(-1, keepdim=True) + eps)).to(x_TD.dtype)
