"""Sets of fingerprints: sorted as they are, or as a Bloom filter; and under a secret key.

A published set tells whoever has it whether a text was in the training data. Under a key every fingerprint is
replaced by SipHash-2-4 of it (Aumasson, Bernstein 2012), so only the holders of the key can ask.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from coterie.config.errors import DataError
from coterie.contamination.units import mixed

if TYPE_CHECKING:
    import numpy.typing as npt

LEAST_KEY_BYTES = 16
_CHUNK = 1 << 20  # fingerprints whose places in a filter are computed at once
_SECOND = np.uint64(0x9FB21C651E98DF25)


def in_sorted(sorted_values: npt.NDArray[np.uint64], asked: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Which of `asked` are in a sorted array."""
    if not len(sorted_values):
        return np.zeros(len(asked), dtype=bool)
    places = np.minimum(np.searchsorted(sorted_values, asked), len(sorted_values) - 1)
    return np.asarray(sorted_values[places] == asked)


@dataclass(frozen=True)
class Bloom:
    """A Bloom filter (1970). `bits` (bytes,) uint8; `hashes`: places of each value."""

    bits: npt.NDArray[np.uint8]
    hashes: int

    @staticmethod
    def of(values: npt.NDArray[np.uint64], rate: float) -> Bloom:
        """The filter of `values` in which other values are found with probability `rate`."""
        per_value = -math.log(rate) / math.log(2) ** 2
        size = max(64, math.ceil(len(values) * per_value / 64) * 64)
        found = Bloom(np.zeros(size // 8, dtype=np.uint8), max(1, round(per_value * math.log(2))))
        for start in range(0, len(values), _CHUNK):
            for place in found._places(values[start : start + _CHUNK]):
                np.bitwise_or.at(found.bits, place >> 3, np.left_shift(1, place & 7).astype(np.uint8))
        return found

    def has(self, asked: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Which of `asked` are in the filter; some that are not are found too."""
        found = np.ones(len(asked), dtype=bool)
        for place in self._places(asked):
            found &= (self.bits[place >> 3] >> (place & 7).astype(np.uint8)) & 1 == 1
        return found

    def _places(self, values: npt.NDArray[np.uint64]) -> list[npt.NDArray[np.int64]]:
        """Per hash (v,) bit numbers, by double hashing (Kirsch, Mitzenmacher 2006)."""
        size, step = np.uint64(8 * len(self.bits)), mixed(values ^ _SECOND) | np.uint64(1)
        return [((values + np.uint64(turn) * step) % size).astype(np.int64) for turn in range(self.hashes)]


@dataclass(frozen=True)
class SketchKey:
    """A secret key of 128 bits, as two numbers."""

    low: int
    high: int

    @staticmethod
    def of(secret: bytes, where: str = "the key") -> SketchKey:
        """The key that a secret gives. Errors: `DataError` for a short one."""
        if len(secret) < LEAST_KEY_BYTES:
            raise DataError(
                f"{where}: holds {len(secret)} bytes, a key needs at least {LEAST_KEY_BYTES}; make one with "
                "head -c 32 /dev/urandom"
            )
        digest = hashlib.sha256(b"coterie contamination index\0" + secret).digest()
        return SketchKey(int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little"))

    @property
    def check(self) -> str:
        """What an index states to recognise its key: it tells nothing of the key."""
        return f"{int(self.applied(np.array([0x636F746572696531], dtype=np.uint64))[0]):016x}"

    def applied(self, values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """SipHash-2-4 of each value (8 bytes, little-endian)."""
        low, high = np.uint64(self.low), np.uint64(self.high)
        start = 0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573
        state = [np.full(len(values), word, dtype=np.uint64) ^ (high if at % 2 else low)
                 for at, word in enumerate(start)]  # fmt: skip
        for block in (values, np.full(len(values), 8 << 56, dtype=np.uint64)):
            state[3] = state[3] ^ block
            _rounds(state, 2)
            state[0] = state[0] ^ block
        state[2] = state[2] ^ np.uint64(0xFF)
        _rounds(state, 4)
        found: npt.NDArray[np.uint64] = state[0] ^ state[1] ^ state[2] ^ state[3]
        return found


def _rounds(state: list[npt.NDArray[np.uint64]], count: int) -> None:
    """SipRounds, in place."""
    a, b, c, d = state
    for _ in range(count):
        a, c = a + b, c + d
        b, d = _left(b, 13) ^ a, _left(d, 16) ^ c
        a = _left(a, 32)
        c, a = c + b, a + d
        b, d = _left(b, 17) ^ c, _left(d, 21) ^ a
        c = _left(c, 32)
    state[:] = a, b, c, d


def _left(values: npt.NDArray[np.uint64], by: int) -> npt.NDArray[np.uint64]:
    rotated: npt.NDArray[np.uint64] = (values << np.uint64(by)) | (values >> np.uint64(64 - by))
    return rotated
