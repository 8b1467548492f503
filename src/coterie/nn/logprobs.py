"""Log-probabilities of given tokens without the whole (T, V) matrix.

T tokens, D width, V vocabulary, C tokens of one chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from coterie.nn.linear import product

CHUNK = 512


def token_logprobs(h_TD: Tensor, head_weight_VD: Tensor, targets_T: Tensor, chunk: int = CHUNK) -> Tensor:
    """`(T,)` float32: log softmax of `h @ head_weight.T` at `targets_T`, `chunk` tokens at a time."""
    return _TokenLogprobs.apply(h_TD, head_weight_VD.to(h_TD.dtype), targets_T, chunk)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h_TD: Tensor, weight_VD: Tensor, targets_T: Tensor, chunk: int) -> Tensor:
        logp_T = torch.empty(h_TD.shape[0], dtype=torch.float32, device=h_TD.device)
        norm_T = torch.empty_like(logp_T)
        for start in range(0, h_TD.shape[0], chunk):
            part = slice(start, start + chunk)
            logits_CV = product(h_TD[part], weight_VD).float()
            norm_T[part] = torch.logsumexp(logits_CV, dim=1)
            logp_T[part] = logits_CV.gather(1, targets_T[part].unsqueeze(1)).squeeze(1) - norm_T[part]
        ctx.save_for_backward(h_TD, weight_VD, targets_T, norm_T)
        ctx.chunk = chunk
        return logp_T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        h_TD, weight_VD, targets_T, norm_T = ctx.saved_tensors
        grad_h_TD = torch.empty_like(h_TD)
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32)
        for start in range(0, h_TD.shape[0], ctx.chunk):
            part = slice(start, start + ctx.chunk)
            # minus the gradient of the logits: softmax - onehot, scaled by what comes from above
            error_CV = (product(h_TD[part], weight_VD).float() - norm_T[part, None]).exp_()
            target_C1 = targets_T[part].unsqueeze(1)
            error_CV.scatter_add_(1, target_C1, error_CV.new_full((1, 1), -1.0).expand_as(target_C1))
            error_CV *= -grads[0][part, None]
            error_CV = error_CV.to(h_TD.dtype)
            grad_h_TD[part] = product(error_CV, weight_VD.t())
            grad_weight_VD += product(error_CV.t(), h_TD[part].t())
        return grad_h_TD, grad_weight_VD.to(weight_VD.dtype), None, None
