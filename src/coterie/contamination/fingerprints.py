"""Winnowed fingerprints of texts, and hashes of the short questions among their lines.

Of every `WINDOW` grams of `GRAM` units in a row, the smallest hash is kept (Schleimer, Wilkerson, Aiken
2003). So two texts that share `FLOOR` = GRAM + WINDOW - 1 units in a row share a fingerprint, wherever in
them the shared part stands. A text with fewer grams than a window keeps the smallest of those it has.

Fingerprints cannot find a question of fewer than `FLOOR` units. For these, lines are hashed whole: a line
that asks (it has a question mark, or a label such as "Q:" or "user" stands before it), that line and the next
one, and the last units before the next line, or before any line with a label, with the first unit of that
line, which shows that the answer follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from coterie.contamination.units import RangeHashes, UnitBatch, mixed, units_of

if TYPE_CHECKING:
    import numpy.typing as npt

GRAM, WINDOW = 8, 6
FLOOR = GRAM + WINDOW - 1
SHORTEST = 4  # units of a question with its answer: fewer are found everywhere
_LABELS = (
    "q a question answer problem solution exercise task prompt completion response input output instruction "
    "user assistant human gpt model bot system reply"
).split()
# What kind of piece a hash is of: pieces of different kinds never have equal hashes by their content.
_WHOLE, _JOIN = np.uint64(0xA0761D6478BD642F), np.uint64(0xE7037ED1A0B428DB)


@dataclass(frozen=True)
class Fingerprints:
    """Of several texts. `values` (f,) and `owners` (f,): each fingerprint and the number of its text.

    `pieces` (p,): hashes of short questions, of all texts. `units` (texts,).
    """

    values: npt.NDArray[np.uint64]
    owners: npt.NDArray[np.int64]
    pieces: npt.NDArray[np.uint64]
    units: npt.NDArray[np.int64]


def fingerprints(texts: Sequence[str]) -> Fingerprints:
    """The winnowed fingerprints and the pieces of several texts."""
    batch = units_of(texts)
    ranges = RangeHashes(batch.hashes)
    grams, valid = grams_of(ranges, batch.documents)
    chosen = np.flatnonzero(winnowed(grams, valid, batch.documents[:-1]))
    owners = np.searchsorted(batch.documents, chosen, side="right") - 1
    return Fingerprints(grams[chosen], owners, pieces_of(batch, ranges), batch.counts)


def grams_of(
    ranges: RangeHashes, documents: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """(n,) the hash of the gram that begins at each unit, and whether it ends within the same text.

    `documents` (texts + 1,): the first unit of each text, then n.
    """
    size = int(documents[-1])
    grams = np.zeros(size, dtype=np.uint64)
    found = ranges.grams(GRAM)
    grams[: len(found)] = found
    valid = np.ones(size + 1, dtype=bool)
    for back in range(1, GRAM):  # a gram may not begin at the last units of a text
        valid[np.maximum(documents[1:] - back, documents[:-1])] = False
    return grams, valid[:size]


def winnowed(
    grams: npt.NDArray[np.uint64], valid: npt.NDArray[np.bool_], firsts: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """(n,) whether a gram is the smallest of some window. `firsts`: the first unit of each text.

    A gram is the smallest of a window if it equals the largest of the smallest values of the windows that it
    is in: none of these can be larger than it.
    """
    size = len(grams)
    if not size:
        return np.zeros(0, dtype=bool)
    most = np.uint64(2**64 - 1)
    padded = np.full(size + WINDOW, most, dtype=np.uint64)
    padded[:size] = np.where(valid, grams, most)
    smallest = _over(padded, np.minimum)[:size]
    # A window is whole, or begins at the first gram of a text that has no whole window.
    whole = np.zeros(size, dtype=bool)
    windows = max(0, size - WINDOW + 1)
    whole[:windows] = valid[:windows] & valid[WINDOW - 1 :][:windows]
    firsts = firsts[firsts < size]
    whole[firsts] |= valid[firsts]
    before = np.zeros(size + 2 * WINDOW - 1, dtype=np.uint64)
    before[WINDOW - 1 : WINDOW - 1 + size] = np.where(whole, smallest, np.uint64(0))
    return valid & (_over(before, np.maximum)[:size] == padded[:size])


def _over(values: npt.NDArray[np.uint64], function: np.ufunc) -> npt.NDArray[np.uint64]:
    """`function` over each `WINDOW` = 6 values in a row, as (2 + 2) + 2."""
    two = function(values[:-1], values[1:])
    four = function(two[:-2], two[2:])
    found: npt.NDArray[np.uint64] = function(four[: len(two) - 4], two[4:])
    return found


def pieces_of(batch: UnitBatch, ranges: RangeHashes) -> npt.NDArray[np.uint64]:
    """Hashes of the lines that ask, of these with the next line, and of where the two meet."""
    first = np.searchsorted(batch.starts, np.concatenate(([0], batch.lines[:-1])))
    last = np.searchsorted(batch.starts, batch.lines)
    marked = np.diff(np.searchsorted(batch.questions, batch.lines), prepend=0) > 0
    filled = first < last
    first, last, marked = first[filled], last[filled], marked[filled]
    labelled = np.isin(batch.hashes[first], labels()) if len(first) else np.zeros(0, dtype=bool)
    first = first + labelled
    empty = first == last  # a label alone, such as the role of a turn: it stands before the next line
    before = np.concatenate(([False], empty[:-1])) if len(empty) else empty
    named = (labelled | before)[~empty]
    asks = named | marked[~empty]
    first, last = first[~empty], last[~empty]
    sizes = last - first
    plain = ranges.plain(first, last)
    alone = asks & (sizes >= SHORTEST) & (sizes < FLOOR)
    found = [whole_piece(plain[alone], sizes[alone])]
    if len(first) > 1:
        texts = np.searchsorted(batch.documents, first, side="right")
        same, both = texts[:-1] == texts[1:], sizes[:-1] + sizes[1:]
        short = np.flatnonzero(same & asks[:-1] & (both >= SHORTEST) & (both < FLOOR))
        joint = plain[short] + ranges.powers[sizes[short]] * plain[short + 1]
        found.append(whole_piece(joint, both[short]))
        room = last[:-1] - batch.documents[texts[:-1] - 1] >= GRAM - 1
        long = np.flatnonzero(same & (asks[:-1] | named[1:]) & room)
        tail = ranges.plain(last[long] - (GRAM - 1), last[long])
        found.append(join_piece(tail, ranges.powers[GRAM - 1], batch.hashes[first[long + 1]]))
    return np.concatenate(found)


def whole_piece(plain: npt.NDArray[np.uint64], sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Hashes of whole short questions. `plain`: of their ranges of units, of `sizes` units."""
    return mixed(plain + sizes.astype(np.uint64) * _WHOLE)


def join_piece(
    tail: npt.NDArray[np.uint64], power: np.uint64, follows: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """Hashes of the last GRAM - 1 units of a question and the unit that follows."""
    return mixed(tail + power * follows + _JOIN)


@cache
def labels() -> npt.NDArray[np.uint64]:
    """Hashes of the words that stand before a question, an answer or a turn."""
    return np.sort(units_of(_LABELS).hashes)
