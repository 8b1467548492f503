"""Grouped-query attention of one layer, every family's variation as data.

T tokens, H query heads, G key/value heads, D head width, S kept keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from coterie.config.model import AttentionConfig
from coterie.config.positions import TemperatureConfig
from coterie.nn.explicit_attention import attend_explicitly, attend_kept_explicitly
from coterie.nn.forward_context import ForwardContext, Kept
from coterie.nn.linear import Linear
from coterie.nn.norm import NormKind, RMSNorm, rms
from coterie.nn.rope import rotate
from coterie.nn.sdpa import attend, attend_cached

_WEIGHTED = ("head", "head_after", "full")


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
        own_keys = config.keys_of is None
        if own_keys:
            self.k = Linear(width, kv_width, bias=config.qkv_bias)
        if own_keys and not config.keys_as_values:
            self.v = Linear(width, kv_width, bias=config.qkv_bias)
        self.o = Linear(q_width, width, bias=config.output_bias)
        self.sinks = nn.Parameter(torch.zeros(config.num_heads)) if config.sinks else None
        if config.gate != "none":
            self.gate = Linear(width, q_width if config.gate == "full" else config.num_heads)
        if config.qk_norm in _WEIGHTED:
            full = config.qk_norm == "full"
            self.q_norm = norm.of(q_width if full else config.head_dim)
            if own_keys:
                self.k_norm = norm.of(kv_width if full else config.head_dim)

    def forward(
        self,
        x_TD: Tensor,
        context: ForwardContext,
        caches: Sequence[KeyValueCache] | None = None,
        layer: int = 0,
    ) -> Tensor:
        """(T, width). `caches`: one per segment of `context`, or None to attend within the segments."""
        q_THD = self._queries(x_TD, context)
        config = self.config
        scale, cap = config.softmax_scale, config.score_cap
        explicit = self.sinks is not None or cap is not None
        kept = self._keys_values(x_TD, context, caches, layer)
        if caches is None:
            ((k_TGD, v_TGD, _),) = kept
            if explicit:
                y_THD = attend_explicitly(q_THD, k_TGD, v_TGD, context, config.window, scale, self.sinks, cap)
            else:
                y_THD = attend(q_THD, k_TGD, v_TGD, context, config.mask, config.window, scale)
        else:
            parts, start = [], 0
            for (k_SGD, v_SGD, first), length in zip(kept, context.lengths, strict=True):
                new = slice(start, start + length)
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

    def _keys_values(
        self,
        x_TD: Tensor,
        context: ForwardContext,
        caches: Sequence[KeyValueCache] | None,
        layer: int,
    ) -> Kept:
        """Those of all packed tokens, or with caches the kept ones of each segment."""
        if self.config.keys_of is not None:
            return context.kept[self.config.keys_of]
        k_TGD, v_TGD = self._project(x_TD, context)
        if caches is None:
            kept: Kept = ((k_TGD, v_TGD, 0),)
        else:
            news = zip(caches, k_TGD.split(context.lengths), v_TGD.split(context.lengths), strict=True)
            kept = tuple(cache.layer(layer).append(k_new, v_new) for cache, k_new, v_new in news)
        if layer in context.kept:
            context.kept[layer] = kept
        return kept

    def _gated(self, y_THD: Tensor, x_TD: Tensor) -> Tensor:
        if self.config.gate == "none":
            return y_THD
        gate_TH = self.gate(x_TD).sigmoid()
        if self.config.gate == "head":
            return y_THD * gate_TH[..., None]
        return y_THD * gate_TH.unflatten(-1, y_THD.shape[1:])

    def _queries(self, x_TD: Tensor, context: ForwardContext) -> Tensor:
        config = self.config
        norm = self.q_norm if config.qk_norm in _WEIGHTED else None
        q_THD = self._placed(self.q(x_TD), config.num_heads, norm, context)
        return q_THD if config.temperature is None else heated(q_THD, context, config.temperature)

    def _project(self, x_TD: Tensor, context: ForwardContext) -> tuple[Tensor, Tensor]:
        """New keys and values."""
        config = self.config
        k = self.k(x_TD)
        v_TGD = self._heads(k if config.keys_as_values else self.v(x_TD), config.num_kv_heads)
        if config.value_norm:
            v_TGD = rms(v_TGD, self.norm_eps)
        norm = self.k_norm if config.qk_norm in _WEIGHTED else None
        return self._placed(k, config.num_kv_heads, norm, context), v_TGD

    def _placed(self, x: Tensor, heads: int, norm: RMSNorm | None, context: ForwardContext) -> Tensor:
        """Queries or keys from their projection: normed and rotated."""
        config = self.config
        if config.qk_norm == "full" and norm is not None:
            x = norm(x)
        x_THD = self._heads(x, heads)
        if config.qk_norm == "head" and norm is not None:
            x_THD = norm(x_THD)
        if config.qk_norm == "weightless_before":
            x_THD = rms(x_THD, self.norm_eps)
        if config.rope is not None:
            x_THD = rotate(x_THD, context, config.rope)
        if config.qk_norm == "head_after" and norm is not None:
            x_THD = norm(x_THD)
        return rms(x_THD, self.norm_eps) if config.qk_norm == "weightless" else x_THD

    def _heads(self, x: Tensor, heads: int) -> Tensor:
        clip = self.config.qkv_clip
        x = x if clip is None else x.clamp(-clip, clip)
        return x.unflatten(-1, (heads, self.config.head_dim))


def heated(q_THD: Tensor, context: ForwardContext, config: TemperatureConfig) -> Tensor:
    """Queries (T, H, D) times the factor of their positions; see `TemperatureConfig`."""
    steps_T = torch.floor((context.positions_T.float() + config.offset) / config.floor_scale)
    factor_T = torch.log1p(steps_T) * config.scale + 1.0
    return q_THD * factor_T[:, None, None].to(q_THD.dtype)
