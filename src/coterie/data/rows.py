"""Rows: fixed-length training examples cut from the token stream, or packed from whole conversations."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from coterie.config.errors import DataError

if TYPE_CHECKING:
    import numpy.typing as npt


# Streams that number things within a row, from 0 up; -1 is a token that belongs to none. A batch goes on
# counting across its rows, so that a number names one thing of the whole batch.
NUMBERING = frozenset({"pair", "sample"})
# Streams "experts.LAYER", (S, K): the experts that each position goes to in that layer; -1: it chooses.
EXPERTS = "experts."


@dataclass(frozen=True, eq=False)
class Row:
    """One training example of S positions.

    `ids` (S,) int32; `targets` (S,) int32, the token that follows each; `weights` (S,) float32, 0 where not
    learnt. `lengths`: the segments in order, which sum to S; when `num_padding` > 0 the last segment is that
    padding. Attention stays inside a segment, and positions begin again at 0 in each.

    `streams`: what an objective reads besides, by name, each (S,) or (S, ...). Preference data has `pair`
    (number of the preference, -1 on padding), `side` (1 chosen, -1 rejected) and `margin`; labelled data has
    `pair` and `label` (1 wanted, -1 unwanted, 0 on the continuation of another prompt that it is compared
    with). `reference_logp` is the log-probability of each target under the reference model. Replies that were
    sampled have `sample`, `advantage` and `old_logp` (`train.policy_gradient`), and with a replay of their
    routing `experts.LAYER`.
    """

    ids: npt.NDArray[np.int32]
    targets: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    lengths: tuple[int, ...]
    num_padding: int = 0
    streams: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


class TokenStream(Protocol):
    """Documents, each with a leading end-of-text, as one stream of tokens: `Shards`, or `MemoryStream`.

    `starts` (documents + 1,) int64: the first token of each document, then `num_tokens`.
    """

    @property
    def eos_id(self) -> int: ...

    @property
    def starts(self) -> npt.NDArray[np.int64]: ...

    @property
    def num_tokens(self) -> int: ...

    def read(self, begin: int, end: int) -> npt.NDArray[np.int32]:
        """Tokens [begin, end)."""
        ...


class MemoryStream:
    """A `TokenStream` of documents in memory, each (T,) with its leading end-of-text."""

    def __init__(self, documents: Sequence[npt.NDArray[np.integer]], eos_id: int) -> None:
        self.eos_id = eos_id
        self.starts = np.cumsum([0, *map(len, documents)], dtype=np.int64)
        self._tokens = np.concatenate([np.zeros(0), *documents]).astype(np.int32)

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents."""
        return len(self._tokens)

    def read(self, begin: int, end: int) -> npt.NDArray[np.int32]:
        """Tokens [begin, end)."""
        return self._tokens[begin:end]


class PackedRows(Sequence[Row]):
    """A token stream cut every `row_length` tokens; row i is a pure function of i.

    A segment begins at each document's leading end-of-text and at the row's start. The target of a document's
    last token is the next end-of-text, the stream's own end included, so every token has one. Only the last
    row may be padded.
    """

    def __init__(self, stream: TokenStream, row_length: int) -> None:
        if row_length < 1:
            raise DataError(f"row_length {row_length} must be at least 1")
        if not stream.num_tokens:
            raise DataError("the training text holds no tokens; give more text")
        self.stream, self.row_length = stream, row_length

    def __len__(self) -> int:
        return -(-self.stream.num_tokens // self.row_length)

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]  # no slices
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        stream, size = self.stream, self.row_length
        begin = index * size
        end = min(begin + size, stream.num_tokens)
        known = stream.read(begin, min(end + 1, stream.num_tokens))
        tokens = np.full(size + 1, stream.eos_id, dtype=np.int32)
        tokens[: len(known)] = known
        weights = np.zeros(size, dtype=np.float32)
        weights[: end - begin] = 1
        first, last = np.searchsorted(stream.starts, [begin, end])  # documents that begin in [begin, end)
        edges = sorted({begin, *stream.starts[first:last].tolist(), end, begin + size})
        lengths = tuple(int(high - low) for low, high in pairwise(edges))
        return Row(tokens[:-1], tokens[1:], weights, lengths, begin + size - end)

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    def whole(self) -> list[Row]:
        """The rows whose positions and targets are all tokens of the stream; a shorter last row is left out.

        Errors: `DataError` if there is no such row.
        """
        rows = [self[index] for index in range((self.stream.num_tokens - 1) // self.row_length)]
        if not rows:
            raise DataError(
                f"{self.stream.num_tokens} tokens are less than one row of {self.row_length}; give more text"
            )
        return rows


def best_fit(needs: Sequence[int], room: int) -> list[list[int]]:
    """Items by number into bins of `room`: longest first, each into the fullest bin that has room."""
    bins: list[list[int]] = []
    free_bins: list[tuple[int, int]] = []  # (free places, bin), sorted
    for index in sorted(range(len(needs)), key=lambda index: (-needs[index], index)):
        at = bisect_left(free_bins, (needs[index], -1))
        if at < len(free_bins):
            free, target = free_bins.pop(at)
        else:
            free, target = room, len(bins)
            bins.append([])
        bins[target].append(index)
        insort(free_bins, (free - needs[index], target))
    return bins


def row_of(
    members: Sequence[tuple[Sequence[int], Sequence[bool]]],
    row_length: int,
    padding_id: int,
    streams: Mapping[str, Sequence[float]] | None = None,
) -> Row:
    """A row of whole (ids, mask) pairs, each its own segment, padded to `row_length`.

    `streams`: one value per pair, which every position of its segment gets. Padding gets 0, and -1 in
    streams that number things.
    """
    ids = np.full(row_length, padding_id, dtype=np.int32)
    targets = np.full(row_length, padding_id, dtype=np.int32)
    weights = np.zeros(row_length, dtype=np.float32)
    lengths: list[int] = []
    used = 0
    for tokens, mask in members:
        end = used + len(tokens) - 1
        ids[used:end], targets[used:end], weights[used:end] = tokens[:-1], tokens[1:], mask[1:]
        lengths.append(end - used)
        used = end
    padding = row_length - used
    segments = (*lengths, padding) if padding else tuple(lengths)
    spread = {
        name: _spread(values, lengths, padding, name in NUMBERING) for name, values in (streams or {}).items()
    }
    return Row(ids, targets, weights, segments, padding, spread)


def _spread(
    values: Sequence[float], lengths: Sequence[int], padding: int, numbering: bool
) -> npt.NDArray[Any]:
    """(S,) one value per segment, repeated over its positions, then the padding."""
    kind = np.int32 if numbering else np.float32
    fill = np.full(padding, -1 if numbering else 0, dtype=kind)
    return np.concatenate([np.repeat(np.asarray(values, dtype=kind), lengths), fill])


class RandomRows(Sequence[Row]):
    """A million rows of random tokens, seeded by their index, so that every step routes other tokens."""

    def __init__(self, row_length: int, vocab_size: int) -> None:
        self.row_length, self.vocab_size = row_length, vocab_size

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]  # rows are taken one at a time
        draw = np.random.default_rng(index)
        ids = draw.integers(0, self.vocab_size, self.row_length + 1).astype(np.int32)
        ones = np.ones(self.row_length, dtype=np.float32)
        return Row(ids[:-1], ids[1:], ones, (self.row_length,))
