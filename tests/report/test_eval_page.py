"""The page of an evaluation: flags above scores, numbers that lead to items, nothing from the network."""

from __future__ import annotations

import base64
import gzip
import json
import re

import pytest

from coterie.report.eval_page import render_evaluation
from coterie.results.evaluation import (
    DetectorFinding,
    EvalReport,
    ExecProfile,
    ExtractionFacts,
    ItemRecord,
    ModelIdentity,
    PromptFacts,
    SamplesFile,
    TaskResult,
    TaskScore,
    Waiver,
)
from coterie.results.intervals import Estimate

RECORDS = [
    ItemRecord(
        task="sums & more", id=f"i{n}", digest="sha256:1", cluster=f"c{n}", prompt="sha256:2",
        reply="</script><b>" if n else "x" * 5000, score=float(n % 2), right=bool(n % 2),
    )
    for n in range(7)
]  # fmt: skip


def report(known: bool = True, **changed: object) -> EvalReport:
    task = TaskResult(
        id="sums & more", version="1", mode="reply", items="sha256:3", n=7, cluster_key="item",
        prompt=PromptFacts(form="chat", template="sha256:4", extractor="sha256:5"),
        score=TaskScore(
            value=3 / 7, low=0.2, high=0.7, metric="accuracy", method="wilson", clusters=7, mde80=0.3
        ),
        groups={"odd": Estimate(value=1, low=0.5, high=1)},
        detectors=[DetectorFinding(id="D9", flag=True, says="a lenient reading gives +9.0 points")],
        extraction=ExtractionFacts(unparsed=1, truncated=0, failed=0, gap=0.09),
        samples=SamplesFile(path="samples/x.jsonl", rows=7, merkle_root="sha256:6"),
    )  # fmt: skip
    given = {
        "created": "2026-01-01T00:00:00Z",
        "subject": ModelIdentity(name="<i>tiny</i>", weights_tensors="sha256:7" if known else None),
        "exec_profile": ExecProfile(engine="coterie", version="1", dtype="float32"),
        "seeds": {}, "tasks": [task], "flags": ["sums & more:D9"], "verdict": "WARN",
    }  # fmt: skip
    return EvalReport.from_dict(given | changed)


def test_flags_stand_above_scores_and_numbers_lead_to_items() -> None:
    page = render_evaluation(report(), {"sums & more": RECORDS})
    assert page.index("a lenient reading gives +9.0 points") < page.index("<h2>Scores</h2>")
    assert '<a href="#items?task=sums%20%26%20more">42.9 % (20.0 to 70.0)</a>' in page
    assert "#items?task=sums%20%26%20more&amp;kind=unparsed" in page and "30.0 points" in page
    assert "100.0 % (50.0 to 100.0)" in page and "&lt;i&gt;tiny" in page


def test_the_page_needs_nothing_else_and_hides_nothing_in_replies() -> None:
    page = render_evaluation(report(), {"sums & more": RECORDS})
    assert not re.search(r"(src|href)=.?https?:", page) and "<b>" not in page
    packed = json.loads(re.search(r'id="packed-items">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    rows = json.loads(gzip.decompress(base64.b64decode(packed[0]["data"])))
    assert [row["id"] for row in rows] == [record.id for record in RECORDS]
    assert rows[1]["reply"] == "</script><b>" and len(rows[0]["reply"]) < 2100 and "prompt" not in rows[0]


def test_scores_of_unknown_weights_say_so() -> None:
    assert "tied to a name only" in render_evaluation(report(known=False), {})
    assert "tied to a name only" not in render_evaluation(report(), {})


def test_waivers_are_printed() -> None:
    waiver = Waiver(flag="sums & more:D9", reason="known", by="sha256:8")
    assert "waived: known" in render_evaluation(report(waivers=[waiver.to_dict()]), {})


@pytest.mark.parametrize("low", [True, False])
def test_costs_are_no_shares(low: bool) -> None:
    task = report().tasks[0]
    score = TaskScore(
        value=1.25, low=1.2, high=1.3, metric="bits", method="t", clusters=7, lower_is_better=low
    )
    page = render_evaluation(report(tasks=[task.model_copy(update={"score": score}).to_dict()]), {})
    assert ("1.2500 (1.2000 to 1.3000)" in page) is low
