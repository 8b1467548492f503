"""Which score stands first, and what must be said above it."""

from __future__ import annotations

import pytest

from coterie.results.contamination import ContaminationRecord, ContaminationSplit, ItemFinding, SplitPart
from coterie.results.intervals import Estimate


def split(clean: int, contaminated: int, unscannable: int = 0, delta: Estimate | None = None):
    return ContaminationSplit(
        clean=SplitPart(items=clean),
        contaminated=SplitPart(items=contaminated),
        unscannable=SplitPart(items=unscannable),
        delta=delta,
    )


@pytest.mark.parametrize(
    ("contaminated", "headline", "flagged"),
    [(0, "all", False), (1, "all", False), (2, "all", True), (5, "all", True), (6, "clean", True)],
)
def test_the_share_of_contaminated_items_chooses_the_headline(contaminated, headline, flagged):
    found = split(90 - contaminated, contaminated, 10)
    assert (found.headline, found.flag is not None) == (headline, flagged)


def test_a_certain_difference_makes_the_clean_score_the_headline():
    lower = Estimate(value=-0.04, low=-0.06, high=-0.01)
    either = Estimate(value=-0.01, low=-0.03, high=0.01)
    assert split(99, 1, delta=lower).headline == "clean"
    assert split(99, 1, delta=either).headline == "all"


def test_a_record_survives_json():
    finding = ItemFinding(id="a", kind="contaminated", label="question_only", longest_run=13, stages=["tune"])
    record = ContaminationRecord(items="0" * 64, indexes=[], findings=[finding])
    assert ContaminationRecord.from_dict(record.to_dict()) == record
    assert record.words() == "1 items: 0 clean, 1 contaminated, 0 unscannable; coverage 100.0%"


def test_a_split_of_nothing_is_refused():
    with pytest.raises(ValueError, match="says nothing"):
        split(0, 0)
