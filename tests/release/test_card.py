"""The card: every number comes from the report, flags and waivers stand with the scores, text stays text."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from coterie.release.card import CardFacts, headline, render_card, rendered_by
from coterie.results.evaluation import EvalReport
from tests.release.reports import report, task

KEY = "sha256:" + "a" * 64
SPLITS: dict[str, Any] = {
    "clean": {"items": 90, "value": 0.512, "low": 0.41, "high": 0.61},
    "contaminated": {"items": 10, "value": 0.97, "low": 0.7, "high": 1.0},
    "unscannable": {"items": 0},
    "clean_minus_all": {"value": -0.1, "low": -0.13, "high": -0.05},
    "coverage": 1.0,
}
SEEN = {"id": "D1", "flag": True, "says": "a tenth of the items is in the training data"}


def flagged() -> EvalReport:
    tasks = task("arithmetic", 0.613, 0.55, 0.67, splits=SPLITS, detectors=[SEEN]), task("lists", 0.25)
    waiver = {"flag": "lists:D9", "reason": "the extractor is | known\nto be strict", "by": KEY}
    return report(*tasks, flags=["arithmetic:D1", "lists:D9"], verdict="REFUSE", waivers=[waiver])


def card(found: EvalReport, **more: Any) -> str:
    return render_card(CardFacts(found, more.pop("name", "tiny"), "apache-2.0", "LICENSE", KEY, **more))


def rows(text: str, first: str) -> list[list[str]]:
    """The rows of all tables whose first cell is `first`."""
    found = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in found]


def test_flags_stand_above_the_scores_and_in_their_rows() -> None:
    text = card(flagged())
    assert text.index("REFUSE") < text.index("arithmetic:D1: a tenth of") < text.index("## Scores")
    assert rows(text, "arithmetic 1")[0][-1] == "D1" and rows(text, "lists 1")[0][-1] == "D9"
    waived = next(line for line in text.splitlines() if "lists:D9" in line and "strict" in line)
    assert "is \\| known to be strict" in waived and text.index(waived) < text.index("## Scores")


def test_the_clean_score_stands_first_where_the_report_says_so() -> None:
    found = flagged()
    assert headline(found.tasks[0]).value == 0.512 and headline(found.tasks[1]).value == 0.25
    assert "**0.512** over clean items (all items: 0.613)" in rows(card(found), "arithmetic 1")[0]
    few = SPLITS | {"clean_minus_all": {"value": 0.0, "low": -0.1, "high": 0.1}}
    few |= {"clean": SPLITS["clean"] | {"items": 960}}
    assert headline(task("arithmetic", 0.613, 0.55, 0.67, splits=few)).of == "all items"


def test_the_hub_reads_the_metadata_with_the_flags() -> None:
    text = card(flagged(), routed=True, manifest={"parent": "owner/base@0123456789"})
    metadata = ModelCard(text).data
    assert metadata.license == "apache-2.0" and metadata.base_model == "owner/base" and "moe" in metadata.tags
    found = {one.dataset_name: one for one in metadata.eval_results or []}
    assert found["arithmetic"].metric_value == 0.512 and "[D1]" in (found["arithmetic"].metric_name or "")
    assert found["lists"].metric_value == 0.25 and "[D9]" in (found["lists"].metric_name or "")


def test_every_score_of_the_card_is_in_the_report() -> None:
    text = card(flagged())
    allowed = {0.613, 0.55, 0.67, 0.512, 0.41, 0.61, 0.97, 0.7, 1.0, -0.1, -0.13, -0.05, 0.25}
    body = re.sub(r"`[^`]*`|coterie 0\.1\.0|apache-2\.0", "", text)
    printed = {float(one) for one in re.findall(r"(?<![\w.])[-+]?\d+\.\d+(?![\w%])", body)}
    assert printed and printed <= allowed


def test_text_of_the_report_cannot_write_tags_cells_or_metadata() -> None:
    name = "x | <img src=a>\n---\nlicense: mit"
    text = card(report(task("a", 0.5)), name=name)
    assert "<img" not in text.partition("---\n<!--")[2] and len(re.findall("(?m)^---$", text)) == 2
    front = yaml.safe_load(re.split("(?m)^---$", text)[1])
    assert (
        front["license"] == "apache-2.0"
        and front["model-index"][0]["name"] == "x | <img src=a> --- license: mit"
    )


def test_missing_parts_are_said_and_not_left_out() -> None:
    text = card(report(task("a", 0.5)))
    assert "Not measured." in text and "states nothing about the training data" in text
    assert "same reply in every batch | not measured" in text


@pytest.mark.parametrize(("text", "expected"), [("# A model", None), (None, "0.1.0")])
def test_a_card_says_what_rendered_it(text: str | None, expected: str | None) -> None:
    assert rendered_by(card(flagged()) if text is None else text) == expected
