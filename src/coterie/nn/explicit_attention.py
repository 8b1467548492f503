"""Attention that no fused kernel of PyTorch computes: sinks (gpt-oss) and capped scores (Gemma 2).

A sink is one learnt score per head that joins the softmax and has no value. Scores are written out for a
block of queries at a time; a sliding layer only touches the keys its block can see. T tokens, S keys, H query
heads, G key/value heads, M = H / G, D head width, N queries of one block, W keys of one block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from coterie.nn.branches import branches_of
from coterie.nn.forward_context import ForwardContext
from coterie.nn.logprobs import capped

BLOCK_QUERIES = 128


def attend_explicitly(
    q_THD: Tensor,
    k_TGD: Tensor,
    v_TGD: Tensor,
    context: ForwardContext,
    window: int | None,
    scale: float,
    sinks_H: Tensor | None = None,
    cap: float | None = None,
) -> Tensor:
    """Causal (`window` None) or sliding attention `(T, H, D)` of packed tokens within their own segments."""
    if context.continues is not None:
        whole = branches_of(context)
        q_PHD, k_PGD, v_PGD = (whole.spread(x) for x in (q_THD, k_TGD, v_TGD))
        y_PHD = attend_explicitly(q_PHD, k_PGD, v_PGD, whole.context, window, scale, sinks_H, cap)
        return whole.collect(y_PHD)
    parts = zip(*(x.split(context.lengths) for x in (q_THD, k_TGD, v_TGD)), strict=True)
    return torch.cat([attend_kept_explicitly(q, k, v, window, scale, sinks_H, cap) for q, k, v in parts])


def attend_kept_explicitly(
    q_THD: Tensor,
    k_SGD: Tensor,
    v_SGD: Tensor,
    window: int | None,
    scale: float,
    sinks_H: Tensor | None = None,
    cap: float | None = None,
) -> Tensor:
    """Attention (T, H, D) of one sequence's last T tokens over its S kept keys at consecutive positions.

    `sinks_H`: scores that take attention and give nothing. `cap`: scores become `cap tanh(score / cap)`.
    """
    num_new, num_kept = q_THD.shape[0], k_SGD.shape[0]
    parts = [q_THD[:0]]
    for start in range(0, num_new, BLOCK_QUERIES):
        end = min(num_new, start + BLOCK_QUERIES)
        # Places of the block's first query, and of the one after its last, among the kept keys.
        query, high = num_kept - num_new + start, num_kept - num_new + end
        low = 0 if window is None else max(0, query - window + 1)
        at_N, key_W = (
            torch.arange(query, high, device=q_THD.device),
            torch.arange(low, high, device=q_THD.device),
        )
        hidden_NW = key_W > at_N[:, None]
        if window is not None:
            hidden_NW |= at_N[:, None] - key_W >= window
        q, k, v = q_THD[start:end], k_SGD[low:high], v_SGD[low:high]
        parts.append(_block(q, k, v, hidden_NW, scale, sinks_H, cap))
    return torch.cat(parts)


def _block(
    q_NHD: Tensor,
    k_WGD: Tensor,
    v_WGD: Tensor,
    hidden_NW: Tensor,
    scale: float,
    sinks_H: Tensor | None,
    cap: float | None,
) -> Tensor:
    num_groups = k_WGD.shape[1]
    # The query heads that share a key head are more rows of one product.
    q_GMND = q_NHD.unflatten(1, (num_groups, -1)).permute(1, 2, 0, 3)
    scores_GMNW = torch.bmm(q_GMND.flatten(1, 2) * scale, k_WGD.permute(1, 2, 0)).unflatten(
        1, q_GMND.shape[1:3]
    )
    scores_GMNW = capped(scores_GMNW.float(), cap).masked_fill(hidden_NW, float("-inf"))
    if sinks_H is None:
        shares_GMNW = scores_GMNW.softmax(-1)
    else:
        sinks_GMN1 = sinks_H.float().view(num_groups, -1, 1, 1).expand(-1, -1, q_NHD.shape[0], 1)
        shares_GMNW = torch.cat((scores_GMNW, sinks_GMN1), dim=-1).softmax(-1)[..., :-1]
    shares_GRW = shares_GMNW.to(v_WGD.dtype).flatten(1, 2)
    y_GMND = torch.bmm(shares_GRW, v_WGD.transpose(0, 1)).unflatten(1, q_GMND.shape[1:3])
    return y_GMND.permute(2, 0, 1, 3).flatten(1, 2)
