"""Every item is in one class, and none that was not looked up."""

from __future__ import annotations

import pytest

from coterie.config.errors import DataError
from coterie.contamination.splits import split_items
from coterie.results.contamination import ContaminationRecord, ItemClass, ItemFinding


def record(**classes: ItemClass) -> ContaminationRecord:
    findings = [ItemFinding(id=name, kind=kind) for name, kind in classes.items()]
    return ContaminationRecord(items="0" * 64, indexes=[], findings=findings)


def test_unscannable_items_are_never_clean():
    found = record(a="clean", b="unscannable", c="contaminated", d="clean")
    assert split_items(["d", "c", "b", "a"], found) == {
        "clean": ["d", "a"],
        "contaminated": ["c"],
        "unscannable": ["b"],
    }
    assert found.coverage == 0.75


def test_an_item_that_was_not_looked_up_is_an_error():
    with pytest.raises(DataError, match="'x' was not looked up"):
        split_items(["a", "x"], record(a="clean"))


def test_a_repeated_item_is_an_error():
    with pytest.raises(DataError, match="'a' is scored twice"):
        split_items(["a", "a"], record(a="clean"))
