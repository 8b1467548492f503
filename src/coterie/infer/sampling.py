"""From logits to tokens: filters, one random stream per sequence, log-probabilities of the raw distribution.

Legend: B sequences, V vocabulary, N candidates left after the first cut (best first where sorted).

A sequence's n-th token depends only on its logits, its settings and (seed, n), never on other sequences or on
the order of the batch: the random number is a hash of (seed, n), and rows are processed together by row-wise
operations.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from coterie.config import ConfigError
from coterie.infer.penalties import Penalised, TokenCounts, bias, penalise

# Candidates looked at before top-p falls back to sorting the whole vocabulary.
_TOP_P_CANDIDATES = 256


@dataclass(frozen=True)
class SamplingParams:
    """How to draw one reply. The order is that of transformers: penalties, temperature, top-k, top-p, min-p.

    `temperature` 0 takes the most likely token. `top_k` 0, `top_p` 1, `min_p` 0 and `repetition_penalty` 1 do
    nothing. `top_p` keeps the fewest best tokens that hold this share of what top-k left; `min_p` keeps
    tokens with at least this share of the best one's probability. `seed` None: a fresh one for each reply.
    `stop`: strings that end the reply and are not part of its text. `stop_ids`: tokens that end it (kept in
    its ids, not in its text); None means the tokenizer's own. `logprobs`: how many of the most likely tokens
    are reported at each step. `presence_penalty` is subtracted from the score of each token that the reply
    contains so far, `frequency_penalty` once per occurrence. `logit_bias`: pairs of a token and a number
    added to its score. `min_tokens`: how many tokens come before a stop token may be drawn or a stop string
    counts. `include_stop`: the stop string that ends the reply stays in its text. `hidden_ids`: tokens that
    are left out of the text.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] | None = None
    logprobs: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    include_stop: bool = False
    hidden_ids: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if not isinstance(self.stop, str | tuple | list):
            raise ConfigError("sampling: stop must be a string or a list of strings")
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        if self.stop_ids is not None:
            ids = (self.stop_ids,) if isinstance(self.stop_ids, int) else self.stop_ids
            object.__setattr__(self, "stop_ids", tuple(int(i) for i in ids))
        _number(self.temperature, "temperature", 0.0, math.inf, "0 takes the most likely token")
        _number(self.top_p, "top_p", 0.0, 1.0, "1 keeps all tokens", low_allowed=False)
        _number(self.min_p, "min_p", 0.0, 1.0, "0 keeps all tokens")
        _number(self.repetition_penalty, "repetition_penalty", 0.0, math.inf, "1 is none", low_allowed=False)
        _number(self.presence_penalty, "presence_penalty", -2.0, 2.0, "0 is none")
        _number(self.frequency_penalty, "frequency_penalty", -2.0, 2.0, "0 is none")
        _whole(self.top_k, "top_k", 0, "0 keeps all tokens")
        _whole(self.max_tokens, "max_tokens", 1, "a reply has at least one token")
        _whole(self.logprobs, "logprobs", 0, "the number of likely tokens to report")
        _whole(self.min_tokens, "min_tokens", 0, "0 lets a reply end at once")
        if self.min_tokens > self.max_tokens:
            raise ConfigError(
                f"sampling: min_tokens {self.min_tokens} is more than max_tokens {self.max_tokens}; lower it"
            )
        if self.seed is not None:
            _whole(self.seed, "seed", 0, "or None for a fresh one")
            if self.seed >= 2**64:
                raise ConfigError(f"sampling: seed {self.seed} is too large; give one below 2**64")
        if "" in self.stop:
            raise ConfigError("sampling: an empty stop string would end every reply at once; leave it out")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def changes_scores(self) -> bool:
        """Whether a penalty or bias moves single tokens."""
        counted = self.presence_penalty or self.frequency_penalty or self.logit_bias
        return self.repetition_penalty != 1 or bool(counted)

    def with_seed(self) -> SamplingParams:
        """The same settings with a definite seed: a fresh random one where it was None."""
        return self if self.seed is not None else replace(self, seed=secrets.randbits(63))


