"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): all heads' keys and values from one latent.

See docs/design/families.md, "Latent attention".

T tokens, D model width, H heads, C latent width, N plain and R rotated part of a head, V value width, S kept
positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.config.model import MLAConfig
from coterie.nn.attention import KeyValueCache, heated
from coterie.nn.forward_context import ForwardContext
from coterie.nn.linear import Linear
from coterie.nn.norm import RMSNorm
from coterie.nn.rope import rotate, yarn_gain
from coterie.nn.sdpa import attend, attend_cached


def softmax_scale(config: MLAConfig) -> float:
    """1 / sqrt(head width), times YaRN's g(mscale_all_dim)^2 where that is set."""
    scaling = config.rope.scaling
    gain = yarn_gain(scaling.factor, scaling.mscale_all_dim) if scaling and scaling.mscale_all_dim else 1.0
    return config.head_dim**-0.5 * gain**2


class LatentAttention(nn.Module):
    """Causal attention of packed tokens (T, D) through a latent (T, C) and one rotated key (T, R).

    A cache keeps exactly these two, as (T, 1, C) and (T, 1, R). Few new tokens against many kept ones are
    attended in the latent space itself ("absorbed": the up-projection moves to the query and to the output),
    so that kept latents are not expanded to H heads again and again.
    """

    def __init__(self, width: int, config: MLAConfig) -> None:
        super().__init__()
        self.config = config
        self.scale = softmax_scale(config)
        q_width = config.num_heads * config.head_dim
        if config.q_rank is None:
            self.q = Linear(width, q_width)
        else:
            self.q_a = Linear(width, config.q_rank)
            self.q_a_norm = RMSNorm(config.q_rank, config.latent_eps)
            self.q_b = Linear(config.q_rank, q_width)
        self.kv_a = Linear(width, config.kv_rank + config.rope_dim)
        self.kv_a_norm = RMSNorm(config.kv_rank, config.latent_eps)
        self.kv_b = Linear(config.kv_rank, config.num_heads * (config.nope_dim + config.value_dim))
        self.o = Linear(config.num_heads * config.value_dim, width)

    def forward(
        self,
        x_TD: Tensor,
        context: ForwardContext,
        caches: Sequence[KeyValueCache] | None = None,
        layer: int = 0,
    ) -> Tensor:
        """(T, D). `caches`: one per segment of `context`, or None to attend within the segments."""
        q_THN, q_THR, c_T1C, k_T1R = self._project(x_TD, context)
        if caches is None:
            k_THD, v_THV, width = self._expand(c_T1C, k_T1R)
            q_THD = torch.cat((q_THN, q_THR), dim=-1)
            y_THV = attend(q_THD, k_THD, v_THV, context, "causal", None, self.scale)[..., :width]
            return self.o(y_THV.flatten(1))
        parts, start = [], 0
        for cache, length in zip(caches, context.lengths, strict=True):
            new = slice(start, start + length)
            c_S1C, k_S1R, first = cache.layer(layer).append(c_T1C[new], k_T1R[new])
            attend_kept = self._absorbed if self._absorbs(length, c_S1C.shape[0]) else self._expanded
            parts.append(attend_kept(q_THN[new], q_THR[new], c_S1C, k_S1R, context.positions_T[new], first))
            start += length
        return self.o(torch.cat(parts).flatten(1))

    def _project(self, x_TD: Tensor, context: ForwardContext) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries (plain and rotated part), normed latent and rotated shared key."""
        config = self.config
        q = self.q(x_TD) if config.q_rank is None else self.q_b(self.q_a_norm(self.q_a(x_TD)))
        q_THN, q_THR = q.unflatten(-1, (config.num_heads, -1)).split(
            (config.nope_dim, config.rope_dim), dim=-1
        )
        c_TC, k_TR = self.kv_a(x_TD).split((config.kv_rank, config.rope_dim), dim=-1)
        c_T1C, k_T1R = self.kv_a_norm(c_TC).unsqueeze(1), k_TR.unsqueeze(1)
        q_THR, k_T1R = rotate(q_THR, context, config.rope), rotate(k_T1R, context, config.rope)
        if config.temperature is not None:
            q_THN, q_THR = (heated(q, context, config.temperature) for q in (q_THN, q_THR))
        return q_THN, q_THR, c_T1C, k_T1R

    def _expand(self, c_S1C: Tensor, k_S1R: Tensor) -> tuple[Tensor, Tensor, int]:
        """Keys (S, H, N + R) and values (S, H, V) of all heads, and V.

        Values are padded with zeros to the keys' width where they are narrower: fused kernels want equal
        widths, and the general one would hold all S x S scores.
        """
        config = self.config
        kv_SH = self.kv_b(c_S1C.squeeze(1)).unflatten(-1, (config.num_heads, -1))
        k_SHN, v_SHV = kv_SH.split((config.nope_dim, config.value_dim), dim=-1)
        k_SHD = torch.cat((k_SHN, k_S1R.expand(-1, config.num_heads, -1)), dim=-1)
        return k_SHD, F.pad(v_SHV, (0, max(0, config.head_dim - config.value_dim))), config.value_dim

    def _absorbs(self, num_new: int, num_kept: int) -> bool:
        """Whether the absorbed form needs fewer multiplications than expanding the kept latents."""
        head, latent = self.config.nope_dim + self.config.value_dim, self.config.kv_rank
        expanded = num_kept * latent * head + num_new * num_kept * head
        return num_new * latent * head + 2 * num_new * num_kept * latent < expanded

    def _expanded(
        self, q_THN: Tensor, q_THR: Tensor, c_S1C: Tensor, k_S1R: Tensor, positions_T: Tensor, first: int
    ) -> Tensor:
        k_SHD, v_SHV, width = self._expand(c_S1C, k_S1R)
        q_THD = torch.cat((q_THN, q_THR), dim=-1)
        return attend_cached(q_THD, k_SHD, v_SHV, positions_T, first, "causal", None, self.scale)[..., :width]

    def _absorbed(
        self, q_THN: Tensor, q_THR: Tensor, c_S1C: Tensor, k_S1R: Tensor, positions_T: Tensor, first: int
    ) -> Tensor:
        """All heads read the latents as one key head: q k = (W_k^T q) c; W_v applies to the sum over c."""
        config = self.config
        weight_HC = self.kv_b.effective_weight().to(q_THN.dtype).unflatten(0, (config.num_heads, -1))
        k_HNC, v_HVC = weight_HC.split((config.nope_dim, config.value_dim), dim=1)
        q_THC = torch.einsum("thn,hnc->thc", q_THN, k_HNC)
        q = torch.cat((q_THC, q_THR), dim=-1)
        k_S1 = torch.cat((c_S1C, k_S1R), dim=-1)
        y_THC = attend_cached(q, k_S1, c_S1C, positions_T, first, "causal", None, self.scale)
        return torch.einsum("thc,hvc->thv", y_THC, v_HVC)
