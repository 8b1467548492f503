"""The gated delta rule (arXiv 2412.06464), in chunks and one token at a time, in float32.

A head's state S is a matrix of key width x value width. Each token does, in this order:

    S = exp(g) S;   S = S + k (beta (v - S^T k))^T;   o = S^T q

T tokens, H heads, K key width, V value width, N chunks of L tokens, B segments.
"""

from __future__ import annotations

import torch
from torch import Tensor

from coterie.nn.recurrent import Chunks, decays


def delta_rule(
    q_THK: Tensor,
    k_THK: Tensor,
    v_THV: Tensor,
    log_decay_TH: Tensor,
    beta_TH: Tensor,
    chunks: Chunks,
    state_BHKV: Tensor,
) -> tuple[Tensor, Tensor]:
    """Results (T, H, V) of packed segments and the states after them; all in float32.

    Within a chunk the rule is a unit lower triangular system (arXiv 2406.06484): with decays d_ij from j to i
    and A_ij = beta_i d_ij (k_i . k_j) for j < i, the values that are written solve (I + A) u = beta (v - d_i0
    S^T k).
    """
    q, k, v = (chunks.split(x).transpose(1, 2) for x in (q_THK, k_THK, v_THV))  # (N, H, L, K or V)
    beta_NHL1 = chunks.split(beta_TH).transpose(1, 2).unsqueeze(-1)
    decay_NHLL, from_start_NHL1, to_end_NHL1, whole_NH11 = decays(log_decay_TH, chunks)
    written, read = v * beta_NHL1, k * (beta_NHL1 * from_start_NHL1)
    system_NHLL = (k * beta_NHL1) @ k.mT * decay_NHLL  # the diagonal is not read
    solved = torch.linalg.solve_triangular(
        system_NHLL, torch.cat((written, read), dim=-1), upper=False, unitriangular=True
    )
    written, read = solved.split((v.shape[-1], k.shape[-1]), dim=-1)
    within_NHLL = (q @ k.mT) * decay_NHLL
    q, k = q * from_start_NHL1, k * to_end_NHL1

    def step(at: slice, state: Tensor) -> tuple[Tensor, Tensor]:
        new = written[at] - read[at] @ state
        result = q[at] @ state + within_NHLL[at] @ new
        return result, state * whole_NH11[at] + k[at].mT @ new

    o_NHLV, state_BHKV = chunks.scan(state_BHKV, step)
    return chunks.join(o_NHLV.transpose(1, 2)), state_BHKV


def delta_step(
    q_BHK: Tensor,
    k_BHK: Tensor,
    v_BHV: Tensor,
    log_decay_BH: Tensor,
    beta_BH: Tensor,
    state_BHKV: Tensor,
) -> tuple[Tensor, Tensor]:
    """One token of each of B sequences: results (B, H, V) and new states."""
    state_BHKV = state_BHKV * log_decay_BH.exp()[..., None, None]
    known_BHV = (k_BHK.unsqueeze(-2) @ state_BHKV).squeeze(-2)
    new_BHV = beta_BH.unsqueeze(-1) * (v_BHV - known_BHV)
    state_BHKV = state_BHKV.addcmul(k_BHK.unsqueeze(-1), new_BHV.unsqueeze(-2))
    return (q_BHK.unsqueeze(-2) @ state_BHKV).squeeze(-2), state_BHKV