@dataclass(frozen=True)
class Sampled:
    """One step of B sequences. `top[i]`: (token id, log-probability) of the likeliest tokens, best first."""

    ids: list[int]
    logprobs: list[float]
    top: list[tuple[tuple[int, float], ...]]


def uniform(seed: int, step: int) -> float:
    """The random number in [0, 1) of step `step` of stream `seed`: a hash, so steps need not be in order.

    It has 52 bits, which keeps `u * total` below `total` in float64 for every total.
    """
    digest = hashlib.blake2b(struct.pack("<QQ", seed, step), digest_size=8).digest()
    bits: int = struct.unpack("<Q", digest)[0]
    return (bits >> 12) * 2.0**-52


@torch.inference_mode()
def sample(
    logits_BV: Tensor,
    params: Sequence[SamplingParams],
    steps: Sequence[int],
    histories: Sequence[Sequence[int]] | None = None,
    allowed: Sequence[Tensor | None] | None = None,
    counts: Sequence[TokenCounts | None] | None = None,
    compiled: bool = False,
) -> Sampled:
    """Draw one token per row.

    `logits_BV` float32; `params[i]` has a seed (see `with_seed`) unless greedy; `steps[i]` counts the tokens
    row i has drawn so far; `histories[i]`, its prompt and reply so far, is read only under a penalty.
    `allowed[i]`: bool (V,), the only tokens row i may draw. `counts[i]`: what earlier steps of this sequence
    counted; without it the history is counted anew. `compiled`: `native/draws.py` finds the same tokens
    faster; it needs numba and scores on the CPU.

    Log-probabilities are those of the model: log-softmax of the raw logits, before any penalty, temperature
    or filter.
    Errors: `ConfigError` when the logits are not finite, or a penalty comes without histories.
    """
    logprobs_BV = logits_BV.log_softmax(-1)
    scores_BV = _changed(logits_BV, params, steps, histories, allowed, counts)
    if all(p.greedy for p in params):
        ids = _likeliest(scores_BV)
    else:
        ids = _drawn(scores_BV, params, steps, compiled)
    ids_B = torch.tensor(ids, device=logits_BV.device)
    chosen = logprobs_BV.gather(1, ids_B[:, None])[:, 0].tolist()
    if any(math.isnan(value) for value in chosen):
        raise ConfigError(
            "sampling: the model's logits are not finite; its weights are damaged or overflow this dtype"
        )
    return Sampled(ids, chosen, _top(logprobs_BV, [p.logprobs for p in params]))


def _changed(
    logits_BV: Tensor,
    params: Sequence[SamplingParams],
    steps: Sequence[int],
    histories: Sequence[Sequence[int]] | None,
    allowed: Sequence[Tensor | None] | None,
    counts: Sequence[TokenCounts | None] | None,
) -> Tensor:
    """The scores after each row's penalties, bias and allowed tokens; the logits themselves if none apply."""
    rows = [(row, p) for row, p in enumerate(params) if p.changes_scores]
    masked = [(row, mask) for row, mask in enumerate(allowed or ()) if mask is not None]
    if not rows and not masked:
        return logits_BV
    scores_BV = logits_BV.clone(memory_format=torch.contiguous_format)
    counted = []
    for row, p in rows:
        if histories is None:
            raise ConfigError("sampling: a penalty needs the tokens so far; pass histories")
        if p.repetition_penalty != 1 or p.presence_penalty or p.frequency_penalty:
            kept = None if counts is None else counts[row]
            kept = kept or TokenCounts(len(histories[row]) - steps[row])
            penalties = p.repetition_penalty, p.presence_penalty, p.frequency_penalty
            counted.append(Penalised(row, *penalties, *kept.of(histories[row])))
    if counted:
        penalise(scores_BV, counted)
    for row, p in rows:
        if p.logit_bias:
            ids, values = bias(p.logit_bias, scores_BV.device)
            scores_BV[row, ids] += values
    for row, mask in masked:
        scores_BV[row].masked_fill_(~mask.to(scores_BV.device), float("-inf"))
    return scores_BV


