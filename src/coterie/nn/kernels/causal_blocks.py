"""Causal attention by blocks of queries, from plain products: faster on CPU than PyTorch's fused kernel.

B segments, L their length, H query heads, G key/value heads, D head width, M = H / G query heads that share a
key head, C (segment, key head) pairs of one block, S keys, n queries of one block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Queries of one block, and bytes of scores worked on at once: they stay in cache.
BLOCK_QUERIES = 64
BLOCK_BYTES = 1 << 20
# Probabilities that one call keeps for its backward pass; those beyond are computed again.
KEEP_BYTES = 48 << 20


def causal_blocks(q_BLHD: Tensor, k_BLGD: Tensor, v_BLGD: Tensor, scale: float) -> Tensor:
    """(B, L, H, D): causal attention of every segment. Keys after a block's last query are skipped."""
    y_BLHD: Tensor = _CausalBlocks.apply(q_BLHD, k_BLGD, v_BLGD, scale)
    return y_BLHD


class _CausalBlocks(torch.autograd.Function):
    """The M query heads that share a key head are more rows of one product."""

    @staticmethod
    def forward(ctx: Any, q_BLHD: Tensor, k_BLGD: Tensor, v_BLGD: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(q_BLHD, k_BLGD, v_BLGD)
        ctx.scale = scale
        q, k, v = _grouped(q_BLHD * scale, k_BLGD), _keys(k_BLGD), _keys(v_BLGD)
        y = q.new_empty(*q.shape[:3], v.shape[-1])
        ctx.blocks, ctx.kept = list(_blocks(q)), []
        room = KEEP_BYTES if any(ctx.needs_input_grad) else -1
        for pairs, start, end in ctx.blocks:
            probabilities = _probabilities(q[pairs, :, start:end], k[pairs, :end], start)
            room = room - probabilities.nbytes if probabilities.nbytes <= room else -1
            if room >= 0:
                ctx.kept.append(probabilities)
            y[pairs, :, start:end] = torch.bmm(probabilities, v[pairs, :end]).view_as(y[pairs, :, start:end])
        return _ungrouped(y, q_BLHD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q_BLHD, k_BLGD, v_BLGD = ctx.saved_tensors
        q, k, v = _grouped(q_BLHD * ctx.scale, k_BLGD), _keys(k_BLGD), _keys(v_BLGD)
        grad_y = _grouped(grads[0], k_BLGD)
        grad_q = torch.empty_like(q)
        grad_k, grad_v = torch.zeros_like(k, dtype=torch.float32), torch.zeros_like(v, dtype=torch.float32)
        for number, (pairs, start, end) in enumerate(ctx.blocks):
            k_block, v_block = k[pairs, :end], v[pairs, :end]
            is_kept = number < len(ctx.kept)
            probabilities = (
                ctx.kept[number] if is_kept else _probabilities(q[pairs, :, start:end], k_block, start)
            )
            q_block, grad_block = (
                q[pairs, :, start:end].flatten(1, 2),
                grad_y[pairs, :, start:end].flatten(1, 2),
            )
            grad_v[pairs, :end] += torch.bmm(probabilities.transpose(1, 2), grad_block)
            grad_probabilities = torch.bmm(grad_block, v_block.transpose(1, 2))
            grad_scores = torch._softmax_backward_data(grad_probabilities, probabilities, -1, q.dtype)
            grad_q[pairs, :, start:end] = torch.bmm(grad_scores, k_block).view_as(grad_q[pairs, :, start:end])
            grad_k[pairs, :end] += torch.bmm(grad_scores.transpose(1, 2), q_block)
        grad_q_BLHD = _ungrouped(grad_q.mul_(ctx.scale), q_BLHD)
        return grad_q_BLHD, _unkeyed(grad_k, k_BLGD), _unkeyed(grad_v, v_BLGD), None


def _probabilities(q: Tensor, k: Tensor, start: int) -> Tensor:
    """Softmax of the scores of a block of queries (C, M, n, D), the first at `start`, over keys (C, S, D)."""
    scores = torch.bmm(q.flatten(1, 2), k.transpose(1, 2))
    num_queries = q.shape[2]
    later = torch.full((num_queries, num_queries), float("-inf"), dtype=q.dtype).triu_(1)
    scores.unflatten(1, q.shape[1:3])[..., start:] += later
    return torch.softmax(scores, -1, out=scores)


def _blocks(q: Tensor) -> Iterator[tuple[slice, int, int]]:
    """(sequence and key head pairs, first query, end) of every block."""
    num_pairs, copies, length, _ = q.shape
    queries = max(1, min(length, BLOCK_QUERIES))
    size = max(1, BLOCK_BYTES // (copies * queries * length * q.element_size()))
    for pair in range(0, num_pairs, size):
        for start in range(0, length, queries):
            yield slice(pair, pair + size), start, min(length, start + queries)


def _grouped(x_BLHD: Tensor, k_BLGD: Tensor) -> Tensor:
    """(B, L, H, D) as contiguous (B * G, M, L, D)."""
    x = x_BLHD.unflatten(2, (k_BLGD.shape[2], -1)).permute(0, 2, 3, 1, 4)
    return x.flatten(0, 1).contiguous()


def _ungrouped(x: Tensor, like_BLHD: Tensor) -> Tensor:
    x_BGMLD = x.unflatten(0, (like_BLHD.shape[0], -1))
    return x_BGMLD.permute(0, 3, 1, 2, 4).flatten(2, 3)


def _keys(x_BLGD: Tensor) -> Tensor:
    """(B, L, G, D) as contiguous (B * G, L, D)."""
    return x_BLGD.transpose(1, 2).flatten(0, 1).contiguous()


def _unkeyed(x: Tensor, like_BLGD: Tensor) -> Tensor:
    return x.to(like_BLGD.dtype).unflatten(0, (like_BLGD.shape[0], -1)).transpose(1, 2)
