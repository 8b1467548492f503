"""One micro-batch: several rows, concatenated. T tokens in all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from coterie.config.errors import DataError
from coterie.data.rows import EXPERTS, NUMBERING, Row
from coterie.nn.forward_context import ForwardContext
from coterie.nn.router import Steer


@dataclass(frozen=True, eq=False)
class Batch:
    """`ids_T`, `targets_T` int64 and `weights_T` float32 (0: not learnt), with the segments in `context`.

    `weight` is the sum of `weights_T`, and `num_valid` the number of tokens that are not padding. Both are
    known on the host, so the loop can count a whole step before any of it runs. `streams`: those of the rows
    (`data.rows.Row`), (T, ...) each. `counts`: for each stream that numbers things, how many there are.
    `num_counted`: tokens in the routers' statistics. `learnt_N`: the learnt positions, where a quarter or
    more are not learnt.
    """

    ids_T: Tensor
    targets_T: Tensor
    weights_T: Tensor
    context: ForwardContext
    weight: float
    num_valid: int
    num_rows: int
    num_counted: int = 0
    streams: Mapping[str, Tensor] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    learnt_N: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        """T."""
        return int(self.ids_T.shape[0])


def collate(
    rows: Sequence[Row],
    device: torch.device | str = "cpu",
    balance_prompts: bool = True,
    share_prompts: bool = False,
) -> Batch:
    """Concatenate rows; `context.valid_T` is False on padding, and None when there is no padding.

    `balance_prompts` False: routers count only the positions that are learnt. Streams of experts become the
    context's steers. `share_prompts`: a prompt that rows have in common stands in the batch once, and each
    row continues it; for models that `nn.branches.can_branch` allows.
    Errors: `DataError` for no rows, rows with different streams, or a row whose segments or streams do not
    have its length.
    """
    _check(rows)
    if share_prompts:
        prompts = shared_prompts(rows)
        if prompts:
            return _continued(collate(rows, device, balance_prompts), rows, prompts)
    num_padding = sum(row.num_padding for row in rows)
    num_tokens = sum(len(row.ids) for row in rows)
    weights_T = np.concatenate([np.asarray(row.weights, dtype=np.float32) for row in rows])
    valid_T = None
    if num_padding:
        parts = [np.arange(len(row.ids)) < len(row.ids) - row.num_padding for row in rows]
        valid_T = torch.from_numpy(np.concatenate(parts)).to(device)
    lengths = [length for row in rows for length in row.lengths if length]
    context = ForwardContext.packed(lengths, valid_T=valid_T, device=device)
    if not balance_prompts:
        context = replace(context, counted_T=torch.from_numpy(weights_T > 0).to(device))
    joined, counts = _join_streams(rows)
    streams = {name: torch.from_numpy(values).to(device) for name, values in joined.items()}
    context = replace(context, steers=_steers(streams))
    return Batch(
        ids_T=_to_tensor([row.ids for row in rows], device),
        targets_T=_to_tensor([row.targets for row in rows], device),
        weights_T=torch.from_numpy(weights_T).to(device),
        context=context,
        weight=float(weights_T.sum(dtype=np.float64)),
        num_valid=num_tokens - num_padding,
        num_rows=len(rows),
        num_counted=num_tokens - num_padding if balance_prompts else int((weights_T > 0).sum()),
        streams=streams,
        counts=counts,
        learnt_N=_mostly_unlearnt(weights_T, device),
    )


def _mostly_unlearnt(weights_T: np.ndarray, device: torch.device | str) -> Tensor | None:
    """The positions that are learnt where a quarter or more are not, else None."""
    (index_N,) = np.nonzero(weights_T)
    return torch.from_numpy(index_N).to(device) if len(index_N) <= 0.75 * len(weights_T) else None


def shared_prompts(rows: Sequence[Row]) -> list[tuple[int, int, int]]:
    """(first row, row after the last, tokens) of each prompt that neighbouring rows have in common.

    Its tokens are those before the first learnt position, which is the first that differs in what follows.
    """
    heads = [_unlearnt(row) for row in rows]
    found, first = [], 0
    for number in range(1, len(rows) + 1):
        length = heads[first]
        if number < len(rows) and heads[number] == length:
            if np.array_equal(rows[first].ids[:length], rows[number].ids[:length]):
                continue
        if number - first > 1 and length:
            found.append((first, number, length))
        first = number
    return found


def shared_tokens(rows: Sequence[Row]) -> int:
    """How many tokens fewer a batch of these rows has when they share their prompts."""
    return sum((end - first - 1) * length for first, end, length in shared_prompts(rows))


def _unlearnt(row: Row) -> int:
    """Tokens before the first learnt position of a row that is one sequence; 0 for other rows."""
    if len(row.lengths) != 1 or row.num_padding:
        return 0
    return int(np.argmax(np.asarray(row.weights) > 0)) if np.any(row.weights) else 0


def _continued(whole: Batch, rows: Sequence[Row], prompts: Sequence[tuple[int, int, int]]) -> Batch:
    """The batch of `rows` with each of the prompts once; the rows that have it continue it."""
    starts = [0, *accumulate(len(row.ids) for row in rows)]
    taken: list[Tensor] = []
    lengths: list[int] = []
    continues: list[int] = []

    def take(begin: int, row_lengths: Sequence[int], before: int) -> None:
        taken.append(torch.arange(begin, begin + sum(row_lengths)))
        lengths.extend(length for length in row_lengths if length)
        continues.extend(before for length in row_lengths if length)

    number = 0
    for first, end, length in [*prompts, (len(rows), len(rows), 0)]:
        for alone in range(number, first):
            take(starts[alone], rows[alone].lengths, -1)
        if length:
            prompt = len(lengths)
            take(starts[first], (length,), -1)
            for row in range(first, end):
                take(starts[row] + length, (len(rows[row].ids) - length,), prompt)
        number = end
    take_T = torch.cat(taken).to(whole.ids_T.device)
    context = whole.context
    valid_T, counted_T = (
        None if x is None else x.index_select(0, take_T) for x in (context.valid_T, context.counted_T)
    )
    left_out = whole.num_tokens - len(take_T)
    streams = {name: values.index_select(0, take_T) for name, values in whole.streams.items()}
    return replace(
        whole,
        ids_T=whole.ids_T.index_select(0, take_T),
        targets_T=whole.targets_T.index_select(0, take_T),
        weights_T=whole.weights_T.index_select(0, take_T),
        context=replace(
            context,
            positions_T=context.positions_T.index_select(0, take_T),
            lengths=tuple(lengths),
            valid_T=valid_T,
            counted_T=counted_T,
            continues=tuple(continues),
            steers=_steers(streams),
        ),
        num_valid=whole.num_valid - left_out,
        num_counted=whole.num_counted if counted_T is not None else whole.num_counted - left_out,
        streams=streams,
        learnt_N=_mostly_unlearnt(whole.weights_T.index_select(0, take_T).cpu().numpy(), take_T.device),
    )


def _steers(streams: Mapping[str, Tensor]) -> dict[int, Steer]:
    """By layer, the experts that each token goes to."""
    steers = {}
    for name, ids_TK in streams.items():
        if name.startswith(EXPERTS):
            most = ids_TK.shape[1]
            top_k_T = torch.full((len(ids_TK),), most, device=ids_TK.device)
            steers[int(name.removeprefix(EXPERTS))] = Steer(None, top_k_T, most, ids_TK.long())
    return steers


def _check(rows: Sequence[Row]) -> None:
    if not rows:
        raise DataError("a batch needs at least one row")
    for index, row in enumerate(rows):
        if sum(row.lengths) != len(row.ids):
            raise DataError(
                f"row {index} of a batch: segments of {sum(row.lengths)} tokens in a row of {len(row.ids)}"
            )
        if row.streams.keys() != rows[0].streams.keys():
            names = [", ".join(sorted(one.streams)) or "none" for one in (rows[0], row)]
            raise DataError(
                f"row {index} of a batch: its streams are {names[1]}, and those of row 0 {names[0]}"
            )
        for name, values in row.streams.items():
            if len(values) != len(row.ids):
                raise DataError(
                    f"row {index} of a batch: {len(values)} values in the stream '{name}' "
                    f"of {len(row.ids)} tokens"
                )


def _join_streams(rows: Sequence[Row]) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Streams of all rows, and for those that number things how many there are; numbers stay distinct."""
    streams, counts = {}, {}
    for name in rows[0].streams:
        parts = [np.asarray(row.streams[name]) for row in rows]
        if name in NUMBERING:
            numbered, first = [], 0
            for part in parts:
                numbered.append(np.where(part < 0, -1, part + first).astype(np.int64))
                first += int(part.max(initial=-1)) + 1
            parts, counts[name] = numbered, first
        streams[name] = np.concatenate(parts)
    return streams, counts


def _to_tensor(arrays: Sequence[np.ndarray], device: torch.device | str) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays).astype(np.int64)).to(device)
