"""What a forward pass needs to know about its tokens besides their ids.

T packed tokens, D width, N inserted features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from coterie.config.errors import DataError
from coterie.nn.recording import Recorder
from coterie.nn.router import Steer

# Keys, values and the position of the first key: of each segment with caches, else of all tokens at once.
Kept = tuple[tuple[Tensor, Tensor, int], ...]


@dataclass(frozen=True, eq=False)
class Inserts:
    """Features that take the place of token embeddings, as an image or audio encoder makes them.

    `index_N`: int64, which of the T packed tokens they replace, each at most once; the ids there are
    placeholders. `features_ND`: the rows, of the model's width. Gradients flow into the features and not into
    the embeddings that they replace.
    """

    index_N: Tensor
    features_ND: Tensor

    def into(self, h_TD: Tensor) -> Tensor:
        """`h_TD` with the features at their places, cast to its dtype.

        Errors: `DataError`, one line, for shapes that do not match or a place outside the T tokens.
        """
        num_tokens, width = h_TD.shape
        if self.index_N.dim() != 1 or self.features_ND.shape != (len(self.index_N), width):
            raise DataError(
                f"inserts: {tuple(self.index_N.shape)} places and {tuple(self.features_ND.shape)} features; "
                f"give (N,) places and (N, {width}) features"
            )
        if not len(self.index_N):
            return h_TD
        low, high = int(self.index_N.min()), int(self.index_N.max())
        if low < 0 or high >= num_tokens:
            wrong = low if low < 0 else high
            raise DataError(f"inserts: place {wrong} is outside the {num_tokens} tokens of this pass")
        return h_TD.index_copy(0, self.index_N, self.features_ND.to(h_TD.dtype))


@dataclass(frozen=True, eq=False)
class ForwardContext:
    """T packed tokens, divided into segments: document parts, or the new tokens of one sequence each.

    Attention never crosses a segment, except that one may continue another: `continues` names for each
    segment the one whose tokens come before its own, or -1 (None: none does; see `nn/branches.py`).
    `positions_T`: int64, each token's position in its own sequence. `lengths`: host integers that sum to T.
    `valid_T`: bool, False for padding (None: all tokens are valid).
    `counted_T`: bool, the tokens in the routers' statistics (None: the valid ones). `balance_tokens`: the
    number of counted tokens of the global batch; training sets it, which switches statistics and balance
    losses on.
    `planned`: how long each segment's sequence is taken to be, which decides its rotary frequencies where
    they depend on that (`longrope`); None: as long as it is after its tokens here.
    `inserts`: features that replace some token embeddings.
    `steers`: by layer, how single tokens deviate from the trained routing. `recorder`: collects what the MoE
    layers do.
    `kept`, `per_layer_TNP`: what the model hands from one part of a single pass to later ones: the keys and
    values that further layers use, by layer, and each token's input for each layer.
    `memo`: index tables that attention derives from the lengths once per batch and shares between layers.
    """

    positions_T: Tensor
    lengths: tuple[int, ...]
    valid_T: Tensor | None = None
    continues: tuple[int, ...] | None = None
    counted_T: Tensor | None = None
    balance_tokens: float | None = None
    planned: tuple[int, ...] | None = None
    inserts: Inserts | None = None
    steers: Mapping[int, Steer] = field(default_factory=dict)
    recorder: Recorder | None = None
    kept: dict[int, Kept] = field(default_factory=dict, repr=False)
    per_layer_TNP: Tensor | None = None
    memo: dict[Any, Any] = field(default_factory=dict, repr=False)

    @staticmethod
    def packed(
        lengths: Sequence[int],
        starts: Sequence[int] | None = None,
        valid_T: Tensor | None = None,
        device: torch.device | str | None = None,
        **rest: Any,
    ) -> ForwardContext:
        """Segments of `lengths` tokens, the first of each at position `starts[i]` (default 0).

        `rest`: the remaining fields, by name.
        """
        first = list(starts) if starts is not None else [0] * len(lengths)
        parts = [torch.arange(start, start + n) for start, n in zip(first, lengths, strict=True)]
        positions_T = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)
        return ForwardContext(positions_T.to(device), tuple(int(n) for n in lengths), valid_T, **rest)

    def sequence_lengths(self) -> tuple[int, ...]:
        """`planned`, or for each segment the position after its last token (0 for an empty one)."""
        if self.planned is not None:
            return self.planned
        ends, end = [], 0
        for length in self.lengths:
            end += length
            ends.append(int(self.positions_T[end - 1]) + 1 if length else 0)
        return tuple(ends)

    @property
    def num_tokens(self) -> int:
        """T."""
        return int(self.positions_T.shape[0])
