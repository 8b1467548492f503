"""Building an index while text is packed: every document passes once, with the number of its tokens."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from coterie.config.errors import DataError
from coterie.contamination.fingerprints import GRAM, WINDOW, fingerprints
from coterie.contamination.index import (
    FORMAT,
    FREQUENT,
    ContaminationIndex,
    IndexedSource,
    IndexHeader,
    Stage,
)
from coterie.contamination.units import NORMALISATION

if TYPE_CHECKING:
    import numpy.typing as npt

_BATCH_CHARS = 1 << 19  # of text that is fingerprinted at once: its arrays fit into a processor's cache
_PENDING = 1 << 22  # fingerprints that wait before they are merged


@dataclass
class _Counted:
    """Sorted fingerprints of one source, in how many documents each is, and batches not merged yet."""

    values: list[npt.NDArray[np.uint64]] = field(default_factory=list)
    counts: list[npt.NDArray[np.uint32]] = field(default_factory=list)
    pending: int = 0

    def add(self, values: npt.NDArray[np.uint64], counts: npt.NDArray[np.uint32]) -> None:
        self.values.append(values)
        self.counts.append(counts)
        self.pending += len(values)
        if self.pending > max(_PENDING, len(self.values[0])):
            self.merged()
            self.pending = 0

    def merged(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]]:
        """One sorted array of different fingerprints, with the documents of each."""
        found = _summed(self.values, self.counts)
        self.values, self.counts = [found[0]], [found[1]]
        return found


@dataclass
class _Waiting:
    """Texts of one source that are fingerprinted together."""

    texts: list[str] = field(default_factory=list)
    chars: int = 0


class IndexBuilder:
    """Collects the documents of one stage.

    `add` takes them in the order of packing. `finish` compares the counted tokens with those that were
    packed, so an index that lacks a document cannot come to be.
    """

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.tokens = 0
        self._sources: dict[str, _Counted] = defaultdict(_Counted)
        self._waiting: dict[str, _Waiting] = defaultdict(_Waiting)
        self._pieces = _Counted()
        self._documents: list[bytes] = []
        self._seen: set[bytes] = set()
        self._table: list[tuple[int, int, int]] = []
        self._files: dict[str, int] = {}
        self._by_source: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        self._distinct: dict[str, int] = defaultdict(int)
        self._units = 0

    def add(self, text: str, tokens: int, source: str = "text", file: str = "", number: int = 0) -> None:
        """Take one document. `tokens`: those that are packed. `source`: what it is counted under.

        A document that was taken before counts its tokens again, and no fingerprint.
        """
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]
        self._documents.append(digest[:8])
        self._table.append((tokens, self._files.setdefault(file, len(self._files)), number))
        self.tokens += tokens
        counts = self._by_source[source]
        counts[0] += 1
        counts[1] += tokens
        if digest in self._seen:
            return
        self._seen.add(digest)
        self._distinct[source] += 1
        waiting = self._waiting[source]
        waiting.texts.append(text)
        waiting.chars += len(text)
        if waiting.chars >= _BATCH_CHARS:
            self._take(source)

    def _take(self, source: str) -> None:
        """Fingerprint the texts of a source that wait."""
        waiting = self._waiting.pop(source)
        found = fingerprints(waiting.texts)
        self._units += int(found.units.sum())
        order = np.argsort(found.values, kind="stable")  # owners ascend, so they do within equal values
        values, owners = found.values[order], found.owners[order]
        new = np.ones(len(values), dtype=bool)
        new[1:] = (values[1:] != values[:-1]) | (owners[1:] != owners[:-1])
        self._sources[source].add(*_run_lengths(values[new]))
        self._pieces.add(*_run_lengths(np.sort(found.pieces)))

    def finish(self, packed_tokens: int, data: str | None = None) -> ContaminationIndex:
        """The index. `packed_tokens`: counted by whoever packed. `data`: see `IndexHeader`.

        Errors: `DataError` where the counts differ.
        """
        if self.tokens != packed_tokens:
            raise DataError(
                f"the index of stage {self.stage} has {self.tokens:,} tokens and {packed_tokens:,} were "
                "packed, so it lacks text; prepare the data again"
            )
        for source in list(self._waiting):
            self._take(source)
        per_source = {name: counted.merged() for name, counted in self._sources.items()}
        arrays = _frequencies(per_source, self._distinct)
        arrays["pieces"] = self._pieces.merged()[0]
        table = np.array(self._table, dtype=np.uint32).reshape(-1, 3)
        names = ("document_tokens", "document_source", "document_number")
        arrays |= {name: np.ascontiguousarray(table[:, at]) for at, name in enumerate(names)}
        arrays["documents"] = np.frombuffer(b"".join(self._documents), dtype="<u8")
        header = IndexHeader(
            format=FORMAT,
            normalisation=NORMALISATION,
            gram=GRAM,
            window=WINDOW,
            kind="exact",
            stage=self.stage,
            documents=len(self._documents),
            distinct=len(self._seen),
            tokens=self.tokens,
            units=self._units,
            fingerprints=len(arrays["fingerprints"]),
            pieces=len(arrays["pieces"]),
            order=hashlib.sha256(b"".join(self._documents)).hexdigest(),
            data=data,
            sources={
                name: IndexedSource(documents=count, tokens=tokens)
                for name, (count, tokens) in self._by_source.items()
            },
            files=list(self._files),
        )
        return ContaminationIndex(header, arrays)


def _run_lengths(ordered: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]]:
    """Different values of a sorted array, and how often each occurs."""
    return _summed([ordered], [np.ones(len(ordered), dtype=np.uint32)], ordered=True)


def _summed(
    values: list[npt.NDArray[np.uint64]], counts: list[npt.NDArray[np.uint32]], ordered: bool = False
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]]:
    """Sorted different values, and the sum of the counts of each."""
    if not values:
        return np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.uint32)
    every, many = np.concatenate(values), np.concatenate(counts)
    if not ordered:
        order = np.argsort(every, kind="stable")  # timsort: the parts are sorted already
        every, many = every[order], many[order]
    if not len(every):
        return every, many
    first = np.flatnonzero(np.concatenate(([True], every[1:] != every[:-1])))
    return every[first], np.add.reduceat(many, first).astype(np.uint32)


def _frequencies(
    per_source: dict[str, tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]]], distinct: dict[str, int]
) -> dict[str, npt.NDArray[np.generic]]:
    """The fingerprints of all sources, and the table of those that many documents have."""
    parts = list(per_source.values())
    values, counts = _summed([part[0] for part in parts], [part[1] for part in parts])
    often = counts >= FREQUENT
    frequent = values[often]
    most, share = (np.zeros(len(frequent), dtype=kind) for kind in (np.uint32, np.float32))
    for name, (own, number) in per_source.items():
        if not len(own):
            continue
        places = np.minimum(np.searchsorted(own, frequent), len(own) - 1)
        here = np.where(own[places] == frequent, number[places], np.uint32(0))
        its = (here / distinct[name]).astype(np.float32)
        larger = its > share
        most[larger], share[larger] = here[larger], its[larger]
    return {
        "fingerprints": values,
        "frequent": frequent,
        "frequent_documents": counts[often],
        "source_documents": most,
        "source_share": share,
    }
