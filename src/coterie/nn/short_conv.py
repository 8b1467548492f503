"""The gated short convolution of LFM2: a mixer whose state is its last few inputs.

See docs/design/families.md, "Recurrent mixers". T tokens, D model width, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from coterie.config.mixers import ShortConvConfig
from coterie.nn.attention import KeyValueCache
from coterie.nn.causal_conv import causal_conv
from coterie.nn.forward_context import ForwardContext
from coterie.nn.linear import Linear, drawn
from coterie.nn.recurrent import Carried, RecurrentMixer


class ShortConv(RecurrentMixer):
    """`o(c * conv(b * x))` of packed tokens (T, D), where `bcx` gives b, c and x, C numbers each."""

    def __init__(self, width: int, config: ShortConvConfig) -> None:
        super().__init__()
        self.bcx = Linear(width, 3 * config.channels, bias=config.bias)
        self.conv = drawn(config.channels, config.kernel)
        self.conv_bias = nn.Parameter(torch.zeros(config.channels)) if config.bias else None
        self.o = Linear(config.channels, width, bias=config.bias)

    def forward(
        self,
        x_TD: Tensor,
        context: ForwardContext,
        caches: Sequence[KeyValueCache] | None = None,
        layer: int = 0,
    ) -> Tensor:
        """(T, D). `caches`: one per segment of `context`, or None where every segment starts without one."""
        b_TC, c_TC, x_TC = self.bcx(x_TD).chunk(3, dim=-1)
        carried = Carried(caches, layer, context)
        y_TC, tails = causal_conv(b_TC * x_TC, self.conv, self.conv_bias, context, carried.tails)
        carried.keep(tails)
        return self.o(c_TC * y_TC.to(x_TD.dtype))
