"""Benchmark numbers in prose: what the report holds may stay, everything else is named with its line."""

from __future__ import annotations

import pytest

from coterie.release.numbers import stray_numbers
from tests.release.reports import report, task


def strays(text: str) -> list[str]:
    found = stray_numbers(text, report(task("arithmetic", 0.613, 0.586, 0.640), task("word_problems", 0.25)))
    return [f"{stray.line} {stray.number}" for stray in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It reaches 85.2 % on MMLU.", ["1 85.2 %"]),
        ("It reaches 85 on GSM8K.", ["1 85"]),
        ("# Model\n\nFirst.\n\nGSM8K is easy.\nIts accuracy: 0.9", ["6 0.9"]),
        ("We tried MMLU. The model gets 71.5% there.", ["1 71.5%"]),
        ("## MMLU-Pro\n\n44.1", ["3 44.1"]),
        ("| task | score |\n|---|---|\n| GPQA | 55 |", ["3 55"]),
        ("<table><tr><td>HumanEval</td><td>90.2</td></tr></table>", ["1 90.2"]),
        ("**MMLU**: __88.7__", ["1 88.7"]),
        ("MMLU ８５．２ %", ["1 85.2 %"]),
        ("M\u200bMLU 85.2", ["1 85.2"]),
        ("An accuracy of ninety-one percent", ["1 ninety-one percent"]),
        ("Arena Elo 1417", ["1 1417"]),
        ("arithmetic: 62 %", ["1 62 %"]),  # 61.3 % rounds to 61
        ("word problems 61.3 %", ["1 61.3 %"]),  # another task's score
        ("On MMLU it has 61.3 %.", ["1 61.3 %"]),  # a benchmark that the report does not hold
        ("state of the art with 61.4 %", ["1 61.4 %"]),
    ],
)
def test_numbers_that_the_report_does_not_hold(text: str, expected: list[str]) -> None:
    assert strays(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "arithmetic: 61.3 % (58.6 to 64.0)",
        "arithmetic 0.613, and 61 % rounded",
        "Its best accuracy is 61.3 %.",
        "Word problems: 25 %.",
        "A 7B model with 64 experts, 3.2 billion tokens, made in 2026; pass@1 was not tried.",
        "We did not run GSM8K, MATH-500 or 5-shot MMLU.",
        "It takes 3.5 hours and Python 3.12. The benchmark has 1,319 items.",
        "The licence is Apache 2.0. See the scores below.",
        "Half of the text is dialogue: 48.5 % of the bytes.",
        "Section 3.2 of the paper.",
    ],
)
def test_numbers_that_may_stand(text: str) -> None:
    assert strays(text) == []


def test_numbers_that_are_printed_elsewhere_may_stand() -> None:
    assert not stray_numbers("MMLU 85.2 %", report(task("a", 0.5)), ["85.2 %"])


def test_a_line_says_what_it_is_about() -> None:
    assert str(stray_numbers("x\n\nGSM8K 85", report(task("a", 0.5)))[0]) == "line 3 says '85' of GSM8K"
