"""The only caller of `scaled_dot_product_attention`: packed segments without a mask, kept keys with one.

Segments of similar length are padded at their end into one `(B, H, L, D)` batch: a causal query never sees what
follows it, so padding needs no mask. Equal segments need no gather, only views.

T tokens, H query heads, G key/value heads, D head width, S kept keys, B segments of one bucket, L their padded
length, P padded tokens of all buckets, W window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from coterie.nn.layout import Layout

Mask = Literal["causal", "sliding", "chunked"]

# Segments share a bucket while the longest is at most this much longer than the shortest, or shorter than MIN_LENGTH.
MAX_STRETCH = 1.3
MIN_LENGTH = 32


def attend(
    q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, layout: Layout, mask: Mask, window: int | None, scale: float
) -> Tensor:
    """Attention `(T, H, D)` of packed tokens within their own segments; nothing kept from before.

    `sliding`: a query sees the last `window` positions, itself included. `chunked`: positions with the same
    `position // window`. Query head h reads key head `h // (H // G)`.
    """
    plan = _plan(layout, mask, window, q_THD.device)
    num_groups = q_THD.shape[1] // k_TGD.shape[1]
    causal_THD = _causal(q_THD, k_TGD, v_TGD, plan, num_groups, scale)
    if plan.band is None:
        return causal_THD
    return causal_THD + _banded(q_THD, k_TGD, v_TGD, plan.band, num_groups, scale)


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
    """Attention `(T, H, D)` of one sequence's new tokens over its kept keys, at consecutive positions."""
    num_tokens, num_keys = q_THD.shape[0], k_SGD.shape[0]
    key_positions_S = torch.arange(first_key_position, first_key_position + num_keys, device=q_THD.device)
    seen_TS = visible(query_positions_T[:, None], key_positions_S[None, :], mask, window)
    num_groups = q_THD.shape[1] // k_SGD.shape[1]
    q_1HTD, k_1HSD, v_1HSD = (
        _heads(x.unsqueeze(0), n) for x, n in ((q_THD, 1), (k_SGD, num_groups), (v_SGD, num_groups))
    )
    y_1HTD = F.scaled_dot_product_attention(q_1HTD, k_1HSD, v_1HSD, attn_mask=seen_TS, scale=scale)
    return y_1HTD[0].transpose(0, 1).reshape(num_tokens, q_THD.shape[1], -1)


def visible(query_positions: Tensor, key_positions: Tensor, mask: Mask, window: int | None) -> Tensor:
    """Whether a query sees a key of its own sequence, by position (bool, broadcast)."""
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
    rows_N: Tensor  # where the real queries stand in queries_P
    tokens_N: Tensor  # and which tokens they are
    seen_LS: Tensor


@dataclass(frozen=True, eq=False)
class _Plan:
    """Buckets `(B, L)` of causal segments; `gather_P` None when they already lie in order, unpadded."""

    buckets: tuple[tuple[int, int], ...]
    gather_P: Tensor | None
    place_T: Tensor | None
    padding_N: Tensor | None
    band: _Band | None


def _plan(layout: Layout, mask: Mask, window: int | None, device: torch.device) -> _Plan:
    key = ("attend", mask, window if mask != "causal" else None, str(device))
    if key not in layout.memo:
        layout.memo[key] = _make_plan(layout, mask, window, device)
    plan: _Plan = layout.memo[key]
    return plan


def _make_plan(layout: Layout, mask: Mask, window: int | None, device: torch.device) -> _Plan:
    pieces, rest = [], []
    start = 0
    positions = layout.positions_T.tolist() if mask == "chunked" else []
    for length in layout.lengths:
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
    return _make_buckets(pieces, layout.num_tokens, band, device)


