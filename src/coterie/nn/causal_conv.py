"""The short causal convolution of mixers with a state: each channel on its own, never across segments.

T tokens, C channels, K taps, B segments.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from coterie.nn.forward_context import ForwardContext


def causal_conv(
    x_TC: Tensor,
    weight_CK: Tensor,
    bias_C: Tensor | None,
    context: ForwardContext,
    tails: Sequence[Tensor | None] | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """`y_t = bias + sum_k weight_k x_(t - K + 1 + k)` in float32, and each segment's new tail.

    `tails`: for each segment the K - 1 inputs before it, (K - 1, C), float32 (None: zeros). Without `tails`
    all segments begin with zeros and no tail is returned.
    """
    x_TC, weight_CK = x_TC.float(), weight_CK.float()
    num_taps = weight_CK.shape[1]
    if tails is None:
        y_TC, new = _from_zeros(x_TC, weight_CK, _offsets(context)), []
    elif len(set(context.lengths)) == 1:
        x_BLC = x_TC.unflatten(0, (len(tails), -1))
        kept_BKC = torch.stack([_tail(x_TC, tail, num_taps) for tail in tails])
        y_BLC, new_BKC = _after(x_BLC, kept_BKC, weight_CK)
        y_TC, new = y_BLC.flatten(0, 1), list(new_BKC.unbind())
    else:
        parts, new = [], []
        for x_LC, tail in zip(x_TC.split(context.lengths), tails, strict=True):
            y_1LC, new_1KC = _after(x_LC[None], _tail(x_TC, tail, num_taps)[None], weight_CK)
            parts.append(y_1LC[0])
            new.append(new_1KC[0])
        y_TC = torch.cat(parts)
    return y_TC if bias_C is None else y_TC + bias_C.float(), new


def _offsets(context: ForwardContext) -> Tensor:
    """(T,) each token's place in its segment."""
    if "offsets" not in context.memo:
        parts = [torch.arange(length) for length in context.lengths]
        offsets_T = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)
        context.memo["offsets"] = offsets_T.to(context.positions_T.device)
    found: Tensor = context.memo["offsets"]
    return found


def _from_zeros(x_TC: Tensor, weight_CK: Tensor, offsets_T: Tensor) -> Tensor:
    num_tokens, num_taps = x_TC.shape[0], weight_CK.shape[1]
    y_TC = x_TC * weight_CK[:, -1]
    for back in range(1, min(num_taps, num_tokens)):
        earlier_TC = F.pad(x_TC[: num_tokens - back], (0, 0, back, 0))
        inside_T1 = (offsets_T >= back)[:, None]
        y_TC = y_TC + torch.where(inside_T1, earlier_TC, 0.0) * weight_CK[:, -1 - back]
    return y_TC


def _tail(x_TC: Tensor, tail_KC: Tensor | None, num_taps: int) -> Tensor:
    return x_TC.new_zeros((num_taps - 1, x_TC.shape[1])) if tail_KC is None else tail_KC


def _after(x_BLC: Tensor, tail_BKC: Tensor, weight_CK: Tensor) -> tuple[Tensor, Tensor]:
    """Results (B, L, C) after the given tails, and the tails after them."""
    num_taps, length = weight_CK.shape[1], x_BLC.shape[1]
    both_BSC = torch.cat((tail_BKC, x_BLC), dim=1)
    y_BLC = x_BLC * weight_CK[:, -1]
    for back in range(1, num_taps):
        first = num_taps - 1 - back
        y_BLC = y_BLC + both_BSC[:, first : first + length] * weight_CK[:, -1 - back]
    return y_BLC, both_BSC[:, length:].clone()
