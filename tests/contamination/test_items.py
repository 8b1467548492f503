"""Items of many forms, and one line for each fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coterie.config.errors import DataError
from coterie.contamination.items import QueriedItem, item_of, read_items


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"question": "Why?", "answer": "so"}, ("Why?", ("so",), (), "")),
        ({"prompt": "Why?", "answer": 42}, ("Why?", ("42",), (), "")),
        ({"prompt": [{"role": "user", "content": "Why?"}], "answer": "so"}, ("Why?", ("so",), (), "")),
        (
            {
                "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why?"}],
                "answer": "x",
            },
            ("Be kind.\nWhy?", ("x",), (), ""),
        ),
        ({"question": "Why?", "choices": ["p", "q"], "answer": 1}, ("Why?", ("q", "B"), ("p", "q"), "")),
        ({"question": "Why?", "choices": ["p", "q"], "answer": "A"}, ("Why?", ("p", "A"), ("p", "q"), "")),
        (
            {"question": "Why?", "choices": {"text": ["p", "q"]}, "answer": "q"},
            ("Why?", ("q", "B"), ("p", "q"), ""),
        ),
        (
            {"question": "Why?", "context": "P.", "answers": {"text": ["a", "a", "b"]}},
            ("Why?", ("a", "b"), (), "P."),
        ),
        ({"question": "Why?", "passage": "P.", "answer": False}, ("Why?", ("False",), (), "P.")),
    ],
)  # fmt: skip
def test_forms(row: dict[str, Any], expected: tuple[Any, ...]):
    item = item_of({"id": "a"} | row)
    assert (item.question, item.answers, item.choices, item.passage) == expected


def test_choices_are_lettered_as_benchmarks_print_them():
    assert QueriedItem("a", "Why?", ("q",), ("p", "q")).asked == "Why?\nA. p\nB. q"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"id": "a", "question": "x"}'], r"jsonl:1: item 'a' has no 'answer'; text without an"),
        (['{"id": "a", "question": " ", "answer": "y"}'], r":1: item 'a' has no question"),
        (['{"question": "x", "answer": "y"}'], r":1: has no 'id'"),
        (['{"id": 1, "question": "x", "answer": "y"}', "", '{"id": "1", "question": "z", "answer": "y"}'],
         r":3: id '1' is that of line 1 too; ids must differ"),
        (['{"id": "a", "question": "x", "choices": ["p"], "answer": 3}'], r":1: 'answer' is choice 3, and"),
        (['{"id": "a", "question": {"x": 1}, "answer": "y"}'], r":1: field 'question' is dict"),
        (['{"id": "a", "messages": [{"role": "user"}], "answer": "y"}'], r":1: field 'question' has"),
        (['{"id": "a", "question": "x", "choices": 3, "answer": "y"}'], r":1: field 'choices' is int"),
        (["[1]"], r":1: holds a list; an object was expected"),
        (["{"], r":1: "),
        ([""], r"items.jsonl: holds no item"),
    ],
)  # fmt: skip
def test_faults(lines: list[str], message: str, tmp_path: Path):
    path = tmp_path / "items.jsonl"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=message) as error:
        read_items(path)
    assert "\n" not in str(error.value)


def test_a_missing_file(tmp_path: Path):
    with pytest.raises(DataError, match="cannot be read"):
        read_items(tmp_path / "none.jsonl")


def test_a_json_list(tmp_path: Path):
    path = tmp_path / "items.json"
    path.write_text(
        json.dumps([{"id": 1, "question": "x", "answer": "y"}, {"id": 2, "question": "x", "answer": "y"}])
    )
    assert [item.id for item in read_items(path)] == ["1", "2"]
