"""What a forward pass needs to know about its tokens besides their ids. T packed tokens, D width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from coterie.nn.recording import Recorder
from coterie.nn.router import Steer


@dataclass(frozen=True, eq=False)
class ForwardContext:
    """T packed tokens, divided into segments: document parts, or the new tokens of one sequence each.

    Attention never crosses a segment.
    `positions_T`: int64, each token's position in its own sequence. `lengths`: host integers that sum to T.
    `valid_T`: bool, False for padding (None: all tokens are valid).
    `counted_T`: bool, the tokens in the routers' statistics (None: the valid ones). `balance_tokens`: the
    number of counted tokens of the global batch; training sets it, which switches statistics and balance
    losses on.
    `steers`: by layer, how single tokens deviate from the trained routing. `recorder`: collects what the MoE
    layers do.
    `memo`: index tables that attention derives from the lengths once per batch and shares between layers.
    """

    positions_T: Tensor
    lengths: tuple[int, ...]
    valid_T: Tensor | None = None
    counted_T: Tensor | None = None
    balance_tokens: float | None = None
    steers: Mapping[int, Steer] = field(default_factory=dict)
    recorder: Recorder | None = None
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

    @property
    def num_tokens(self) -> int:
        """T."""
        return int(self.positions_T.shape[0])
