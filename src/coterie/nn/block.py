"""One block of the decoder. T tokens, D width."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from coterie.config.mixers import DeltaNetConfig, Mamba2Config, ShortConvConfig
from coterie.config.model import BlockConfig, Mixer, MLAConfig
from coterie.nn.attention import Attention, KeyValueCache
from coterie.nn.forward_context import ForwardContext
from coterie.nn.gated_delta import GatedDeltaNet
from coterie.nn.mamba2 import Mamba2
from coterie.nn.mla import LatentAttention
from coterie.nn.moe import MoE, feed_forward
from coterie.nn.norm import NormKind, RMSNorm
from coterie.nn.per_layer import PerLayerGate
from coterie.nn.recurrent import RecurrentMixer
from coterie.nn.short_conv import ShortConv


class Block(nn.Module):
    """Residual block: `h += attention(h); h += ffn(h)`, each with norms before it, after it or both.

    One of the two may be missing.
    Then what the layer adds from the token's own input for it, and the factor of the whole
    (`BlockConfig.per_layer_width`, `output_scale`).
    """

    def __init__(self, width: int, config: BlockConfig, norm: NormKind, residual_scale: float = 1.0) -> None:
        super().__init__()
        self.residual_scale = residual_scale
        before, after = config.norms != "post", config.norms != "pre"
        mixes, feeds = config.attention is not None, config.ffn is not None
        self.attention_norm = norm.of(width) if before and mixes else None
        self.attention = None if config.attention is None else _mixer(width, config.attention, norm)
        self.attention_post_norm = norm.of(width, config.post_norm_eps) if after and mixes else None
        self.ffn_norm = norm.of(width) if before and feeds else None
        self.ffn_post_norm = norm.of(width, config.post_norm_eps) if after and feeds else None
        self.ffn = None if config.ffn is None else feed_forward(width, config.ffn, norm)
        self.per_layer = None
        if config.per_layer_width is not None and config.ffn is not None:
            self.per_layer = PerLayerGate(width, config.per_layer_width, config.ffn.activation, norm)
        self.output_scale: Tensor | None
        self.register_buffer("output_scale", torch.ones(1) if config.output_scale else None)

    def forward(
        self,
        h_TD: Tensor,
        context: ForwardContext,
        caches: Sequence[KeyValueCache] | None,
        layer: int,
    ) -> Tensor:
        """`h_TD` (T, D) after this block; `layer` is its index, by which caches, steers and records go."""
        if self.attention is not None:
            x_TD = h_TD if self.attention_norm is None else self.attention_norm(h_TD)
            y_TD = self.attention(x_TD, context, caches, layer)
            h_TD = h_TD + self._branch(y_TD, self.attention_post_norm)
        ffn = self.ffn
        if ffn is not None:
            x_TD = h_TD if self.ffn_norm is None else self.ffn_norm(h_TD)
            y_TD = ffn(x_TD, context, layer, h_TD) if isinstance(ffn, MoE) else ffn(x_TD)
            h_TD = h_TD + self._branch(y_TD, self.ffn_post_norm)
        if self.per_layer is not None and context.per_layer_TNP is not None:
            h_TD = h_TD + self.per_layer(h_TD, context.per_layer_TNP[:, layer])
        return h_TD if self.output_scale is None else h_TD * self.output_scale.to(h_TD.dtype)

    def _branch(self, y_TD: Tensor, norm: RMSNorm | None) -> Tensor:
        """What a part of the block adds to the stream."""
        y_TD = y_TD if norm is None else norm(y_TD)
        return y_TD if self.residual_scale == 1.0 else y_TD * self.residual_scale

    @property
    def moe(self) -> MoE | None:
        """The feed-forward where it is a mixture of experts, else None."""
        return self.ffn if isinstance(self.ffn, MoE) else None


def _mixer(width: int, mixer: Mixer, norm: NormKind) -> Attention | LatentAttention | RecurrentMixer:
    """What mixes the tokens of a sequence in a block."""
    if isinstance(mixer, MLAConfig):
        return LatentAttention(width, mixer)
    if isinstance(mixer, DeltaNetConfig):
        return GatedDeltaNet(width, mixer, norm.eps)
    if isinstance(mixer, ShortConvConfig):
        return ShortConv(width, mixer)
    if isinstance(mixer, Mamba2Config):
        return Mamba2(width, mixer, norm.eps)
    return Attention(width, mixer, norm)
