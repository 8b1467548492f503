"""Kernels that exist on CUDA only, each compared with a slow reference where it is first wanted.

A kernel that is missing, fails or is wrong is not taken; one line says which and why. No random number is
drawn, so that a run does not depend on the comparison.

R routed rows sorted by expert, E experts, I and O features; T packed tokens, H query heads, G key/value
heads, D head width, B segments.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from coterie.nn.kernels.weights import Counts, segments

Kernel = Literal["grouped_mm", "varlen"]

# Where an expert's rows begin and end, gradients of weights read along the rows, 16 bytes at a time.
GROUP_ROWS = 8
# Of the largest number: the results are bfloat16, and attention rounds its probabilities too.
_TOLERANCE = 2.0**-6

_log = logging.getLogger(__name__)


def grouped_mm(x_RI: Tensor, weight_EOI: Tensor, counts: Counts) -> Tensor:
    """(R, O): each expert's rows times its own matrix in one kernel, differentiable. bfloat16.

    Rows of experts with other counts than multiples of `GROUP_ROWS` move to places that are, and back.
    """
    places = aligned_places(counts)
    if places is not None:
        places_R = torch.tensor(places, device=x_RI.device)
        counts = tuple(map(_aligned, counts))
        x_RI = x_RI.new_zeros(sum(counts), x_RI.shape[1]).index_copy(0, places_R, x_RI)
    ends_E = torch.tensor([*accumulate(counts)], dtype=torch.int32, device=x_RI.device)
    y_RO = F.grouped_mm(x_RI, weight_EOI.transpose(1, 2), offs=ends_E)
    return y_RO if places is None else y_RO.index_select(0, places_R)


def aligned_places(counts: Counts) -> list[int] | None:
    """Where each row goes so that every expert's begin at a multiple of `GROUP_ROWS`; None: they do."""
    if all(count % GROUP_ROWS == 0 for count in counts):
        return None
    places: list[int] = []
    start = 0
    for count in counts:
        places += range(start, start + count)
        start += _aligned(count)
    return places


def _aligned(count: int) -> int:
    return -(-count // GROUP_ROWS) * GROUP_ROWS


def varlen(
    q_THD: Tensor,
    k_TGD: Tensor,
    v_TGD: Tensor,
    starts_B1: Tensor,
    longest: int,
    window: int | None,
    scale: float,
) -> Tensor:
    """(T, H, D): causal attention of packed segments in one kernel, differentiable. bfloat16 or float16.

    `starts_B1`: where each segment starts, and the end of the last (int32). `window`: positions that a query
    sees, itself included.
    """
    from torch.nn.attention.varlen import varlen_attn

    back = -1 if window is None else window - 1
    y_THD = varlen_attn(
        q_THD, k_TGD, v_TGD, starts_B1, starts_B1, longest, longest,
        scale=scale, window_size=(back, 0), enable_gqa=q_THD.shape[1] != k_TGD.shape[1],
    )  # fmt: skip
    assert isinstance(y_THD, Tensor)
    return y_THD


@functools.cache
def is_right(kernel: Kernel, device: torch.device) -> bool:
    """Whether the kernel and its gradients agree with a slow reference on this device."""
    try:
        with _disable_current_modes(), torch.inference_mode(False), torch.enable_grad():
            worst = _COMPARISONS[kernel](device)
        reason = "" if worst <= _TOLERANCE else f"it is off by {worst:.1e} of the largest number"
    except (ImportError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        # PyTorch goes on about what else it has.
        reason = str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__
    if reason:
        _log.warning(f"kernel {kernel} on {device} is not used, slower ones are: {reason}")
    return not reason


def _compare_grouped(device: torch.device) -> float:
    """Groups without rows, with odd numbers of rows and with whole ones."""
    worst = 0.0
    for counts in ((5, 0, 17, 8), (0, 8, 0, 16)):
        x, weight, upstream = _numbers((sum(counts), 16), (4, 24, 16), (sum(counts), 24))

        def slow(x: Tensor, weight: Tensor, counts: Counts = counts) -> Tensor:
            return torch.cat([x[rows] @ weight[expert].t() for expert, rows in segments(counts)])

        def fast(x: Tensor, weight: Tensor, counts: Counts = counts) -> Tensor:
            return grouped_mm(x, weight, counts)

        worst = max(worst, _difference(fast, slow, [x, weight], upstream, device))
    return worst


def _compare_varlen(device: torch.device) -> float:
    """Segments of several lengths, one of a single token; the whole past and a window of it."""
    ends = (0, 70, 71, 90)
    q, k, v, upstream = _numbers((90, 4, 64), (90, 2, 64), (90, 2, 64), (90, 4, 64))
    starts_B1 = torch.tensor(ends, dtype=torch.int32, device=device)
    worst = 0.0
    for window in (None, 16):

        def slow(q: Tensor, k: Tensor, v: Tensor, window: int | None = window) -> Tensor:
            return torch.cat([_attended(q[a:b], k[a:b], v[a:b], window) for a, b in pairwise(ends)])

        def fast(q: Tensor, k: Tensor, v: Tensor, window: int | None = window) -> Tensor:
            return varlen(q, k, v, starts_B1, 70, window, 0.1)

        worst = max(worst, _difference(fast, slow, [q, k, v], upstream, device))
    return worst


_COMPARISONS: dict[Kernel, Callable[[torch.device], float]] = {
    "grouped_mm": _compare_grouped,
    "varlen": _compare_varlen,
}


def _attended(q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, window: int | None) -> Tensor:
    copies = q_THD.shape[1] // k_TGD.shape[1]
    k_THD, v_THD = (x.repeat_interleave(copies, dim=1) for x in (k_TGD, v_TGD))
    scores_HTT = 0.1 * torch.einsum("thd,shd->hts", q_THD, k_THD)
    back_TT = torch.arange(len(q_THD))[:, None] - torch.arange(len(q_THD))
    hidden_TT = (back_TT < 0) | (back_TT >= (window or len(q_THD)))
    weights_HTT = scores_HTT.masked_fill(hidden_TT, float("-inf")).softmax(-1)
    return torch.einsum("hts,shd->thd", weights_HTT, v_THD)


def _numbers(*shapes: tuple[int, ...]) -> list[Tensor]:
    """Numbers between -1 and 1 that look irregular, in bfloat16."""
    made = []
    for place, shape in enumerate(shapes):
        count = torch.Size(shape).numel()
        made.append((torch.arange(count) * (0.7 + place)).sin().mul(997.0).sin().view(shape).bfloat16())
    return made


def _difference(
    fast: Callable[..., Tensor],
    slow: Callable[..., Tensor],
    inputs: list[Tensor],
    upstream: Tensor,
    device: torch.device,
) -> float:
    """The largest difference of results and gradients over the largest number. `slow`: in float32 on CPU."""
    found = []
    for work, place, dtype in ((fast, device, torch.bfloat16), (slow, torch.device("cpu"), torch.float32)):
        leaves = [x.to(place, dtype).requires_grad_() for x in inputs]
        result = work(*leaves)
        gradients = torch.autograd.grad(result, leaves, upstream.to(place, dtype))
        found.append([x.detach().cpu().float() for x in (result, *gradients)])
    shares = [(ours - theirs).abs().max() / theirs.abs().max() for ours, theirs in zip(*found, strict=True)]
    return float(torch.stack(shares).nan_to_num(nan=math.inf).max())
