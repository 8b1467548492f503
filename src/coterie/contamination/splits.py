"""The items of a benchmark by what the training data holds of them."""

from __future__ import annotations

from collections.abc import Sequence

from coterie.config.errors import DataError
from coterie.results.contamination import CLASSES, ContaminationRecord, ItemClass


def split_items(ids: Sequence[str], record: ContaminationRecord) -> dict[ItemClass, list[str]]:
    """The ids of each class, in their order; every id is in exactly one of them.

    Errors: `DataError` for an id that occurs twice or that the search did not see: it would count as clean.
    """
    classes = record.classes()
    found: dict[ItemClass, list[str]] = {kind: [] for kind in CLASSES}
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise DataError(f"item '{name}' is scored twice; every item counts once")
        if name not in classes:
            raise DataError(f"item '{name}' was not looked up; run `coterie index query` on the same items")
        seen.add(name)
        found[classes[name]].append(name)
    return found
