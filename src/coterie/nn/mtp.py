"""Multi-token prediction (DeepSeek-V3, arXiv 2412.19437): one more block predicts the token after the next.

T tokens, D width.
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor, nn

from coterie.config.model import ModelConfig
from coterie.nn.block import Block
from coterie.nn.forward_context import ForwardContext
from coterie.nn.linear import Linear
from coterie.nn.norm import NormKind


class MTPLayer(nn.Module):
    """`norm(block(proj([enorm(embedding of the next token); hnorm(h)])))`.

    Embedding and head are those of the model.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        norm = NormKind.of_model(config)
        self.enorm, self.hnorm = norm.of(config.width), norm.of(config.width)
        self.proj = Linear(2 * config.width, config.width)
        self.block = Block(config.width, config.blocks[-1], norm, config.residual_scale)
        self.norm = norm.of(config.width)

    def forward(
        self,
        h_TD: Tensor,
        next_TD: Tensor,
        context: ForwardContext,
        layer: int,
    ) -> Tensor:
        """(T, D), ready for the head: predictions of the tokens after those with the embeddings `next_TD`.

        `h_TD`: the model's hidden states after its final norm, or the result of the previous such layer.
        """
        both_TD = torch.cat((self.enorm(next_TD), self.hnorm(h_TD)), dim=-1)
        return self.norm(self.block(self.proj(both_TD), context, None, layer))


def shifted_targets(targets_T: Tensor, weights_T: Tensor, context: ForwardContext) -> tuple[Tensor, Tensor]:
    """Targets and weights one token further on; a segment's last token lacks one and gets weight 0."""
    last = torch.tensor([end - 1 for end in accumulate(context.lengths)], device=targets_T.device)
    weights_T = weights_T.roll(-1)
    weights_T[last] = 0.0
    return targets_T.roll(-1), weights_T
