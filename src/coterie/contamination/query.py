"""Items against indexes: which are in the training data, which are not, and of which nothing can be said.

Every gram of an item is looked up; one that is found is enough (n = 8, mincount 1; ConTAM, arXiv 2411.03923),
and the longest run of found ones is reported. Two kinds of text are left out, because they would flag items
that nobody trained on: grams that many documents have (of the whole stage, or of one source), and grams that
many items of the file share, which are its template.

An item is clean only if it could have been found in every index: its question, its answer or its passage has
`FLOOR` units in a row that are neither common nor template. Shorter items are looked up whole, question with
answer; what is not found is `unscannable`, and so is every item if a stage has no index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from coterie.config.base import Settings
from coterie.contamination.fingerprints import FLOOR, GRAM, WINDOW
from coterie.contamination.index import ContaminationIndex, false_finds_bound
from coterie.contamination.item_units import ItemUnits, Part
from coterie.contamination.items import QueriedItem
from coterie.results.contamination import ContaminationRecord, HitLabel, IndexFacts, ItemFinding

if TYPE_CHECKING:
    import numpy.typing as npt

_CHANCE = 1e-6  # that a clean item is called contaminated because of a sketch's false finds


class QueryRules(Settings):
    """When an item counts as found.

    `least_run`: units in a row. A gram is common if more than `common_documents` documents and a share of
    `common_share` of all have it, or the same of one source with `source_share`. It is template if more than
    `template_items` items and a share of `template_share` of all have it. `partial`: stages without an index
    do not make items unscannable; "clean" then speaks of the other stages only.
    """

    least_run: int = Field(GRAM, ge=GRAM)
    common_documents: int = Field(20, ge=1)
    common_share: float = Field(0.001, ge=0, le=1)
    source_share: float = Field(0.01, ge=0, le=1)
    template_items: int = Field(5, ge=1)
    template_share: float = Field(0.05, ge=0, le=1)
    partial: bool = False


@dataclass(frozen=True)
class _Seen:
    """What one index says of one item. `doubt`: why it can neither be called found nor clean."""

    label: HitLabel | None
    run: int
    overlap: float
    doubt: str = ""


def query(
    items: Sequence[QueriedItem],
    digest: str,
    indexes: Sequence[tuple[IndexFacts, ContaminationIndex | None]],
    rules: QueryRules | None = None,
) -> ContaminationRecord:
    """The class of every item.

    `digest`: SHA-256 of the items' file. `indexes`: of every stage; None where it has none.
    """
    rules = rules or QueryRules()
    units = ItemUnits.of(items, rules.template_items, rules.template_share)
    seen = [(facts, _Lookup(index, units, rules).items()) for facts, index in indexes if index is not None]
    missing = [] if rules.partial else [facts.stage for facts, index in indexes if index is None]
    findings = [
        _finding(item.id, [(facts.stage, found[at]) for facts, found in seen], missing)
        for at, item in enumerate(items)
    ]
    return ContaminationRecord(items=digest, indexes=[facts for facts, _ in indexes], findings=findings)


def _finding(name: str, seen: Sequence[tuple[str, _Seen]], missing: Sequence[str]) -> ItemFinding:
    """One item over all indexes. The label is the gravest of all stages."""
    hits = [(stage, one) for stage, one in seen if one.label is not None]
    if hits:
        grave: tuple[HitLabel, ...] = ("question+answer", "question_only", "passage_only")
        label = min((one.label for _, one in hits if one.label is not None), key=grave.index)
        run = max(one.run for _, one in hits)
        return ItemFinding(
            id=name,
            kind="contaminated",
            label=label,
            longest_run=run,
            overlap=max(one.overlap for _, one in hits),
            stages=list(dict.fromkeys(stage for stage, _ in hits)),
            why=f"{run} units in a row are in the training data",
        )
    overlap = max((one.overlap for _, one in seen), default=0.0)
    doubt = next((f"{one.doubt} (stage {stage})" for stage, one in seen if one.doubt), "")
    if missing or not seen:
        doubt = f"stage {missing[0]} has no index" if missing else "there is no index"
    if doubt:
        return ItemFinding(id=name, kind="unscannable", overlap=overlap, why=doubt)
    return ItemFinding(id=name, kind="clean", why=f"no index has {GRAM} of its units in a row")


class _Lookup:
    """All items in one index."""

    def __init__(self, index: ContaminationIndex, units: ItemUnits, rules: QueryRules) -> None:
        self.index, self.units, self.rules = index, units, rules
        self.sketch = index.header.kind == "sketch"
        # A sketch is asked for the smallest of each window only: every other gram is a try to err.
        asked = units.valid & (units.smallest if self.sketch else True)
        self.found = np.zeros(len(asked), dtype=bool)
        self.found[asked] = index.has(units.grams[asked])
        often = index.frequency(units.grams)
        header = index.header
        common = (often.documents > max(rules.common_documents, rules.common_share * header.distinct)) | (
            (often.source_documents > rules.common_documents) & (often.source_share > rules.source_share)
        )
        shared = (common | units.template) & units.valid
        self.alive = units.valid & ~_widened(shared)
        self.hits = self.found & self.alive
        self.tried = asked & self.alive
        self.weights = np.log((header.distinct + 1) / often.documents)
        self.pieces = index.has_piece(units.pieces)
        self.joins = index.has_piece(units.joins) & ~units.join_template

    def items(self) -> list[_Seen]:
        """What the index says of each item."""
        return [self._item(at) for at in range(len(self.units.items))]

    def _item(self, at: int) -> _Seen:
        units = self.units
        parts = units.items[at]
        looked = [part for part in parts if part.role != "both"]
        runs = {part.role: 0 for part in looked}
        for part in looked:
            runs[part.role] = max(runs[part.role], self._run(part))
        follows = any(self.hits[part.boundary].any() for part in parts if part.role == "both")
        follows |= bool(self.joins[units.item_joins[at]].any())
        whole = units.item_pieces[at]
        if self.pieces[whole].any():
            return _Seen("question+answer", int(units.piece_units[whole][self.pieces[whole]].max()), 1.0)
        overlap = self._overlap(looked)
        run = max(runs.values(), default=0)
        if run >= self.rules.least_run:
            if self.sketch and (doubt := self._doubt(looked)):
                return _Seen(None, run, overlap, doubt)
            asked = runs.get("question", 0) >= self.rules.least_run
            answered = runs.get("answer", 0) >= self.rules.least_run or (asked and follows)
            label: HitLabel = "question+answer" if answered else "question_only" if asked else "passage_only"
            return _Seen(label, run, overlap)
        return _Seen(None, run, overlap, self._blind(looked))

    def _run(self, part: Part) -> int:
        """Units of the longest run of found grams; between two fingerprints of one text are few others."""
        places = np.flatnonzero(self.hits[part.first : part.last])
        if not len(places):
            return 0
        breaks = np.flatnonzero(np.diff(places) > WINDOW) + 1
        edges = [0, *breaks.tolist(), len(places)]
        return max(int(places[last - 1] - places[first]) + GRAM for first, last in pairwise(edges))

    def _overlap(self, parts: Sequence[Part]) -> float:
        """The share of the parts' fingerprints that is found, each with its weight."""
        found = every = 0.0
        for part in parts:
            where = np.flatnonzero(
                self.units.smallest[part.first : part.last] & self.alive[part.first : part.last]
            )
            weights = self.weights[where + part.first]
            every += float(weights.sum())
            found += float(weights[self.hits[where + part.first]].sum())
        return min(1.0, found / every) if every > 0 else 0.0

    def _doubt(self, parts: Sequence[Part]) -> str:
        """Why what was found in a sketch may be chance; empty if it hardly can."""
        tried = sum(int(self.tried[part.first : part.last].sum()) for part in parts)
        found = sum(int(self.hits[part.first : part.last].sum()) for part in parts)
        rate = self.index.header.rate
        if false_finds_bound(tried, rate, found) <= _CHANCE:
            return ""
        return f"{found} of {tried} fingerprints are in a sketch that finds {rate:g} of others by chance"

    def _blind(self, parts: Sequence[Part]) -> str:
        """Why the item could be in the text without being found; empty if it could not."""
        longest = max((part.last - part.first for part in parts), default=0)
        if longest < FLOOR:
            return f"its longest part has {longest} units, of which {FLOOR} are needed"
        if any(_has_window(self.alive[part.first : part.last]) for part in parts):
            return ""
        return f"no {FLOOR} of its units in a row are free of text that many documents or items share"


def _widened(common: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Common or template grams and those less than a window away.

    At the edges of a common passage, the text around it decides which gram is kept, so these have fewer
    documents than the passage. A gram of one word and seven of an instruction says nothing about an item.
    """
    found = common.copy()
    for by in range(1, WINDOW):
        found[by:] |= common[:-by]
        found[:-by] |= common[by:]
    return found


def _has_window(alive: npt.NDArray[np.bool_]) -> bool:
    """Whether `WINDOW` grams in a row are alive."""
    if len(alive) < WINDOW:
        return False
    sums = np.concatenate(([0], np.cumsum(alive)))
    return bool((sums[WINDOW:] - sums[:-WINDOW] == WINDOW).any())
