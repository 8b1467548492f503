"""One micro-batch: several rows laid end to end. T tokens in all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from coterie.config.errors import DataError
from coterie.data.rows import Judged, Row
from coterie.nn.forward_context import ForwardContext


@dataclass(frozen=True, eq=False)
class Batch:
    """`ids_T`, `targets_T` int64 and `weights_T` float32 (0: not learnt), with the segments in `context`.

    `weight` is the sum of `weights_T` (of rows for preference learning: the number of preferences or labels)
    and `num_valid` the tokens that are not padding, known on the host so that the loop can count a whole step
    before any of it runs. `judged`: (its first segment, preference or label). `num_counted`: tokens in the
    routers' statistics.
    """

    ids_T: Tensor
    targets_T: Tensor
    weights_T: Tensor
    context: ForwardContext
    weight: float
    num_valid: int
    num_rows: int
    judged: tuple[tuple[int, Judged], ...] = ()
    num_counted: int = 0

    @property
    def num_tokens(self) -> int:
        return int(self.ids_T.shape[0])


def collate(rows: Sequence[Row], device: torch.device | str = "cpu", balance_prompts: bool = True) -> Batch:
    """Concatenate rows; `context.valid_T` is False on padding and None when there is none.

    `balance_prompts` False: routers count only the positions that are learnt.
    Errors: `DataError` for no rows, or a row whose segments do not sum to its length.
    """
    if not rows:
        raise DataError("a batch needs at least one row")
    for index, row in enumerate(rows):
        if sum(row.lengths) != len(row.ids):
            raise DataError(
                f"row {index} of a batch: segments of {sum(row.lengths)} tokens in a row of {len(row.ids)}"
            )
    num_padding = sum(row.num_padding for row in rows)
    num_tokens = sum(len(row.ids) for row in rows)
    weights_T = np.concatenate([np.asarray(row.weights, dtype=np.float32) for row in rows])
    valid_T = None
    if num_padding:
        parts = [np.arange(len(row.ids)) < len(row.ids) - row.num_padding for row in rows]
        valid_T = torch.from_numpy(np.concatenate(parts)).to(device)
    lengths = [length for row in rows for length in row.lengths if length]
    judged = tuple(_judged(rows))
    context = ForwardContext.packed(lengths, valid_T=valid_T, device=device)
    if not balance_prompts:
        context = replace(context, counted_T=torch.from_numpy(weights_T > 0).to(device))
    return Batch(
        ids_T=_to_tensor([row.ids for row in rows], device),
        targets_T=_to_tensor([row.targets for row in rows], device),
        weights_T=torch.from_numpy(weights_T).to(device),
        context=context,
        weight=float(len(judged)) if judged else float(weights_T.sum(dtype=np.float64)),
        num_valid=num_tokens - num_padding,
        num_rows=len(rows),
        judged=judged,
        num_counted=num_tokens - num_padding if balance_prompts else int((weights_T > 0).sum()),
    )


def _judged(rows: Sequence[Row]) -> Iterator[tuple[int, Judged]]:
    first = 0
    for row in rows:
        at = first
        for mark in row.judged:
            yield at, mark
            at += mark.segments
        first += sum(length > 0 for length in row.lengths)


def _to_tensor(arrays: Sequence[np.ndarray], device: torch.device | str) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays).astype(np.int64)).to(device)
