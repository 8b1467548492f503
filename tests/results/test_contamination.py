"""What a search of the training data found."""

from __future__ import annotations

from coterie.results.contamination import ContaminationRecord, ItemFinding


def test_a_record_survives_json() -> None:
    finding = ItemFinding(id="a", kind="contaminated", label="question_only", longest_run=13, stages=["tune"])
    record = ContaminationRecord(items="0" * 64, indexes=[], findings=[finding])
    assert ContaminationRecord.from_dict(record.to_dict()) == record
    assert record.words() == "1 items: 0 clean, 1 contaminated, 0 unscannable; coverage 100.0%"
