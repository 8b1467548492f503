"""Gated DeltaNet (arXiv 2412.06464): a mixer whose state is one matrix per head; Qwen3-Next and Qwen3.5.

See docs/design/families.md, "Recurrent mixers". T tokens, D model width, C channels, H value heads, K key
width, V value width, B segments.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.config.mixers import DeltaNetConfig
from coterie.nn.attention import KeyValueCache
from coterie.nn.causal_conv import causal_conv
from coterie.nn.delta_rule import delta_rule, delta_step
from coterie.nn.forward_context import ForwardContext
from coterie.nn.linear import Linear, drawn
from coterie.nn.norm import RMSNorm
from coterie.nn.recurrent import Carried, Chunks, RecurrentMixer

_LENGTH_EPS = 1e-6


class GatedDeltaNet(RecurrentMixer):
    """Packed tokens (T, D) through the gated delta rule. State: the convolution's tail, a matrix per head.

    `qkv`: queries, keys and values, each head after head. `a` and `b`: decay and strength of writing, one
    number per value head. `z`: the gate of the normed result.
    """

    def __init__(self, width: int, config: DeltaNetConfig, eps: float) -> None:
        super().__init__()
        self.config = config
        self.qkv = Linear(width, config.channels)
        self.z = Linear(width, config.output_width)
        self.b = Linear(width, config.num_value_heads)
        self.a = Linear(width, config.num_value_heads)
        self.conv = drawn(config.channels, config.kernel)
        self.A_log = nn.Parameter(torch.zeros(config.num_value_heads))
        self.dt_bias = nn.Parameter(torch.ones(config.num_value_heads))
        self.norm = RMSNorm(config.value_dim, eps)
        self.o = Linear(config.output_width, width)

    def initial(self, name: str, generator: torch.Generator) -> Tensor | None:
        """Decays of -A with A uniform in (0, 16), and time steps of softplus(1), as published."""
        if name == "A_log":
            return torch.rand(self.A_log.shape, generator=generator).mul_(15.99).add_(0.01).log_()
        return torch.ones(self.dt_bias.shape) if name == "dt_bias" else None

    def forward(
        self,
        x_TD: Tensor,
        context: ForwardContext,
        caches: Sequence[KeyValueCache] | None = None,
        layer: int = 0,
    ) -> Tensor:
        """(T, D). `caches`: one per segment of `context`, or None where every segment starts without one."""
        config = self.config
        carried = Carried(caches, layer, context)
        u_TC, tails = causal_conv(self.qkv(x_TD), self.conv, None, context, carried.tails)
        q, k, v_THV = self._heads(F.silu(u_TC))
        log_decay_TH = -self.A_log.exp() * F.softplus(self.a(x_TD).float() + self.dt_bias)
        beta_TH = self.b(x_TD).float().sigmoid()
        state_BHKV = carried.matrices(v_THV, config.num_value_heads, config.key_dim, config.value_dim)
        if carried.single:
            o_THV, state_BHKV = delta_step(q, k, v_THV, log_decay_TH, beta_TH, state_BHKV)
        else:
            chunks = Chunks.of(context)
            o_THV, state_BHKV = delta_rule(q, k, v_THV, log_decay_TH, beta_TH, chunks, state_BHKV)
        carried.keep(tails, state_BHKV)
        return self.o(self._gated(o_THV.to(x_TD.dtype), x_TD).flatten(1))

    def _heads(self, u_TC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys of unit length, queries divided by sqrt(K), one per value head; values."""
        config = self.config
        keys = config.num_key_heads * config.key_dim
        q, k, v = u_TC.split((keys, keys, config.output_width), dim=-1)
        q, k = (_unit(x.unflatten(-1, (config.num_key_heads, config.key_dim))) for x in (q, k))
        copies = config.num_value_heads // config.num_key_heads
        q, k = (x.repeat_interleave(copies, dim=1) for x in (q * config.key_dim**-0.5, k))
        return q, k, v.unflatten(-1, (config.num_value_heads, config.value_dim))

    def _gated(self, o_THV: Tensor, x_TD: Tensor) -> Tensor:
        z_THV = self.z(x_TD).unflatten(-1, o_THV.shape[1:])
        return (self.norm(o_THV) * F.silu(z_THV.float())).to(x_TD.dtype)


def _unit(x_THK: Tensor) -> Tensor:
    return x_THK * torch.rsqrt(x_THK.square().sum(-1, keepdim=True) + _LENGTH_EPS)
