"""Penalties and biases of single tokens, for all rows of a step.

Legend: B sequences, V vocabulary, N changed scores of all rows together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


class TokenCounts:
    """The different tokens of one growing sequence, and how often its reply contains each.

    Only tokens that were added since the last call are looked at.
    """

    def __init__(self, num_prompt: int) -> None:
        self._num_prompt = num_prompt
        self._num_read = 0
        self._places: dict[int, int] = {}
        self._ids = np.empty(64, np.int64)
        self._replied = np.zeros(64, np.float32)

    def of(self, tokens: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """(ids, how often each is in the reply, float32). `tokens`: those of the last call and any more."""
        new = tokens[self._num_read :]
        num_known = len(self._places)
        for token in dict.fromkeys(new):
            self._places.setdefault(token, len(self._places))
        count = len(self._places)
        if count > len(self._ids):
            self._ids = np.resize(self._ids, 2 * count)
            self._replied = np.concatenate([self._replied[:num_known], np.zeros(2 * count, np.float32)])
        if count > num_known:
            self._ids[num_known:count] = list(self._places)[num_known:]
        for token in new[max(0, self._num_prompt - self._num_read) :]:
            self._replied[self._places[token]] += 1
        self._num_read = len(tokens)
        return self._ids[:count], self._replied[:count]


@dataclass(frozen=True, slots=True)
class Penalised:
    """A row under penalties: its number, the penalties, its different tokens, how often each is replied."""

    row: int
    repetition: float
    presence: float
    frequency: float
    ids: np.ndarray
    replied: np.ndarray


def penalise(scores_BV: Tensor, rows: Sequence[Penalised]) -> None:
    """Change the scores of the counted tokens in place, those of all rows at once.

    A token's score is divided by the repetition penalty if positive, else multiplied by it.
    """
    lengths = [len(one.ids) for one in rows]

    def each(values: list[float]) -> Tensor:
        return torch.from_numpy(np.repeat(np.array(values, np.float32), lengths)).to(scores_BV.device)

    ids = np.concatenate([one.row * scores_BV.shape[1] + one.ids for one in rows])
    places_N = torch.from_numpy(ids).to(scores_BV.device)
    replied_N = torch.from_numpy(np.concatenate([one.replied for one in rows])).to(scores_BV.device)
    flat = scores_BV.view(-1)
    values_N = flat[places_N]
    factor_N = each([one.repetition for one in rows])
    values_N = torch.where(values_N > 0, values_N / factor_N, values_N * factor_N)
    less_N = each([one.presence for one in rows]) + each([one.frequency for one in rows]) * replied_N
    flat[places_N] = torch.where(replied_N > 0, values_N - less_N, values_N)


@lru_cache(maxsize=256)
def bias(pairs: tuple[tuple[int, float], ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and what is added to their scores, float32."""
    ids = torch.tensor([token for token, _ in pairs], dtype=torch.int64, device=device)
    return ids, torch.tensor([value for _, value in pairs], dtype=torch.float32, device=device)
