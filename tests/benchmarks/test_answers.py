"""Answers in their line and anywhere, and other wordings of a question."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.benchmarks import load_benchmark
from coterie.benchmarks.answers import FORM, anywhere, asked, reworded
from coterie.benchmarks.item import ItemReply

ARITHMETIC = load_benchmark("arithmetic", n=26)
ITEM = next(item for item in ARITHMETIC.items() if item.answer.isdigit() and int(item.answer) > 999)


@pytest.mark.parametrize(
    ("text", "score", "lenient", "unparsed"),
    [
        ("Answer: {}", 1, 1, False),
        ("So it is.\nAnswer: {}\n", 1, 1, False),
        ("The answer is {}.", 0, 1, True),
        ("**Answer:** {}", 0, 1, True),
        ("Answer: **{}**", 0, 1, False),
        ("{}", 0, 1, True),
        ("First 12, then it comes to {} in all", 0, 1, True),
        ("{} is what I thought, but it is 7", 0, 0, True),
        ("Answer: 7", 0, 0, False),
        ("", 0, 0, True),
        ("Answer: {}\nAnswer: 7", 0, 0, True),
    ],
)
def test_strict_and_lenient(text: str, score: float, lenient: float, unparsed: bool) -> None:
    verdict = ARITHMETIC.judge(ITEM, ItemReply(text=text.format(ITEM.answer)))
    assert (verdict.score, verdict.lenient, verdict.unparsed) == (score, lenient, unparsed)
    assert verdict.right == (score == 1) and bool(verdict.why) == (score == 0)


def test_thousands_with_commas_are_found() -> None:
    verdict = ARITHMETIC.judge(ITEM, ItemReply(text=f"That makes {int(ITEM.answer):,}"))
    assert (verdict.score, verdict.lenient) == (0, 1)


@given(st.text(), st.text())
def test_no_reply_breaks_the_reader(text: str, more: str) -> None:
    assert all(isinstance(found, str) for found in anywhere(text + "answer" + more))
    verdict = ARITHMETIC.judge(ITEM, ItemReply(text=text))
    assert not verdict.failed and (verdict.lenient or 0) >= verdict.score


@given(st.text(min_size=1).filter(lambda text: not text.endswith(FORM)))
def test_wordings_keep_the_question(question: str) -> None:
    wordings = reworded(asked(question, FORM), FORM)
    assert len({asked(question, FORM), *wordings}) >= 9
    assert all(question in wording for wording in wordings)
    assert reworded(question, FORM) == []
