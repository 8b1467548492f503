"""What a paired difference shows: interval, corrected test and number of items have to agree."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.results.intervals import Estimate
from coterie.results.paired import PairedDifference

FIELDS: dict[str, Any] = {
    "first": 0.5, "second": 0.7, "difference": Estimate(value=0.2, low=0.1, high=0.3), "p": 0.001, "test": "",
    "items": 50, "clusters": 50, "gained": 12, "lost": 2, "mde80": 0.1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "better"),
    [
        ({}, "second"),
        ({"lower_is_better": True}, "first"),
        ({"difference": Estimate(value=-0.2, low=-0.3, high=-0.1)}, "first"),
        ({"difference": Estimate(value=-0.2, low=-0.3, high=-0.1), "lower_is_better": True}, "second"),
        ({"p_holm": 0.06}, None),
        ({"p": 0.2}, None),
        ({"difference": Estimate(value=0.2, low=-0.1, high=0.5)}, None),
        ({"clusters": 7}, None),
    ],
)
def test_better(changes: dict[str, Any], better: str | None) -> None:
    found = PairedDifference(**FIELDS | changes)
    assert found.better == better
    if "clusters" in changes:
        assert found.why_not == "7 are too few for a verdict"


def test_words_have_the_unit_of_the_scores() -> None:
    said = PairedDifference(**FIELDS).words()
    assert said.startswith("50.0% -> 70.0% (+20.0%, +10.0% to +30.0%; 12 gained, 2 lost of 50")
    cost = PairedDifference(**FIELDS | {"lower_is_better": True})
    assert cost.words().startswith("0.5000 -> 0.7000 bits per byte (+0.2000")
    assert cost.why_not == "less than 0.1000 may be there"
