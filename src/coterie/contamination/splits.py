"""The items of a benchmark by what the training data holds of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from coterie.config.errors import DataError
from coterie.results.contamination import CLASSES, ContaminationRecord, ItemClass


def split_items(ids: Sequence[str], record: ContaminationRecord) -> dict[ItemClass, list[str]]:
    """The ids of each class, in their order; every id is in exactly one of them.

    Errors: `DataError` for an id that occurs twice or that the search did not see: it would count as clean.
    """
    classes = record.classes()
    unknown = [name for name in ids if name not in classes]
    if unknown:
        raise DataError(f"item '{unknown[0]}' was not looked up; run `coterie index query` on the same items")
    often, count = Counter(ids).most_common(1)[0] if ids else ("", 0)
    if count > 1:
        raise DataError(f"item '{often}' is scored twice; every item counts once")
    return {kind: [name for name in ids if classes[name] == kind] for kind in CLASSES}
