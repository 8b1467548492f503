"""D9: gaps between readings, replies without an answer, items without a score."""

from __future__ import annotations

import pytest

from coterie.benchmarks.item import ItemReply
from coterie.evaluate.detectors.extraction import extraction_finding, failed_finding
from coterie.results.evaluation import ExtractionFacts, TaskResult
from tests.evaluate.test_scoring import OPTIONS, Letters, score_benchmark, subject


def result(**facts: object) -> TaskResult:
    found = score_benchmark(subject(), Letters(), OPTIONS).result
    given = {"unparsed": 0, "truncated": 0, "failed": 0, "gap": 0.0} | facts
    samples = found.samples.model_copy(update={"rows": 100})
    return found.model_copy(update={"extraction": ExtractionFacts.from_dict(given), "samples": samples})


@pytest.mark.parametrize(
    ("facts", "flag"),
    [
        ({}, False), ({"gap": 0.029}, False), ({"gap": 0.031}, True), ({"gap": -0.05}, True),
        ({"unparsed": 2}, False), ({"unparsed": 3}, True), ({"truncated": 50}, False), ({"gap": None}, False),
    ],
)  # fmt: skip
def test_the_thresholds(facts: dict[str, object], flag: bool) -> None:
    found = extraction_finding(result(**facts))
    assert found.id == "D9" and found.flag is flag and found.says


def test_items_without_a_score_are_flagged() -> None:
    assert failed_finding(result()) is None
    found = failed_finding(result(failed=7))
    assert found is not None and found.flag and "7 of 100" in found.says
    assert ItemReply().failed == ""