def _likeliest(scores_BV: Tensor) -> list[int]:
    """The first of the best tokens of each row."""
    if scores_BV.device.type != "cpu":
        return [int(i) for i in scores_BV.argmax(-1).tolist()]
    return [int(i) for i in scores_BV.numpy().argmax(-1)]  # 10 times as fast as PyTorch's here


def _drawn(
    scores_BV: Tensor, params: Sequence[SamplingParams], steps: Sequence[int], compiled: bool
) -> list[int]:
    ids: dict[int, int] = {}
    greedy = [row for row, p in enumerate(params) if p.greedy]
    if greedy:
        ids.update(zip(greedy, _likeliest(scores_BV[greedy]), strict=True))
    left = [row for row, p in enumerate(params) if not p.greedy]
    draws = {row: uniform(_seed_of(params[row]), steps[row]) for row in left}
    if compiled:
        ids.update(_drawn_at_once(scores_BV, params, draws))
        left = [row for row in left if row not in ids]
    groups: dict[tuple[int, bool], list[int]] = {}
    for row in left:
        top_k = params[row].top_k if params[row].top_k < scores_BV.shape[1] else 0
        groups.setdefault((top_k, params[row].top_p < 1), []).append(row)
    for (top_k, _), rows in groups.items():
        scores_bV = scores_BV if len(rows) == len(params) else scores_BV[rows]
        columns = [
            (draws[row], params[row].temperature, params[row].top_p, params[row].min_p) for row in rows
        ]
        u_b, *filters = torch.tensor(columns, dtype=torch.float64, device=scores_BV.device).unbind(1)
        ids.update(zip(rows, draw(scores_bV, u_b, top_k, *filters).tolist(), strict=True))
    return [ids[row] for row in range(len(params))]


def _drawn_at_once(
    scores_BV: Tensor, params: Sequence[SamplingParams], draws: Mapping[int, float]
) -> dict[int, int]:
    """The tokens of those rows where rounding cannot decide between two."""
    from coterie.native import draws as native

    rows = list(draws)
    scores_bV = scores_BV if len(rows) == len(params) else scores_BV[rows]
    settings = np.empty((len(rows), native.COLUMNS))
    settings[:, native.MOST] = scores_bV.amax(-1).numpy()
    for settings_C, row in zip(settings, rows, strict=True):
        p = params[row]
        settings_C[native.INVERSE_TEMPERATURE] = 1 / p.temperature
        settings_C[native.TOP_K] = p.top_k or scores_BV.shape[1]
        settings_C[native.TOP_P] = p.top_p
        settings_C[native.MIN_P] = p.min_p
        settings_C[native.UNIFORM] = draws[row]
    found = native.draw(scores_bV.contiguous().numpy(), settings).tolist()
    return {row: token for row, token in zip(rows, found, strict=True) if token != native.UNSURE}


def draw(
    scores_BV: Tensor, u_B: Tensor, top_k: int, temperature_B: Tensor, top_p_B: Tensor, min_p_B: Tensor
) -> Tensor:
    """Token ids (B,) by inverse cumulative distribution of the filtered scores at `u_B` (in [0, 1)).

    All settings float64; `top_p_B` is 1 for all rows or none, unless `top_k` cuts. Ties at the edge of top-k
    are broken by `torch.topk`, so exactly k stay.
    """
    # Shifting by the maximum before dividing keeps tiny temperatures finite.
    scaled_BV = (scores_BV - scores_BV.amax(-1, keepdim=True)).double() / temperature_B[:, None]
    vocabulary = scores_BV.shape[1]
    if 0 < top_k < vocabulary:
        scaled_BN, ids_BN = scaled_BV.topk(top_k, dim=-1)
        return _pick(scaled_BN.softmax(-1), ids_BN, u_B, top_p_B, min_p_B)
    probs_BV = scaled_BV.softmax(-1)
    if bool((top_p_B == 1).all()):
        return _pick(probs_BV, None, u_B, top_p_B, min_p_B)
    # A few candidates nearly always hold top_p; only the rows where they do not are sorted whole. Each row
    # decides for itself, so that the order of equal probabilities cannot depend on its neighbours.
    probs_BN, ids_BN = probs_BV.topk(min(_TOP_P_CANDIDATES, vocabulary), dim=-1)
    drawn_B = _pick(probs_BN, ids_BN, u_B, top_p_B, min_p_B)
    short_B = probs_BN.sum(-1) < top_p_B
    if probs_BN.shape[1] < vocabulary and bool(short_B.any()):
        sorted_bV, ids_bV = probs_BV[short_B].sort(dim=-1, descending=True)
        drawn_B[short_B] = _pick(sorted_bV, ids_bV, u_B[short_B], top_p_B[short_B], min_p_B[short_B])
    return drawn_B


