"""The order of training samples: a pure function of seed and number.

A run's place in its data is therefore one integer. Sample i belongs to epoch i // num_rows. Each epoch has
its own permutation, which is computed and not stored: a Feistel network over the next power of four, applied
again until the result is a valid row (cycle walking; Black and Rogaway 2002). The order does not depend on
the number of processes. See docs/design/data-order.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from coterie.config.errors import ConfigError
from coterie.data.rows import Row

_ROUNDS = 6
_MASK64 = (1 << 64) - 1


@dataclass(frozen=True)
class Order:
    """Maps sample numbers to row numbers; every epoch visits each of `num_rows` rows once."""

    num_rows: int
    seed: int

    def __post_init__(self) -> None:
        if self.num_rows < 1:
            raise ConfigError(f"num_rows {self.num_rows}: an order needs at least one row")

    def __getitem__(self, sample: int) -> int:
        """The row of sample number `sample`, from 0 without end."""
        if sample < 0:
            raise IndexError(f"sample {sample} is negative")
        epoch, index = divmod(sample, self.num_rows)
        half = max(1, ((self.num_rows - 1).bit_length() + 1) // 2)
        key = _key(self.seed, epoch)
        while True:
            index = _feistel(index, half, key)
            if index < self.num_rows:
                return index


def read_batches(
    rows: Sequence[Row], order: Order, start: int, batch_rows: int, rank: int = 0, world: int = 1
) -> Iterator[list[Row]]:
    """Endless batches from sample number `start` on.

    Batch n holds the samples start + [n * batch_rows, (n + 1) * batch_rows). Process `rank` of `world` gets
    every `world`-th of them, starting at `rank`, so all processes together read the same global batch
    whatever their number.
    Errors: `ConfigError` if the rows cannot be divided evenly.
    """
    if len(rows) != order.num_rows:
        raise ConfigError(f"the order is over {order.num_rows} rows, the data has {len(rows)}")
    if start < 0 or batch_rows < 1 or not 0 <= rank < world:
        raise ConfigError(
            f"cannot read from sample {start}, {batch_rows} rows a batch, rank {rank} of {world}"
        )
    if batch_rows % world:
        raise ConfigError(
            f"{batch_rows} rows a batch cannot be shared by {world} processes; use a multiple of {world}"
        )

    def batches() -> Iterator[list[Row]]:
        first = start
        while True:
            yield [rows[order[sample]] for sample in range(first + rank, first + batch_rows, world)]
            first += batch_rows

    return batches()


def _key(seed: int, epoch: int) -> int:
    return int.from_bytes(hashlib.sha256(f"order\0{seed}\0{epoch}".encode()).digest()[:8], "big")


def _feistel(index: int, half: int, key: int) -> int:
    """A permutation of [0, 4^half)."""
    mask = (1 << half) - 1
    left, right = index >> half, index & mask
    for turn in range(_ROUNDS):
        left, right = right, left ^ (_scramble(right + (turn << 40), key) & mask)
    return (left << half) | right


def _scramble(value: int, key: int) -> int:
    """64 well-mixed bits of value and key (the finaliser of MurmurHash3)."""
    value = (value * 0x9E3779B97F4A7C15 + key) & _MASK64
    value = ((value ^ (value >> 33)) * 0xFF51AFD7ED558CCD) & _MASK64
    value = ((value ^ (value >> 33)) * 0xC4CEB9FE1A85EC53) & _MASK64
    return value ^ (value >> 33)
