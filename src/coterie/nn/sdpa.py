"""The only caller of `scaled_dot_product_attention`: packed segments without a mask, kept keys with one.

On CUDA packed segments of 16 bits are one kernel, padded nowhere (`varlen`).

Segments of similar length are padded at their end into one `(B, H, L, D)` batch: a causal query never sees
later keys, so padding needs no mask. Equal segments need no gather, only views.

T tokens, H query heads, G key/value heads, D head width, S kept keys, B segments of one bucket, L their
padded length, P padded tokens of all buckets, W window.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from coterie.nn.branches import branches_of
from coterie.nn.forward_context import ForwardContext
from coterie.nn.kernels import choose
from coterie.nn.kernels.causal_blocks import causal_blocks
from coterie.nn.kernels.cuda import varlen

Mask = Literal["causal", "sliding", "chunked"]

# Segments share a bucket while the longest is at most this much longer than the shortest, or shorter than
# MIN_LENGTH.
MAX_STRETCH = 1.3
MIN_LENGTH = 32


def attend(
    q_THD: Tensor,
    k_TGD: Tensor,
    v_TGD: Tensor,
    context: ForwardContext,
    mask: Mask,
    window: int | None,
    scale: float,
) -> Tensor:
    """Attention `(T, H, D)` of packed tokens within their own segments; nothing kept from before.

    `sliding`: a query sees the last `window` positions, itself included. `chunked`: positions with the same
    `position // window`. Query head h reads key head `h // (H // G)`.
    """
    if context.continues is not None:
        whole = branches_of(context)
        q_PHD, k_PGD, v_PGD = (whole.spread(x) for x in (q_THD, k_TGD, v_TGD))
        return whole.collect(attend(q_PHD, k_PGD, v_PGD, whole.context, mask, window, scale))
    if mask != "chunked" and choose.attends_packed(q_THD, k_TGD, v_TGD):
        starts_B1 = _starts(context, q_THD.device)
        seen = window if mask == "sliding" else None
        return varlen(q_THD, k_TGD, v_TGD, starts_B1, max(context.lengths), seen, scale)
    plan = _plan(context, mask, window, q_THD.device)
    causal_THD = _causal(q_THD, k_TGD, v_TGD, plan, scale)
    if plan.band is None:
        return causal_THD
    return causal_THD + _banded(q_THD, k_TGD, v_TGD, plan.band, scale)


def attend_cached(
    q_THD: Tensor,
    k_SGD: Tensor,
    v_SGD: Tensor,
    query_positions_T: Tensor,
    first_key_position: int,
    mask: Mask,
    window: int | None,
    scale: float,
) -> Tensor:
    """Attention `(T, H, D)` of one sequence's new tokens over its kept keys.

    The keys have consecutive positions from `first_key_position`; the last T are those of the new tokens.
    """
    num_tokens, num_heads, _ = q_THD.shape
    num_keys, num_groups, _ = k_SGD.shape
    k_1GSD, v_1GSD = k_SGD.transpose(0, 1).unsqueeze(0), v_SGD.transpose(0, 1).unsqueeze(0)
    if num_tokens == num_keys and mask == "causal":
        q_1HTD, k_1HTD, v_1HTD = (_heads(x.unsqueeze(0), num_heads) for x in (q_THD, k_SGD, v_SGD))
        y_1HTD = F.scaled_dot_product_attention(q_1HTD, k_1HTD, v_1HTD, is_causal=True, scale=scale)
        return y_1HTD[0].transpose(0, 1)
    # Query heads that share a key head become more queries of it, so that no kept key is copied per head.
    q_1GQD = q_THD.unflatten(1, (num_groups, -1)).permute(1, 2, 0, 3).flatten(1, 2).unsqueeze(0)
    seen_QS = None
    if num_tokens > 1 or mask != "causal":
        key_positions_S = torch.arange(first_key_position, first_key_position + num_keys, device=q_THD.device)
        seen_TS = visible(query_positions_T[:, None], key_positions_S, mask, window)
        seen_QS = seen_TS.repeat(num_heads // num_groups, 1)
    y_1GQD = F.scaled_dot_product_attention(q_1GQD, k_1GSD, v_1GSD, attn_mask=seen_QS, scale=scale)
    return y_1GQD[0].unflatten(1, (-1, num_tokens)).permute(2, 0, 1, 3).flatten(1, 2)


def visible(query_positions: Tensor, key_positions: Tensor, mask: Mask, window: int | None) -> Tensor:
    """Whether a query sees a key of the same sequence, by position (bool, broadcast)."""
    seen = key_positions <= query_positions
    if window is None or mask == "causal":
        return seen
    if mask == "sliding":
        return seen & (query_positions - key_positions < window)
    return seen & (query_positions // window == key_positions // window)


@dataclass(frozen=True, eq=False)
class _Band:
    """Blocks of a sliding segment after its first: W queries over the 2 W keys that end with them."""

    queries_P: Tensor
    keys_P: Tensor
    rows_N: Tensor  # places of the real queries in queries_P
    tokens_N: Tensor  # the tokens that they are
    seen_LS: Tensor


@dataclass(frozen=True, eq=False)
class _Move:
    """`gather_P`: the token at each place. `place_T`: the place of each token.

    `padding_N`: places without a token. `elsewhere_N`: tokens without a place. None when there are none;
    their index is 0.
    """

    gather_P: Tensor
    place_T: Tensor
    padding_N: Tensor | None
    elsewhere_N: Tensor | None


@dataclass(frozen=True, eq=False)
class _Plan:
    """Buckets `(B, L)` of causal segments, and how tokens get into them and back.

    `move` None: the tokens are in that order already. `band`: the later blocks of sliding segments.
    """

    buckets: tuple[tuple[int, int], ...]
    move: _Move | None
    band: _Band | None


def _starts(context: ForwardContext, device: torch.device) -> Tensor:
    """Where each segment starts, and the end of the last (int32)."""
    key = ("starts", str(device))
    if key not in context.memo:
        starts = [0, *accumulate(context.lengths)]
        context.memo[key] = torch.tensor(starts, dtype=torch.int32, device=device)
    starts_B1: Tensor = context.memo[key]
    return starts_B1


def _plan(context: ForwardContext, mask: Mask, window: int | None, device: torch.device) -> _Plan:
    key = ("attend", mask, window if mask != "causal" else None, str(device))
    if key not in context.memo:
        context.memo[key] = _make_plan(context, mask, window, device)
    plan: _Plan = context.memo[key]
    return plan


def _make_plan(context: ForwardContext, mask: Mask, window: int | None, device: torch.device) -> _Plan:
    pieces, rest = [], []
    start = 0
    positions = context.positions_T.tolist() if mask == "chunked" else []
    for length in context.lengths:
        end = start + length
        if mask == "chunked" and window is not None:
            at = start
            while at < end:
                stop = min(end, at + window - positions[at] % window)
                pieces.append((at, stop))
                at = stop
        elif mask == "sliding" and window is not None and length > window:
            pieces.append((start, start + window))
            rest += [(at, min(end, at + window)) for at in range(start + window, end, window)]
        elif length:
            pieces.append((start, end))
        start = end
    band = _make_band(rest, window, device) if rest and window is not None else None
    return _make_buckets(pieces, context.num_tokens, band, device)


def _make_buckets(
    pieces: list[tuple[int, int]], num_tokens: int, band: _Band | None, device: torch.device
) -> _Plan:
    lengths = {end - start for start, end in pieces}
    if len(lengths) == 1 and band is None:
        return _Plan(((len(pieces), lengths.pop()),), None, None)
    groups: list[list[tuple[int, int]]] = []
    for piece in sorted(pieces, key=lambda p: p[1] - p[0], reverse=True):
        longest = groups[-1][0][1] - groups[-1][0][0] if groups else 0
        if groups and longest <= max(MIN_LENGTH, MAX_STRETCH * (piece[1] - piece[0])):
            groups[-1].append(piece)
        else:
            groups.append([piece])
    buckets, gather, padding, offset = [], [], [], 0
    place_T = torch.zeros(num_tokens, dtype=torch.int64)
    elsewhere_T = torch.ones(num_tokens, dtype=torch.bool)
    for group in groups:
        padded = group[0][1] - group[0][0]
        buckets.append((len(group), padded))
        for start, end in group:
            place_T[start:end] = torch.arange(offset, offset + end - start)
            elsewhere_T[start:end] = False
            gather += list(range(start, end)) + [start] * (padded - (end - start))
            padding += list(range(offset + end - start, offset + padded))
            offset += padded
    move = _Move(
        torch.tensor(gather, dtype=torch.int64, device=device),
        place_T.to(device),
        torch.tensor(padding, device=device) if padding else None,
        elsewhere_T.nonzero().squeeze(1).to(device) if band is not None else None,
    )
    return _Plan(tuple(buckets), move, band)


def _make_band(rest: list[tuple[int, int]], window: int, device: torch.device) -> _Band:
    queries, keys, rows, tokens = [], [], [], []
    for number, (start, end) in enumerate(rest):
        short = window - (end - start)
        queries += list(range(start, end)) + [start] * short
        keys += list(range(start - window, end)) + [start] * short
        rows += list(range(number * window, number * window + end - start))
        tokens += list(range(start, end))
    at_L = torch.arange(window, 2 * window)
    seen_LS = visible(at_L[:, None], torch.arange(2 * window)[None, :], "sliding", window)
    queries_P, keys_P, rows_N, tokens_N = (
        torch.tensor(x, device=device) for x in (queries, keys, rows, tokens)
    )
    return _Band(queries_P, keys_P, rows_N, tokens_N, seen_LS.to(device))


def _causal(q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, plan: _Plan, scale: float) -> Tensor:
    num_heads = q_THD.shape[1]
    move = plan.move
    if move is not None:
        q_THD, k_TGD, v_TGD = (
            _Rows.apply(x, move.gather_P, move.place_T, None, move.elsewhere_N) for x in (q_THD, k_TGD, v_TGD)
        )
    outputs, offset = [], 0
    for num_segments, length in plan.buckets:
        part = slice(offset, offset + num_segments * length)
        q_BLHD, k_BLGD, v_BLGD = (x[part].unflatten(0, (num_segments, length)) for x in (q_THD, k_TGD, v_TGD))
        if choose.attends_by_blocks(q_BLHD):
            y_BLHD = causal_blocks(q_BLHD, k_BLGD, v_BLGD, scale)
        else:
            q, k, v = (_heads(x, num_heads) for x in (q_BLHD, k_BLGD, v_BLGD))
            y_BLHD = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale).transpose(1, 2)
        outputs.append(y_BLHD.flatten(0, 1))
        offset = part.stop
    y_PHD = torch.cat(outputs) if len(outputs) != 1 else outputs[0]
    if move is None:
        return y_PHD
    return _Rows.apply(y_PHD, move.place_T, move.gather_P, move.elsewhere_N, move.padding_N)


def _banded(q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, band: _Band, scale: float) -> Tensor:
    window, num_heads = band.seen_LS.shape[0], q_THD.shape[1]
    q = _heads(q_THD.index_select(0, band.queries_P).unflatten(0, (-1, window)), num_heads)
    k, v = (
        _heads(x.index_select(0, band.keys_P).unflatten(0, (-1, 2 * window)), num_heads)
        for x in (k_TGD, v_TGD)
    )
    y_BHLD = F.scaled_dot_product_attention(q, k, v, attn_mask=band.seen_LS, scale=scale)
    y_PHD = y_BHLD.transpose(1, 2).flatten(0, 1)
    y_THD = torch.zeros_like(q_THD[..., :1].expand(-1, -1, v_TGD.shape[-1]))
    return y_THD.index_copy(0, band.tokens_N, y_PHD.index_select(0, band.rows_N))


def _heads(x_BLGD: Tensor, num_heads: int) -> Tensor:
    """`(B, H, L, D)`: each key head repeated for the query heads that read it."""
    x_BGLD = x_BLGD.transpose(1, 2)
    copies = num_heads // x_BGLD.shape[1]
    return x_BGLD if copies == 1 else x_BGLD.repeat_interleave(copies, dim=1)


class _Rows(torch.autograd.Function):
    """`x[index]`, whose gradient is another gather and no scatter-add, which is slow.

    `inverse`: the row of the result that each row of x became. `zero_result`: rows of the result that hold
    nothing. `zero_gradient`: rows of x that nothing reads.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        index: Tensor,
        inverse: Tensor,
        zero_result: Tensor | None,
        zero_gradient: Tensor | None,
    ) -> Tensor:
        ctx.inverse, ctx.zero_gradient = inverse, zero_gradient
        return _take(x, index, zero_result)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _take(grads[0], ctx.inverse, ctx.zero_gradient), None, None, None, None


def _take(x: Tensor, index: Tensor, zero: Tensor | None) -> Tensor:
    taken = x.index_select(0, index)
    return taken if zero is None else taken.index_fill_(0, zero, 0)
