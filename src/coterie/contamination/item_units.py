"""All items of a file as arrays: their grams, and the hashes of those that are too short for grams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from coterie.contamination.fingerprints import (
    FLOOR,
    GRAM,
    SHORTEST,
    grams_of,
    join_piece,
    labels,
    whole_piece,
    winnowed,
)
from coterie.contamination.items import QueriedItem
from coterie.contamination.units import RangeHashes, units_of

if TYPE_CHECKING:
    import numpy.typing as npt

_BATCH_CHARS = 1 << 20
Role = Literal["question", "answer", "passage", "both"]


@dataclass(frozen=True)
class Part:
    """Units [first, last) of one text of an item. `split`: where the answer begins, in "both"."""

    role: Role
    first: int
    last: int
    split: int = 0

    @property
    def boundary(self) -> slice:
        """The grams that hold units of the question and of the answer."""
        return slice(max(self.first, self.split - GRAM + 1), self.split)


@dataclass(frozen=True)
class ItemUnits:
    """The units of all items. Arrays of (n,) have one entry for each unit, where a gram begins.

    `hashes`: of the units; `valid`: whether a gram begins there; `smallest`: whether it is the smallest of a
    window; `template`: whether many items share it. `items`: the parts of each. `pieces` (p,): hashes of
    short items with their answers, of `piece_units`; `joins` (j,): of the end of a question and the beginning
    of its answer; which of them belong to each item is in `item_pieces` and `item_joins`.
    """

    items: list[list[Part]]
    hashes: npt.NDArray[np.uint64]
    grams: npt.NDArray[np.uint64]
    valid: npt.NDArray[np.bool_]
    smallest: npt.NDArray[np.bool_]
    template: npt.NDArray[np.bool_]
    pieces: npt.NDArray[np.uint64]
    piece_units: npt.NDArray[np.int64]
    joins: npt.NDArray[np.uint64]
    join_template: npt.NDArray[np.bool_]
    item_pieces: list[slice]
    item_joins: list[slice]

    @staticmethod
    def of(items: Sequence[QueriedItem], template_items: int, template_share: float) -> ItemUnits:
        """Of `items`. What more than `template_items` and `template_share` of them share is template."""
        named = [(at, role, text, head) for at, item in enumerate(items) for role, text, head in _texts(item)]
        hashes, documents = _hashes([text for _, _, text, _ in named])
        heads = np.diff(_hashes([head for _, _, _, head in named])[1])
        ranges = RangeHashes(hashes)
        grams, valid = grams_of(ranges, documents)
        parts: list[list[Part]] = [[] for _ in items]
        for number, (at, role, _, _) in enumerate(named):
            first, last = int(documents[number]), int(documents[number + 1])
            parts[at].append(Part(role, first, last, first + int(heads[number])))
        parts = [_without_quoted(own, hashes) for own in parts]
        limit = max(template_items, template_share * len(items))
        owners = np.repeat(np.array([at for at, *_ in named], dtype=np.int64), np.diff(documents))
        # A passage that several questions share is no template, so equal texts count once.
        once = _first_of_each([text for _, _, text, _ in named])
        once &= np.array([role != "both" for _, role, _, _ in named], dtype=np.bool_)
        new = np.repeat(once, np.diff(documents))
        short = _short(parts, hashes, ranges)
        joins, join_slices, join_owners = _joins(parts, hashes, ranges)
        return ItemUnits(
            items=parts,
            hashes=hashes,
            grams=grams,
            valid=valid,
            smallest=winnowed(grams, valid, documents[:-1]),
            template=valid & _shared(grams, owners, valid & new, limit),
            pieces=short[0],
            piece_units=short[1],
            joins=joins,
            join_template=_shared(joins, join_owners, np.ones(len(joins), dtype=bool), limit),
            item_pieces=short[2],
            item_joins=join_slices,
        )


def _texts(item: QueriedItem) -> Iterator[tuple[Role, str, str]]:
    """(role, text, beginning that is the question) of each part that is looked up."""
    yield "question", item.question, ""
    if item.passage:
        yield "passage", item.passage, ""
    for answer in item.answers:
        yield "answer", answer, ""
        for head in dict.fromkeys((item.question, item.asked)):
            yield "both", f"{head}\n{answer}", head


def _hashes(texts: Sequence[str]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """The unit hashes of many texts, and the first unit of each, then the number of all."""
    hashes, counts = [np.zeros(0, dtype=np.uint64)], [np.zeros(1, dtype=np.int64)]
    batch: list[str] = []
    size = 0
    for number, text in enumerate(texts, 1):
        batch.append(text)
        size += len(text)
        if size >= _BATCH_CHARS or number == len(texts):
            found = units_of(batch)
            hashes.append(found.hashes)
            counts.append(found.counts)
            batch, size = [], 0
    return np.concatenate(hashes), np.cumsum(np.concatenate(counts))


def _first_of_each(texts: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Whether a text has not occurred before."""
    first = {text: at for at, text in reversed(list(enumerate(texts)))}
    return np.array([first[text] == at for at, text in enumerate(texts)], dtype=np.bool_)


