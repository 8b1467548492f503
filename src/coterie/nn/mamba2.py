"""Mamba-2 (arXiv 2405.21060): a mixer whose state is one matrix per head that only decays and adds.

See docs/design/families.md, "Recurrent mixers". T tokens, D model width, C channels, H heads, P width of a
head, G groups that share keys and queries, S width of the state, N chunks of L tokens, B segments.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.config.mixers import Mamba2Config
from coterie.nn.attention import KeyValueCache
from coterie.nn.causal_conv import causal_conv
from coterie.nn.forward_context import ForwardContext
from coterie.nn.linear import Linear, drawn
from coterie.nn.norm import RMSNorm, rms
from coterie.nn.recurrent import Carried, Chunks, RecurrentMixer, decays


class Mamba2(RecurrentMixer):
    """Packed tokens (T, D) through the scan. State: the convolution's tail, then a matrix (S, P) per head.

    `xbc`: what is written, keys and queries of the state. `dt`: the time step of each head. `z`: the gate,
    which is applied before the norm. `skip`: how much of its input each head gives past the state.
    """

    def __init__(self, width: int, config: Mamba2Config, eps: float) -> None:
        super().__init__()
        self.config = config
        inner = config.output_width
        self.z = Linear(width, inner, bias=config.bias)
        self.xbc = Linear(width, config.channels, bias=config.bias)
        self.dt = Linear(width, config.num_heads, bias=config.bias)
        self.conv = drawn(config.channels, config.kernel)
        self.conv_bias = nn.Parameter(torch.zeros(config.channels)) if config.conv_bias else None
        self.A_log = nn.Parameter(torch.zeros(config.num_heads))
        self.dt_bias = nn.Parameter(torch.ones(config.num_heads))
        self.skip = nn.Parameter(torch.ones(config.num_heads))
        self.norm = RMSNorm(inner, eps)
        self.o = Linear(inner, width, bias=config.bias)

    def initial(self, name: str, generator: torch.Generator) -> Tensor | None:
        """Decays of -1 to -H and time steps between 0.001 and 0.1, as published."""
        heads = self.config.num_heads
        if name == "A_log":
            return torch.arange(1, heads + 1).float().log_()
        if name == "dt_bias":
            step = torch.rand(heads, generator=generator).mul_(4.605).sub_(6.908).exp_()
            return step + torch.log(-torch.expm1(-step))  # the inverse of softplus
        return torch.ones(heads) if name == "skip" else None

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
        u_TC, tails = causal_conv(self.xbc(x_TD), self.conv, self.conv_bias, context, carried.tails)
        x_THP, b_THS, c_THS = self._heads(F.silu(u_TC))
        step_TH = F.softplus(self.dt(x_TD).float() + self.dt_bias).clamp(config.step_low, config.step_high)
        log_decay_TH = -self.A_log.exp() * step_TH
        written_THP = x_THP * step_TH.unsqueeze(-1)
        state_BHSP = carried.matrices(x_THP, config.num_heads, config.state, config.head_dim)
        if carried.single:
            state_BHSP = state_BHSP * log_decay_TH.exp()[..., None, None]
            state_BHSP = state_BHSP.addcmul(b_THS.unsqueeze(-1), written_THP.unsqueeze(-2))
            y_THP = (c_THS.unsqueeze(-2) @ state_BHSP).squeeze(-2)
        else:
            chunks = Chunks.of(context)
            y_THP, state_BHSP = scan(c_THS, b_THS, written_THP, log_decay_TH, chunks, state_BHSP)
        carried.keep(tails, state_BHSP)
        y_THP = y_THP + self.skip.float()[:, None] * x_THP
        return self.o(self._gated(y_THP.flatten(1), x_TD))

    def _heads(self, u_TC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is written, keys and queries, one of each per head."""
        config = self.config
        shared = config.groups * config.state
        x, b, c = u_TC.split((config.output_width, shared, shared), dim=-1)
        copies = config.num_heads // config.groups
        b, c = (y.unflatten(-1, (config.groups, -1)).repeat_interleave(copies, dim=1) for y in (b, c))
        return x.unflatten(-1, (config.num_heads, -1)), b, c

    def _gated(self, y_TI: Tensor, x_TD: Tensor) -> Tensor:
        """Gate, then norm over each group of channels."""
        y_TI = y_TI * F.silu(self.z(x_TD).float())
        normed_TI = rms(y_TI.unflatten(-1, (self.config.groups, -1)), self.norm.eps).flatten(1)
        return normed_TI.to(x_TD.dtype) * self.norm.weight.to(x_TD.dtype)


def scan(
    q_THK: Tensor, k_THK: Tensor, v_THV: Tensor, log_decay_TH: Tensor, chunks: Chunks, state_BHKV: Tensor
) -> tuple[Tensor, Tensor]:
    """`S = exp(g) S + k v^T; y = S^T q` of packed segments, in chunks and in float32, and the states after.

    K state width, V head width.
    """
    q, k, v = (chunks.split(x).transpose(1, 2) for x in (q_THK, k_THK, v_THV))  # (N, H, L, K or V)
    decay_NHLL, from_start_NHL1, to_end_NHL1, whole_NH11 = decays(log_decay_TH, chunks)
    within, added = ((q @ k.mT) * decay_NHLL) @ v, (k * to_end_NHL1).mT @ v
    q = q * from_start_NHL1

    def step(at: slice, state: Tensor) -> tuple[Tensor, Tensor]:
        return within[at] + q[at] @ state, state * whole_NH11[at] + added[at]

    y_NHLV, state_BHKV = chunks.scan(state_BHKV, step)
    return chunks.join(y_NHLV.transpose(1, 2)), state_BHKV
