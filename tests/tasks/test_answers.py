"""The grammar of answers, with all the ways around it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.tasks.answers import code_block, final_answer, whole_number


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("Answer: 7", "7"),
        ("1:1 0:1\nAnswer:  7 \n\n", "7"),
        ("  Answer: [1, 2]", "[1, 2]"),
        ("the Answer: 7", None),  # it must begin a line
        ("Answer: 7\nAnswer: 8", None),
        ("Answer: 7\nor 8", None),
        ("Answer:", None),
        ("answer: 7", None),
        ("7", None),
        ("", None),
    ],
)
def test_final_answer(reply: str, answer: str | None) -> None:
    assert final_answer(reply) == answer


@settings(max_examples=40)
@given(st.text())
def test_whatever_a_reply_holds_it_is_read_or_not(reply: str) -> None:
    found = final_answer(reply)
    assert found is None or (found and reply.count("Answer:") == 1 and "\n" not in found)
    block = code_block(reply)
    assert block is None or block in reply


@given(st.integers(-(10**50), 10**50))
def test_whole_numbers(number: int) -> None:
    assert whole_number(str(number)) == number


@pytest.mark.parametrize("text", ["", "-0", "+7", "07", "7.0", "٧", "1e3", "9" * 100, "7 8", "x"])
def test_what_is_no_whole_number(text: str) -> None:
    assert whole_number(text) is None


def test_code_blocks() -> None:
    assert code_block("```python\nx = 1\n```") == "x = 1\n"
    assert code_block("so:\n```\nx\n```\n") == "x\n"
    assert code_block("```sh\nls\n```") is None
    assert code_block("```python\nx\n```\n```python\ny\n```") is None
    assert code_block("x = 1") is None