def _make_buckets(
    pieces: list[tuple[int, int]], num_tokens: int, band: _Band | None, device: torch.device
) -> _Plan:
    lengths = {end - start for start, end in pieces}
    if len(lengths) == 1 and band is None:
        return _Plan(((len(pieces), lengths.pop()),), None, None, None, None)
    groups: list[list[tuple[int, int]]] = []
    for piece in sorted(pieces, key=lambda p: p[1] - p[0], reverse=True):
        longest = groups[-1][0][1] - groups[-1][0][0] if groups else 0
        if groups and longest <= max(MIN_LENGTH, MAX_STRETCH * (piece[1] - piece[0])):
            groups[-1].append(piece)
        else:
            groups.append([piece])
    buckets, gather, padding, offset = [], [], [], 0
    place_T = torch.full((num_tokens,), -1, dtype=torch.int64)
    for group in groups:
        padded = group[0][1] - group[0][0]
        buckets.append((len(group), padded))
        for start, end in group:
            place_T[start:end] = torch.arange(offset, offset + end - start)
            gather += list(range(start, end)) + [start] * (padded - (end - start))
            padding += list(range(offset + end - start, offset + padded))
            offset += padded
    padding_N = torch.tensor(padding, device=device) if padding else None
    return _Plan(tuple(buckets), torch.tensor(gather, device=device), place_T.to(device), padding_N, band)


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
    queries_P, keys_P, rows_N, tokens_N = (torch.tensor(x, device=device) for x in (queries, keys, rows, tokens))
    return _Band(queries_P, keys_P, rows_N, tokens_N, seen_LS.to(device))


def _causal(q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, plan: _Plan, num_groups: int, scale: float) -> Tensor:
    if plan.gather_P is not None:
        q_THD, k_TGD, v_TGD = (_Rows.apply(x, plan.gather_P, plan.place_T, None) for x in (q_THD, k_TGD, v_TGD))
    outputs, offset = [], 0
    for num_segments, length in plan.buckets:
        part = slice(offset, offset + num_segments * length)
        q, k, v = (
            _heads(x[part].unflatten(0, (num_segments, length)), n)
            for x, n in ((q_THD, 1), (k_TGD, num_groups), (v_TGD, num_groups))
        )
        y_BHLD = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        outputs.append(y_BHLD.transpose(1, 2).flatten(0, 1))
        offset = part.stop
    y_PHD = torch.cat(outputs) if len(outputs) != 1 else outputs[0]
    if plan.gather_P is None:
        return y_PHD
    return _Rows.apply(y_PHD, plan.place_T, plan.gather_P, plan.padding_N)


def _banded(q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, band: _Band, num_groups: int, scale: float) -> Tensor:
    window = band.seen_LS.shape[0]
    q = _heads(q_THD.index_select(0, band.queries_P).unflatten(0, (-1, window)), 1)
    k, v = (
        _heads(x.index_select(0, band.keys_P).unflatten(0, (-1, 2 * window)), num_groups) for x in (k_TGD, v_TGD)
    )
    y_BHLD = F.scaled_dot_product_attention(q, k, v, attn_mask=band.seen_LS, scale=scale)
    y_PHD = y_BHLD.transpose(1, 2).flatten(0, 1)
    y_THD = torch.zeros_like(q_THD[..., :1].expand(-1, -1, v_TGD.shape[-1]))
    return y_THD.index_copy(0, band.tokens_N, y_PHD.index_select(0, band.rows_N))


def _heads(x_BLGD: Tensor, num_groups: int) -> Tensor:
    """`(B, H, L, D)`: each key head repeated for the query heads that read it."""
    x_BGLD = x_BLGD.transpose(1, 2)
    if num_groups == 1:
        return x_BGLD
    return x_BGLD.repeat_interleave(num_groups, dim=1)


class _Rows(torch.autograd.Function):
    """`x[index]` whose gradient is another gather: `inverse` says where each row of x went.

    A negative place yields zeros (forward), and `unused` names the rows of x that nothing reads (backward).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor, unused: Tensor | None) -> Tensor:
        ctx.inverse, ctx.index, ctx.unused = inverse, index, unused
        return _take(x, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = _take(grads[0], ctx.inverse)
        if ctx.unused is not None:
            grad.index_fill_(0, ctx.unused, 0)
        return grad, None, None, None


def _take(x: Tensor, index: Tensor) -> Tensor:
    taken = x.index_select(0, index.clamp_min(0))
    if bool((index < 0).any()):
        taken.masked_fill_((index < 0).view(-1, *[1] * (x.dim() - 1)), 0)
    return taken
