"""Small products to measure by, one for each class of work that PyTorch has several ways for.

The numbers are no random ones, so that measuring leaves every generator as it was.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from coterie.nn.kernels.causal_blocks import causal_blocks
from coterie.nn.kernels.products import (
    by_onednn,
    onednn_weight_gradient,
    plain,
    plain_weight_gradient,
    turned,
)

Way = Callable[[], object]
HAS_ONEDNN = torch.backends.mkldnn.is_available()
# Rows, input and output features, and how many weights take turns: those of few rows must come from memory,
# as they do when a token is decoded.
_SHAPES = {
    "row": (1, 576, 1024, 12),
    "short_rows": (4, 576, 1024, 12),
    "long_row": (1, 2048, 1024, 4),
    "long_rows": (8, 1536, 1024, 4),
    "many_rows": (1024, 256, 1024, 1),
    "expert_rows": (128, 256, 512, 8),
    "input_gradient": (1024, 256, 1024, 1),
    "square_weight_gradient": (1024, 512, 512, 1),
    "wide_weight_gradient": (2048, 256, 1024, 1),
}
_ATTENTION = {"attention_float32": torch.float32, "attention_bfloat16": torch.bfloat16}
_LENGTH, _HEADS, _HEAD_DIM = 512, 4, 64


def ways(work: str) -> tuple[str, ...]:
    """The ways of a class of work besides PyTorch's own."""
    if work in _ATTENTION:
        return ("blocks",)
    onednn = ("onednn",) if HAS_ONEDNN else ()
    return ("turned", *onednn) if work in ("row", "short_rows") else onednn


WORK = tuple(work for work in (*_SHAPES, *_ATTENTION) if ways(work))


def probe(work: str) -> Mapping[str, Way]:
    """Each way of a class of work as a call, PyTorch's own (`torch`) first."""
    if work in _ATTENTION:
        return _attention(_ATTENTION[work])
    rows, inputs, outputs, copies = _SHAPES[work]
    x = _numbers(rows, inputs)
    weights = [_numbers(outputs, inputs) for _ in range(copies)]
    calls: dict[str, Callable[[Tensor, Tensor], object]] = {
        "torch": plain,
        "onednn": by_onednn,
        "turned": turned,
    }
    if work.endswith("weight_gradient"):
        weights = [_numbers(rows, outputs) for _ in range(copies)]
        calls = {
            "torch": lambda x, grad: plain_weight_gradient(grad, x),
            "onednn": lambda x, grad: onednn_weight_gradient(grad, x),
        }
    elif work == "input_gradient":
        weights = [_numbers(inputs, outputs).t() for _ in range(copies)]
    elif work == "expert_rows":
        out = _numbers(rows, outputs)
        calls = {
            "torch": lambda x, weight: torch.mm(x, weight.t(), out=out),
            "onednn": lambda x, weight: out.copy_(by_onednn(x, weight)),
        }
    return {name: functools.partial(_each, calls[name], x, weights) for name in ("torch", *ways(work))}


def _each(call: Callable[[Tensor, Tensor], object], x: Tensor, weights: Sequence[Tensor]) -> None:
    for weight in weights:
        call(x, weight)


def _attention(dtype: torch.dtype) -> Mapping[str, Way]:
    """Causal attention of one segment, forward and backward."""
    q, k, v = (_numbers(_LENGTH * _HEADS, _HEAD_DIM).view(1, _LENGTH, _HEADS, -1).to(dtype) for _ in range(3))
    q, k, v = (x.requires_grad_() for x in (q, k, v))

    def own() -> Tensor:
        q_heads, k_heads, v_heads = (x.transpose(1, 2) for x in (q, k, v))
        y = F.scaled_dot_product_attention(q_heads, k_heads, v_heads, is_causal=True, scale=0.125)
        return y.transpose(1, 2)

    def blocks() -> Tensor:
        return causal_blocks(q, k, v, 0.125)

    def learnt(forward: Callable[[], Tensor]) -> object:
        y = forward()
        return torch.autograd.grad(y, (q, k, v), torch.ones_like(y))

    return {"torch": functools.partial(learnt, own), "blocks": functools.partial(learnt, blocks)}


def _numbers(rows: int, columns: int) -> Tensor:
    """Numbers between -1 and 1."""
    return torch.linspace(-1.0, 1.0, rows * columns, dtype=torch.float32, device="cpu").view(rows, columns)
