"""The definition of what `infer.sampling` draws: one row at a time, everything made anew, whole sorts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from coterie.infer.sampling import SamplingParams, uniform


def drawn(
    logits_V: Tensor, p: SamplingParams, step: int, history: Sequence[int], allowed_V: Tensor | None = None
) -> int:
    """The token of one row."""
    scores_V = penalised(logits_V, p, history, step)
    if allowed_V is not None:
        scores_V = scores_V.masked_fill(~allowed_V, float("-inf"))
    if p.temperature == 0:
        return int(scores_V.argmax())
    assert p.seed is not None
    scaled_V = (scores_V - scores_V.amax()).double() / p.temperature
    vocabulary = len(scores_V)
    if 0 < p.top_k < vocabulary:
        scaled_N, ids_N = scaled_V.topk(p.top_k)
        return _pick(scaled_N.softmax(-1), ids_N, uniform(p.seed, step), p)
    shares_V = scaled_V.softmax(-1)
    if p.top_p == 1:
        return _pick(shares_V, torch.arange(vocabulary), uniform(p.seed, step), p)
    shares_N, ids_N = shares_V.topk(min(256, vocabulary))
    if shares_N.sum() < p.top_p and len(shares_N) < vocabulary:
        shares_N, ids_N = shares_V.sort(descending=True)
    return _pick(shares_N, ids_N, uniform(p.seed, step), p)


def _pick(shares_N: Tensor, ids_N: Tensor, u: float, p: SamplingParams) -> int:
    if p.top_p < 1:
        shares_N = shares_N.masked_fill(shares_N.cumsum(-1) - shares_N >= p.top_p, 0.0)
    if p.min_p > 0:
        shares_N = shares_N.masked_fill(shares_N < p.min_p * shares_N.amax(), 0.0)
    cumulative_N = shares_N.cumsum(-1)
    return int(ids_N[torch.searchsorted(cumulative_N, u * cumulative_N[-1:], right=True)])


def penalised(logits_V: Tensor, p: SamplingParams, history: Sequence[int], step: int) -> Tensor:
    """Scores after the penalties and the bias, counted from the whole history."""
    scores_V = logits_V.clone()
    if p.repetition_penalty != 1:
        seen = torch.tensor(sorted(set(history)))
        values = scores_V[seen]
        scores_V[seen] = torch.where(values > 0, values / p.repetition_penalty, values * p.repetition_penalty)
    if step and (p.presence_penalty or p.frequency_penalty):
        ids, counts = torch.tensor(history[len(history) - step :]).unique(return_counts=True)
        scores_V[ids] -= p.presence_penalty + p.frequency_penalty * counts.to(scores_V.dtype)
    for token, value in p.logit_bias:
        scores_V[token] += value
    return scores_V
