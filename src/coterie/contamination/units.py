"""Text as units: what is compared when training text is searched for evaluation items.

A unit does not depend on any tokenizer, so an index can be asked by those who have other tokenizers. Text is
brought to NFKC and case-folded. A unit is then a run of letters and digits; each character of a script that
is written without spaces (Chinese, Japanese, Thai, ...) is one unit. White space, punctuation and symbols
only separate units. So `Foo(bar, 1)` and `foo BAR 1` are the same three units, in prose and in code alike.

`NORMALISATION` names these rules; an index states it and refuses queries under other rules.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

NORMALISATION = "nfkc-casefold-1"
_BASE, _UNIT_BASE = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93  # odd, so they have an inverse modulo 2^64
_WORD, _SINGLE, _LINE, _ASKS = 1, 2, 3, 4  # kinds of characters; 0 separates
# Written without spaces between words: Thai and Lao, Tibetan, Burmese, Khmer, kana, ideographs.
_SINGLE_RANGES = (
    (0x0E00, 0x0F00),
    (0x0F00, 0x1000),
    (0x1000, 0x10A0),
    (0x1780, 0x1800),
    (0x3040, 0x3100),
    (0x31F0, 0x3200),
    (0x3400, 0x4DC0),
    (0x4E00, 0xA000),
    (0xF900, 0xFB00),
    (0x20000, 0x40000),
)
# Punctuation and symbols above ASCII.
_SEPARATORS = (
    (0x80, 0xAA),
    (0xAB, 0xB5),
    (0xB6, 0xBA),
    (0xBB, 0xC0),
    (0xD7, 0xD8),
    (0xF7, 0xF8),
    (0x2000, 0x2070),
    (0x20A0, 0x20D0),
    (0x2190, 0x2C00),
    (0x2E00, 0x2E80),
    (0x3000, 0x3005),
    (0x3008, 0x3021),
    (0xD800, 0xF900),  # surrogates and private use
    (0xFE10, 0xFE70),
    (0xFFF0, 0x10000),
    (0x1F000, 0x1FB00),
)


@dataclass(frozen=True)
class UnitBatch:
    """The units of several texts, one text after another.

    `text`: the normalised texts, each ended by a line break. `hashes` (n,) uint64 of each unit; `starts` and
    `ends` (n,) its characters in `text`. `documents` (texts + 1,): the first unit of each text, then n.
    `lines` (l,) and `questions` (q,): where lines end and question marks stand, in characters of `text`.
    """

    text: str
    hashes: npt.NDArray[np.uint64]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    documents: npt.NDArray[np.int64]
    lines: npt.NDArray[np.int64]
    questions: npt.NDArray[np.int64]

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """(texts,) units of each text."""
        return np.diff(self.documents)

    def words(self, first: int, last: int) -> list[str]:
        """Units [first, last) of the batch as text."""
        return [
            self.text[start:end]
            for start, end in zip(
                self.starts[first:last].tolist(), self.ends[first:last].tolist(), strict=True
            )
        ]


def normalised(text: str) -> str:
    """NFKC, then case-folded."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def units_of(texts: Sequence[str]) -> UnitBatch:
    """The units of several texts.

    A unit's hash is a polynomial of its code points modulo 2^64, taken for all units at once as a difference
    of prefix sums, divided by the power of the base where the unit begins.
    """
    parts = [normalised(text) for text in texts]
    joined = "\n".join([*parts, ""])
    codes: npt.NDArray[Any]
    if joined.isascii():
        codes = np.frombuffer(joined.encode("ascii"), dtype=np.uint8)
    else:
        codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    kinds = _kinds()[codes]
    word, single = kinds == _WORD, kinds == _SINGLE
    begins, stops = word.copy(), word.copy()
    begins[1:] &= ~word[:-1]
    stops[:-1] &= ~word[1:]
    starts = np.flatnonzero(begins | single)
    ends = np.flatnonzero(stops | single) + 1
    powers, inverses = powers_of(_BASE, len(codes) + 1)
    sums = np.zeros(len(codes) + 1, dtype=np.uint64)
    np.cumsum((codes.astype(np.uint64) + np.uint64(1)) * powers[:-1], out=sums[1:])
    hashes = mixed((sums[ends] - sums[starts]) * inverses[starts])
    sizes = np.cumsum([len(part) + 1 for part in parts], dtype=np.int64)
    documents = np.concatenate(([0], np.searchsorted(starts, sizes)))
    lines, questions = (np.flatnonzero(kinds == kind) for kind in (_LINE, _ASKS))
    return UnitBatch(joined, hashes, starts, ends, documents, lines, questions)


def mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of MurmurHash3: spreads patterns over the whole word. A bijection."""
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))


class RangeHashes:
    """Hashes of ranges of units, each in constant time."""

    def __init__(self, units: npt.NDArray[np.uint64]) -> None:
        self.powers, self._inverses = powers_of(_UNIT_BASE, max(64, len(units) + 1))
        self._sums = np.zeros(len(units) + 1, dtype=np.uint64)
        np.cumsum(units * self.powers[: len(units)], out=self._sums[1:])

    def plain(self, first: npt.NDArray[np.int64], last: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """Of units [first, last), not mixed: `plain(a, b) + powers[b - a] * plain(b, c)` is of [a, c)."""
        found: npt.NDArray[np.uint64] = (self._sums[last] - self._sums[first]) * self._inverses[first]
        return found

    def grams(self, size: int) -> npt.NDArray[np.uint64]:
        """(n - size + 1,) of every `size` units in a row, mixed."""
        if len(self._sums) <= size:
            return np.zeros(0, dtype=np.uint64)
        last = len(self._sums) - size
        return mixed((self._sums[size:] - self._sums[:last]) * self._inverses[:last])


_known: dict[int, tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]] = {}


def powers_of(base: int, count: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """(count,) powers of an odd base modulo 2^64, and their inverses; kept for the next call."""
    known = _known.get(base)
    if known is None or len(known[0]) < count:
        size = max(1 << 16, 1 << (count - 1).bit_length())
        factors = base, pow(base, -1, 2**64)
        powers, inverses = (np.full(size, factor, dtype=np.uint64) for factor in factors)
        for found in (powers, inverses):
            found[0] = 1
            np.multiply.accumulate(found, out=found)
        known = _known[base] = powers, inverses
    return known[0][:count], known[1][:count]


@cache
def _kinds() -> npt.NDArray[np.uint8]:
    """(0x110000,) the kind of every code point."""
    kinds = np.full(0x110000, _WORD, dtype=np.uint8)
    kinds[:0x80] = [_WORD if chr(code).isalnum() else 0 for code in range(0x80)]
    for ranges, kind in ((_SINGLE_RANGES, _SINGLE), (_SEPARATORS, 0)):
        for first, last in ranges:
            kinds[first:last] = kind
    kinds[[ord("\n"), ord("\r"), 0x85, 0x2028, 0x2029]] = _LINE
    kinds[[ord("?"), 0x061F, 0x037E]] = _ASKS
    return kinds
