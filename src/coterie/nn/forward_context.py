"""How packed tokens divide into segments.

T tokens in all; a segment is a document part or one sequence's new tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ForwardContext:
    """Positions and segment lengths of T packed tokens. Attention never crosses a segment.

    `positions_T`: int64, the position of each token in its own sequence. `lengths`: host integers summing to
    T. `valid_T`: bool, False where a token is padding (None: all valid). `counted_T`: bool, the tokens that
    routers take into their statistics (None: the valid ones). `memo` holds index tables that attention
    derives from the lengths once per batch and shares between layers. `steering`: `nn.steering.Steering`,
    what single tokens ask of the routers, or None.
    """

    positions_T: Tensor
    lengths: tuple[int, ...]
    valid_T: Tensor | None = None
    steering: Any = None
    counted_T: Tensor | None = None
    memo: dict[Any, Any] = field(default_factory=dict, repr=False)

    @staticmethod
    def packed(
        lengths: Sequence[int],
        starts: Sequence[int] | None = None,
        valid_T: Tensor | None = None,
        device: torch.device | str | None = None,
    ) -> ForwardContext:
        """Segments of `lengths` tokens, whose first token stands at position `starts[i]` (default 0)."""
        first = list(starts) if starts is not None else [0] * len(lengths)
        parts = [torch.arange(start, start + n) for start, n in zip(first, lengths, strict=True)]
        positions_T = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)
        return ForwardContext(positions_T.to(device), tuple(int(n) for n in lengths), valid_T)

    @property
    def num_tokens(self) -> int:
        return int(self.positions_T.shape[0])
