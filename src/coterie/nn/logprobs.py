"""Log-probabilities of given tokens, a chunk of tokens at a time.

T tokens, D width, V vocabulary, C tokens of one chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from coterie.nn.kernels import choose
from coterie.nn.kernels.dense import product

# Probabilities kept for the backward pass. Tokens beyond this are computed again, which costs a fourth
# product next to the usual three.
KEEP_BYTES = 64 << 20


def token_logprobs(
    h_TD: Tensor,
    head_weight_VD: Tensor,
    targets_T: Tensor,
    chunk: int | None = None,
    keep_bytes: int = KEEP_BYTES,
    cap: float | None = None,
) -> Tensor:
    """`(T,)` float32: log softmax of `h @ head_weight.T` at `targets_T`.

    Products run in `h_TD`'s dtype, the softmax in float32. `cap`: scores are `capped` before it. `chunk`:
    tokens at a time (default: by memory). `keep_bytes`: at most this much is saved for the backward pass,
    whatever T and V.
    """
    if chunk is None:
        chunk = choose.logprob_chunk(h_TD.device, head_weight_VD.shape[0])
    return _TokenLogprobs.apply(h_TD, head_weight_VD, targets_T, chunk, keep_bytes, cap)


def capped(scores: Tensor, cap: float | None) -> Tensor:
    """`cap * tanh(scores / cap)`; the scores themselves where `cap` is None."""
    return scores if cap is None else torch.tanh(scores / cap) * cap


class _TokenLogprobs(torch.autograd.Function):
    """With error = softmax - onehot: grad h = -g (error W), grad W = -error^T (g h).

    Where scores are capped, the error is multiplied by the slope there, 1 - (score / cap)^2.

    What is as wide as the vocabulary is computed once, in the forward pass, as far as `keep_bytes` allows.
    """

    @staticmethod
    def forward(
        ctx: Any,
        h_TD: Tensor,
        head_weight_VD: Tensor,
        targets_T: Tensor,
        chunk: int,
        keep_bytes: int,
        cap: float | None,
    ) -> Tensor:
        weight_VD = head_weight_VD.to(h_TD.dtype)
        wants_gradient = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        ctx.kept = []
        parts = []
        for h_CD, targets_C in zip(h_TD.split(chunk), targets_T.split(chunk), strict=True):
            logits_CV = capped(product(h_CD, weight_VD).float(), cap)
            slope_CV = None if cap is None else 1 - (logits_CV / cap).square()
            target_C = logits_CV.gather(1, targets_C[:, None])[:, 0]
            top_C = logits_CV.amax(1)
            softmax_CV = torch.softmax(logits_CV, 1, out=logits_CV)
            # The largest probability is 1 / sum exp(logit - top): never small, so its log is exact.
            parts.append(target_C - top_C + softmax_CV.amax(1).log())
            size = softmax_CV.numel() * h_TD.element_size()
            # Kept chunks are the first ones; a last short chunk must not slip in behind one that did not fit.
            keep_bytes = keep_bytes - size if wants_gradient and size <= keep_bytes else -1
            if keep_bytes >= 0:
                ctx.kept.append(_error(softmax_CV, targets_C, slope_CV).to(h_TD.dtype))
        ctx.save_for_backward(h_TD, head_weight_VD, targets_T)
        ctx.chunk, ctx.cap = chunk, cap
        return torch.cat(parts) if parts else h_TD.new_zeros(0, dtype=torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        h_TD, head_weight_VD, targets_T = ctx.saved_tensors
        weight_VD = head_weight_VD.to(h_TD.dtype)
        grad_h_TD = torch.empty_like(h_TD)
        learns = ctx.needs_input_grad[1]  # a frozen head costs neither time nor a second matrix
        grad_weight_VD = torch.zeros_like(head_weight_VD, dtype=torch.float32) if learns else None
        minus_g_TD = (h_TD.float() * -grads[0][:, None]).to(h_TD.dtype)
        for number, h_CD in enumerate(h_TD.split(ctx.chunk)):
            part = slice(number * ctx.chunk, number * ctx.chunk + h_CD.shape[0])
            if number < len(ctx.kept):
                error_CV = ctx.kept[number]
            else:
                logits_CV = capped(product(h_CD, weight_VD).float(), ctx.cap)
                slope_CV = None if ctx.cap is None else 1 - (logits_CV / ctx.cap).square()
                error_CV = _error(logits_CV.softmax(1), targets_T[part], slope_CV).to(h_TD.dtype)
            if ctx.needs_input_grad[0]:
                torch.mul(
                    product(error_CV, weight_VD.t()),
                    -grads[0][part, None].to(h_TD.dtype),
                    out=grad_h_TD[part],
                )
            if grad_weight_VD is not None:
                grad_weight_VD += product(minus_g_TD[part].t(), error_CV.t()).t()
        if grad_weight_VD is not None:
            grad_weight_VD = grad_weight_VD.to(head_weight_VD.dtype)
        return grad_h_TD, grad_weight_VD, None, None, None, None


def _error(softmax_CV: Tensor, targets_C: Tensor, slope_CV: Tensor | None) -> Tensor:
    """Softmax minus one at the target, in place, times the slope of capped scores.

    The subtraction comes before any rounding, because near 1 only the difference matters.
    """
    target_C1 = targets_C[:, None]
    softmax_CV.scatter_add_(1, target_C1, softmax_CV.new_full((1, 1), -1.0).expand_as(target_C1))
    return softmax_CV if slope_CV is None else softmax_CV.mul_(slope_CV)
