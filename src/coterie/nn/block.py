"""One block of the decoder. T tokens, D width."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from coterie.config.model import BlockConfig, MLAConfig, MoEConfig
from coterie.nn.attention import Attention, KeyValueCache
from coterie.nn.forward_context import ForwardContext
from coterie.nn.mla import LatentAttention
from coterie.nn.moe import FeedForward, MoE
from coterie.nn.norm import RMSNorm


class Block(nn.Module):
    """Pre-norm residual block: `h += attention(norm h); h += ffn(norm h)`."""

    def __init__(self, width: int, config: BlockConfig, norm_eps: float, late_rounding: bool) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(width, norm_eps, late_rounding)
        if isinstance(config.attention, MLAConfig):
            self.attention: Attention | LatentAttention = LatentAttention(width, config.attention)
        else:
            self.attention = Attention(width, config.attention, norm_eps)
        self.ffn_norm = RMSNorm(width, norm_eps, late_rounding)
        self.ffn = (
            MoE(width, config.ffn) if isinstance(config.ffn, MoEConfig) else FeedForward(width, config.ffn)
        )

    def forward(
        self,
        h_TD: Tensor,
        context: ForwardContext,
        caches: Sequence[KeyValueCache] | None,
        layer: int,
    ) -> Tensor:
        """`h_TD` (T, D) after this block; `layer` is its index, by which caches, steers and records go."""
        h_TD = h_TD + self.attention(self.attention_norm(h_TD), context, caches, layer)
        x_TD = self.ffn_norm(h_TD)
        ffn = self.ffn
        return h_TD + (ffn(x_TD, context, layer) if isinstance(ffn, MoE) else ffn(x_TD))

    @property
    def moe(self) -> MoE | None:
        """The feed-forward where it is a mixture of experts, else None."""
        return self.ffn if isinstance(self.ffn, MoE) else None
