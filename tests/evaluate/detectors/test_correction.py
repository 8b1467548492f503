"""Tests are corrected over the whole report; rules are not; a learnt canary refuses."""

from __future__ import annotations

from coterie.evaluate.detectors.correction import corrected, flags_of, ruling
from coterie.results.evaluation import (
    DetectorFinding,
    ExtractionFacts,
    PromptFacts,
    SamplesFile,
    TaskResult,
    TaskScore,
)


def task(name: str, *found: DetectorFinding) -> TaskResult:
    return TaskResult(
        id=name, version="1", mode="reply", items="sha256:3", n=7, cluster_key="item",
        prompt=PromptFacts(form="chat", template="sha256:4", extractor="sha256:5"),
        score=TaskScore(value=0.5, low=0.2, high=0.7, metric="accuracy", method="wilson", clusters=7),
        detectors=list(found), extraction=ExtractionFacts(unparsed=0, truncated=0, failed=0),
        samples=SamplesFile(path="", rows=7, merkle_root="sha256:6"),
    )  # fmt: skip


def probed(id: str, p: float) -> DetectorFinding:
    return DetectorFinding(id=id, p=p, flag=False, says="a test")


def rule(flag: bool) -> DetectorFinding:
    return DetectorFinding(id="D9", flag=flag, says="a rule")


def test_the_correction_spans_the_tasks() -> None:
    alone = corrected([task("a", probed("D2", 0.006))])
    assert flags_of(alone) == ["a:D2"] and alone[0].detectors[0].p_holm == 0.006
    both = corrected([task("a", probed("D2", 0.006), rule(False)), task("b", probed("D3", 0.4))])
    assert flags_of(both) == [] and ruling(both) == "PASS"
    assert [one.p_holm for one in both[0].detectors] == [0.012, None]
    assert both[1].detectors[0].p_holm == 0.4 and both[0].detectors[0].p == 0.006


def test_rules_keep_their_flags() -> None:
    found = corrected([task("a", rule(True), probed("D2", 0.5)), task("b", rule(False))])
    assert flags_of(found) == ["a:D9"] and ruling(found) == "WARN"
    assert ruling([]) == "PASS"


def test_a_learnt_canary_refuses() -> None:
    found = corrected([task("a", probed("D7", 1e-4), probed("D2", 0.5))])
    assert flags_of(found) == ["a:D7"] and ruling(found) == "REFUSE"
    assert ruling(corrected([task("a", probed("D7", 0.3))])) == "PASS"