def _pick(probs_BN: Tensor, ids_BN: Tensor | None, u_B: Tensor, top_p_B: Tensor, min_p_B: Tensor) -> Tensor:
    """Apply top-p (candidates best first) and min-p, then draw. `ids_BN` None: candidate n is token n."""
    cut_B = top_p_B < 1
    if bool(cut_B.any()):
        before_BN = probs_BN.cumsum(-1) - probs_BN
        probs_BN = probs_BN.masked_fill((before_BN >= top_p_B[:, None]) & cut_B[:, None], 0.0)
    if bool((min_p_B > 0).any()):
        floor_B1 = min_p_B[:, None] * probs_BN.amax(-1, keepdim=True)
        probs_BN = probs_BN.masked_fill(probs_BN < floor_B1, 0.0)
    cumulative_BN = probs_BN.cumsum(-1)
    target_B1 = u_B[:, None] * cumulative_BN[:, -1:]
    # The first entry whose cumulative share exceeds the target, hence never one of share 0. The clamp covers
    # shares that are not finite, which `sample` reports.
    index_B1 = torch.searchsorted(cumulative_BN, target_B1, right=True).clamp_(max=cumulative_BN.shape[1] - 1)
    return (index_B1 if ids_BN is None else ids_BN.gather(1, index_B1))[:, 0]


def score(
    logits_TV: Tensor, ids: Sequence[int], num_top: int
) -> tuple[list[float], list[tuple[tuple[int, float], ...]], list[int]]:
    """The log-probability of each row's given token, its `num_top` most likely ones, the given one's rank.

    The rank is one more than the number of tokens that are more likely.
    """
    logprobs_TV = logits_TV.log_softmax(-1)
    ids_T = torch.tensor(ids, dtype=torch.int64, device=logits_TV.device)
    given_T1 = logprobs_TV.gather(1, ids_T[:, None])
    ranks = (1 + (logprobs_TV > given_T1).sum(-1)).tolist()
    return given_T1[:, 0].tolist(), _top(logprobs_TV, [num_top] * len(ids)), ranks


def _top(logprobs_BV: Tensor, counts: Sequence[int]) -> list[tuple[tuple[int, float], ...]]:
    most = min(max(counts, default=0), logprobs_BV.shape[1])
    if most == 0:
        return [()] * len(counts)
    values, ids = (part.tolist() for part in logprobs_BV.topk(most, dim=-1))
    return [tuple(zip(ids[row][:n], values[row][:n], strict=True)) for row, n in enumerate(counts)]


def _seed_of(params: SamplingParams) -> int:
    if params.seed is None:
        raise ConfigError("sampling: these settings have no seed; use with_seed() first")
    return params.seed


def _number(value: object, name: str, low: float, high: float, hint: str, low_allowed: bool = True) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        if low < value <= high or (value == low and low_allowed):
            return
    start = f"{low:g}" if low_allowed else f"{low:g} (excluded)"
    end = "up" if math.isinf(high) else f"to {high:g}"
    raise ConfigError(f"sampling: {name} must be a number from {start} {end} ({hint}), got {value!r}")


def _whole(value: object, name: str, low: int, hint: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ConfigError(f"sampling: {name} must be a whole number from {low} up ({hint}), got {value!r}")
