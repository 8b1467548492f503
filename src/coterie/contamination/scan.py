"""Known items in text that is about to be trained on: which documents hold which items, word for word.

The other direction of `coterie.contamination.query`: the items are known and the text is at hand, so what is
found is confirmed by its words, and the document that holds it can be left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from coterie.contamination.fingerprints import FLOOR, GRAM, grams_of, pieces_of
from coterie.contamination.item_units import ItemUnits
from coterie.contamination.items import QueriedItem
from coterie.contamination.sketch import in_sorted
from coterie.contamination.units import RangeHashes, UnitBatch, units_of

if TYPE_CHECKING:
    import numpy.typing as npt

_TEMPLATE_ITEMS, _TEMPLATE_SHARE = 5, 0.05  # as in `QueryRules`


@dataclass(frozen=True)
class FoundItem:
    """An item in a document. `document`: its number. `units`: in a row, from `words` on."""

    document: int
    item: str
    units: int
    words: str


@dataclass(frozen=True)
class _Place:
    """Where a gram of an item is: the words of the part, and the number of its first one."""

    item: int
    words: Sequence[str]
    at: int


class ItemScanner:
    """Finds items in documents: `least_run` units of a question, an answer or a passage in a row.

    A part of fewer units, but at least a gram, is found whole. A short item is found where its question and
    its answer stand as lines (`fingerprints.pieces_of`).
    """

    def __init__(self, items: Sequence[QueriedItem], least_run: int = FLOOR) -> None:
        self.items, self.least_run = items, least_run
        units = ItemUnits.of(items, _TEMPLATE_ITEMS, _TEMPLATE_SHARE)
        self._places: dict[int, list[_Place]] = {}
        for number, (item, parts) in enumerate(zip(items, units.items, strict=True)):
            texts = {"question": [item.question], "passage": [item.passage], "answer": list(item.answers)}
            known = {batch.hashes.tobytes(): batch.words(0, len(batch.hashes))
                     for batch in (units_of([text]) for own in texts.values() for text in own)}  # fmt: skip
            for part in parts:
                words = known.get(units.hashes[part.first : part.last].tobytes())
                if part.role == "both" or words is None:
                    continue
                for at in range(part.last - part.first):
                    if units.valid[part.first + at] and not units.template[part.first + at]:
                        gram = int(units.grams[part.first + at])
                        self._places.setdefault(gram, []).append(_Place(number, words, at))
        self._grams = np.array(sorted(self._places), dtype=np.uint64)
        self._pieces = {
            int(piece): number
            for number, where in enumerate(units.item_pieces)
            for piece in units.pieces[where]
        }

    def scan(self, texts: Sequence[str]) -> Iterator[FoundItem]:
        """The items in several texts, the longest part of each once for each text."""
        batch = units_of(texts)
        ranges = RangeHashes(batch.hashes)
        grams, valid = grams_of(ranges, batch.documents)
        where = np.flatnonzero(valid & in_sorted(self._grams, grams))
        owners = np.searchsorted(batch.documents, where, side="right") - 1
        best: dict[tuple[int, int], tuple[int, int]] = {}
        for at, document in zip(where.tolist(), owners.tolist(), strict=True):
            for place in self._places[int(grams[at])]:
                first, last = _run(batch, document, at, place)
                whole = last - first == len(place.words)
                if last - first >= self.least_run or whole:
                    key = document, place.item
                    best[key] = max(best.get(key, (0, 0)), (last - first, -first))
        for (document, item), (size, first) in sorted(best.items()):
            words = " ".join(batch.words(-first, min(-first + 12, -first + size)))
            yield FoundItem(document, self.items[item].id, size, words)
        yield from self._short(texts, pieces_of(batch, ranges))

    def _short(self, texts: Sequence[str], pieces: npt.NDArray[np.uint64]) -> Iterator[FoundItem]:
        if not self._pieces.keys() & set(pieces.tolist()):
            return
        for document, text in enumerate(texts):
            batch = units_of([text])
            for piece in dict.fromkeys(pieces_of(batch, RangeHashes(batch.hashes)).tolist()):
                if piece in self._pieces:
                    item = self.items[self._pieces[piece]]
                    size = int(units_of([f"{item.question} {item.answers[0]}"]).counts[0])
                    yield FoundItem(document, item.id, size, item.question[:80])


def _run(batch: UnitBatch, document: int, at: int, place: _Place) -> tuple[int, int]:
    """Units [first, last) of a document around a gram that are the item's words, compared as text."""
    begin, end = int(batch.documents[document]), int(batch.documents[document + 1])
    before, after = min(at - begin, place.at), min(end - at, len(place.words) - place.at)
    own = batch.words(at - before, at + after)
    its = place.words[place.at - before : place.at + after]
    if own[before : before + GRAM] != list(its[before : before + GRAM]):
        return at, at  # two grams with one hash
    first, last = before, before + GRAM
    while first > 0 and own[first - 1] == its[first - 1]:
        first -= 1
    while last < len(own) and own[last] == its[last]:
        last += 1
    return at - before + first, at - before + last


def scan_all(scanner: ItemScanner, texts: Iterable[str], size: int = 256) -> Iterator[FoundItem]:
    """`scanner.scan` of any number of texts, a batch at a time, with the numbers of all of them."""
    batch: list[str] = []
    start = 0
    for text in texts:
        batch.append(text)
        if len(batch) == size:
            yield from _numbered(scanner, batch, start)
            batch, start = [], start + size
    yield from _numbered(scanner, batch, start)


def _numbered(scanner: ItemScanner, batch: Sequence[str], start: int) -> Iterator[FoundItem]:
    for one in scanner.scan(batch) if batch else ():
        yield FoundItem(start + one.document, one.item, one.units, one.words)