def _without_quoted(parts: list[Part], hashes: npt.NDArray[np.uint64]) -> list[Part]:
    """Without answers that the passage or the question holds: these are found where only that is known."""
    others = [
        hashes[part.first : part.last].tobytes() for part in parts if part.role in ("passage", "question")
    ]
    return [
        part
        for part in parts
        if part.role != "answer"
        or not any(_inside(hashes[part.first : part.last].tobytes(), other) for other in others)
    ]


def _inside(needle: bytes, hay: bytes) -> bool:
    """Whether units, 8 bytes each, occur in others."""
    at = hay.find(needle)
    while at >= 0 and at % 8:
        at = hay.find(needle, at + 1)
    return at >= 0


def _short(
    parts: Sequence[Sequence[Part]], hashes: npt.NDArray[np.uint64], ranges: RangeHashes
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64], list[slice]]:
    """Hashes of whole questions with answers of fewer than `FLOOR` units, their units, and whose they are."""
    first: list[int] = []
    last: list[int] = []
    slices = []
    for own in parts:
        begin = len(first)
        for part in own:
            start = _unlabelled(part, hashes)
            if part.role == "both" and start < part.split and SHORTEST <= part.last - start < FLOOR:
                first.append(start)
                last.append(part.last)
        slices.append(slice(begin, len(first)))
    begins, ends = np.array(first, dtype=np.int64), np.array(last, dtype=np.int64)
    return whole_piece(ranges.plain(begins, ends), ends - begins), ends - begins, slices


def _unlabelled(part: Part, hashes: npt.NDArray[np.uint64]) -> int:
    """Where a part begins behind a label such as "Question:"."""
    return part.first + int(part.first < part.last and hashes[part.first] in labels())


def _joins(
    parts: Sequence[Sequence[Part]], hashes: npt.NDArray[np.uint64], ranges: RangeHashes
) -> tuple[npt.NDArray[np.uint64], list[slice], npt.NDArray[np.int64]]:
    """Hashes of the end of each question with the beginning of each answer, and whose they are."""
    splits: list[int] = []
    owners: list[int] = []
    slices = []
    for at, own in enumerate(parts):
        begin = len(splits)
        for part in own:
            if part.role == "both" and part.first + GRAM - 1 <= part.split < part.last:
                splits.append(part.split)
                owners.append(at)
        slices.append(slice(begin, len(splits)))
    ends = np.array(splits, dtype=np.int64)
    tails = ranges.plain(ends - (GRAM - 1), ends)
    found = join_piece(tails, ranges.powers[GRAM - 1], hashes[ends])
    return found, slices, np.array(owners, dtype=np.int64)


def _shared(
    values: npt.NDArray[np.uint64],
    owners: npt.NDArray[np.int64],
    counted: npt.NDArray[np.bool_],
    limit: float,
) -> npt.NDArray[np.bool_]:
    """(n,) whether more than `limit` owners have a value, among those that are counted."""
    where = np.flatnonzero(counted)
    order = where[np.lexsort((owners[where], values[where]))]
    ordered, own = values[order], owners[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (ordered[1:] != ordered[:-1]) | (own[1:] != own[:-1])
    different, count = np.unique(ordered[new], return_counts=True)
    return np.isin(values, different[count > limit])
