"""Grouped-query attention of one layer, every family's variation as data.

T tokens, H query heads, G key/value heads, D head width, S kept keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from coterie.config.model import AttentionConfig, TemperatureConfig
from coterie.nn.explicit_attention import attend_explicitly, attend_kept_explicitly
from coterie.nn.forward_context import ForwardContext
from coterie.nn.linear import Linear
from coterie.nn.norm import NormKind, rms
from coterie.nn.rope import rotate
from coterie.nn.sdpa import attend, attend_cached


class KeyValues(Protocol):
    """The keys and values that attention keeps for one layer of one sequence."""

    def append(self, k_TGD: Tensor, v_TGD: Tensor) -> tuple[Tensor, Tensor, int]:
        """Add new keys and values; returns all kept ones (S, G, D) and the first one's position.

        Kept keys have consecutive positions, the new ones last.
        """
        ...


class KeptState(Protocol):
    """The state that a mixer without keys and values keeps for one layer of one sequence."""

    def read(self) -> tuple[Tensor, ...] | None:
        """The state after all tokens that are counted; None before the first. It must not be changed."""
        ...

    def write(self, state: tuple[Tensor, ...]) -> None:
        """The state after the new tokens, which takes effect with `KeyValueCache.advance`."""
        ...


class KeyValueCache(Protocol):
    """What one sequence keeps in all layers; `infer.cache` implements it."""

    def layer(self, index: int) -> KeyValues:
        """The keys and values of a layer that attends to them."""
        ...

    def state(self, index: int) -> KeptState:
        """The state of a layer that keeps one."""
        ...

    def advance(self, num_tokens: int) -> None:
        """Called once per forward pass, after all layers have added their new tokens."""
        ...


class Attention(nn.Module):
    """`o(softmax(scale q k^T + mask) v)` over packed tokens (T, width); variations: `AttentionConfig`."""

    def __init__(self, width: int, config: AttentionConfig, norm: NormKind) -> None:
        super().__init__()
        self.config = config
        self.norm_eps = norm.eps
        q_width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.q = Linear(width, q_width, bias=config.qkv_bias)
        self.k = Linear(width, kv_width, bias=config.qkv_bias)
        self.v = Linear(width, kv_width, bias=config.qkv_bias)
        self.o = Linear(q_width, width, bias=config.output_bias)
        self.sinks = nn.Parameter(torch.zeros(config.num_heads)) if config.sinks else None
        if config.gate != "none":
            self.gate = Linear(width, q_width if config.gate == "full" else config.num_heads)
        if config.qk_norm in ("head", "head_after", "full"):
            full = config.qk_norm == "full"
            self.q_norm = norm.of(q_width if full else config.head_dim)
            self.k_norm = norm.of(kv_width if full else config.head_dim)

    def forward(
        self,
        x_TD: Tensor,
        context: ForwardContext,
        caches: Sequence[KeyValueCache] | None = None,
        layer: int = 0,
    ) -> Tensor:
        """(T, width). `caches`: one per segment of `context`, or None to attend within the segments."""
        q_THD, k_TGD, v_TGD = self._project(x_TD, context)
        config = self.config
        scale, cap = config.softmax_scale, config.score_cap
        explicit = self.sinks is not None or cap is not None
        if caches is None:
            if explicit:
                y_THD = attend_explicitly(q_THD, k_TGD, v_TGD, context, config.window, scale, self.sinks, cap)
            else:
                y_THD = attend(q_THD, k_TGD, v_TGD, context, config.mask, config.window, scale)
        else:
            parts, start = [], 0
            for cache, length in zip(caches, context.lengths, strict=True):
                new = slice(start, start + length)
                k_SGD, v_SGD, first = cache.layer(layer).append(k_TGD[new], v_TGD[new])
                if explicit:
                    part = attend_kept_explicitly(
                        q_THD[new], k_SGD, v_SGD, config.window, scale, self.sinks, cap
                    )
                else:
                    positions = context.positions_T[new]
                    part = attend_cached(
                        q_THD[new], k_SGD, v_SGD, positions, first, config.mask, config.window, scale
                    )
                parts.append(part)
                start += length
            y_THD = torch.cat(parts) if len(parts) > 1 else parts[0]
        return self.o(self._gated(y_THD, x_TD).flatten(1))

    def _gated(self, y_THD: Tensor, x_TD: Tensor) -> Tensor:
        if self.config.gate == "none":
            return y_THD
        gate_TH = self.gate(x_TD).sigmoid()
        if self.config.gate == "head":
            return y_THD * gate_TH[..., None]
        return y_THD * gate_TH.unflatten(-1, y_THD.shape[1:])

    def _project(self, x_TD: Tensor, context: ForwardContext) -> tuple[Tensor, Tensor, Tensor]:
        config = self.config
        q, k, v = self.q(x_TD), self.k(x_TD), self.v(x_TD)
        if config.qk_norm == "full":
            q, k = self.q_norm(q), self.k_norm(k)
        if config.qkv_clip is not None:
            q, k, v = (part.clamp(-config.qkv_clip, config.qkv_clip) for part in (q, k, v))
        q = q.unflatten(-1, (config.num_heads, config.head_dim))
        k = k.unflatten(-1, (config.num_kv_heads, config.head_dim))
        v = v.unflatten(-1, (config.num_kv_heads, config.head_dim))
        if config.value_norm:
            v = rms(v, self.norm_eps)
        if config.qk_norm == "head":
            q, k = self.q_norm(q), self.k_norm(k)
        if config.qk_norm == "weightless_before":
            q, k = rms(q, self.norm_eps), rms(k, self.norm_eps)
        if config.rope is not None:
            q, k = rotate(q, context, config.rope), rotate(k, context, config.rope)
        if config.qk_norm == "head_after":
            q, k = self.q_norm(q), self.k_norm(k)
        if config.qk_norm == "weightless":
            q, k = rms(q, self.norm_eps), rms(k, self.norm_eps)
        if config.temperature is not None:
            q = heated(q, context, config.temperature)
        return q, k, v


def heated(q_THD: Tensor, context: ForwardContext, config: TemperatureConfig) -> Tensor:
    """Queries (T, H, D) times the factor of their positions; see `TemperatureConfig`."""
    steps_T = torch.floor((context.positions_T.float() + config.offset) / config.floor_scale)
    factor_T = torch.log1p(steps_T) * config.scale + 1.0
    return q_THD * factor_T[:, None, None].to(q_THD.dtype)
