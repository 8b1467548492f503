"""Every field that the documentation lists is read, and no other; the rest of a row is named."""

# ruff: noqa: E501  # tables, one case a line

import re
from pathlib import Path
from typing import Any

import pytest

from coterie.config.errors import DataError
from coterie.data.fields import ANSWER, MARKS, MASKS, QUESTION, REASONING, TOOLS, VARIABLES, Fields
from coterie.data.readers import READERS, _plain_preference, kind_of, read_row
from coterie.data.records import Origin
from coterie.data.turns import ROLES, TURN_FIELDS

DOCS = Path(__file__).parents[2] / "docs" / "conversations.md"
U, A, B = ({"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}, {"role": "assistant", "content": "n"})  # fmt: skip
IDS = {"input_ids": [1, 2], "labels": [1, 2]}
ROWS: dict[str, list[dict[str, Any]]] = {
    "messages": [{"messages": [U, A]}],
    "ShareGPT": [{name: [U, A]} for name in ("conversations", "conversation")],
    "Alpaca": [
        {"instruction": "q", name: "i", "output": "r", "history": []} for name in ("input", "context")
    ] + [{"instruction": "q", "response": "r"}],
    "prompt and completion": [{"prompt": "q", "completion": "r"}],
    "question and answer": [{q: "q", "answer": "r"} for q in QUESTION] + [{"question": "q", a: "r"} for a in ANSWER],
    "text": [{"text": "words"}],
    "preference": [
        *({name: [U], "chosen": [A], "rejected": [B], "margin": 1} for name in ("prompt", "conversations", "conversation", "messages")),
        {"instruction": "q", "chosen": "r", "rejected": "n"},
        *({"messages": [U, A], name: [U, B]} for name in ("rejected_response", "rejected_messages")),
        {"input": {"messages": [U]}, "preferred_output": [A], "non_preferred_output": [B]},
    ],
    "labelled": [{"prompt": "q", "completion": "r", name: True} for name in ("label", "kto_tag")],
    "tokens": [{**IDS, "attention_mask": [1, 1], "position_ids": [0, 1], "token_type_ids": [0, 0], "special_tokens_mask": [0, 0]}],
}  # fmt: skip


def listed() -> dict[str, set[str]]:
    """The fields of each kind in the table of the documentation."""
    lines = [line.split("|") for line in DOCS.read_text().splitlines() if line.startswith("| ")]
    return {cells[1].strip(): set(re.findall(r"`(\w+)`", cells[2])) for cells in lines}


def names_in(heading: str) -> set[str]:
    """The fields in the paragraph that begins with `heading`."""
    text = DOCS.read_text()
    return set(re.findall(r"`(\w+)`", text[text.index(heading) :].split("\n\n")[0]))


@pytest.mark.parametrize("kind", ROWS)
def test_the_table_of_the_documentation_lists_what_is_read(kind: str) -> None:
    read = set()
    for row in ROWS[kind]:
        fields = Fields(_plain_preference(row))
        READERS[kind_of(fields.record)](fields, Origin("f", 1))
        assert not list(fields.left()), row
        read |= set(row)
    also = {"prompt", "completion"} if kind == "labelled" else set()
    assert listed()[kind] | also == read


def test_the_other_lists_of_the_documentation_are_complete() -> None:
    table = listed()
    assert table["every conversation"] == {"system", "system_prompt", *TOOLS, *VARIABLES}
    assert table["Alpaca, question and answer"] == {*REASONING, "train", "loss", "weight"}
    assert table["one turn"] == set(TURN_FIELDS) - {*REASONING, *MARKS}
    assert names_in("**Reasoning**") == set(REASONING) and names_in("**Marks**") == set(MARKS)
    assert set(MASKS) == names_in("**Token rows.**")
    assert set(ROLES) <= names_in("Turns, tools, calls")


def test_what_no_reader_uses_is_named_by_what_it_may_mean() -> None:
    def left(**more: Any) -> list[str]:
        return read_row({"messages": [U, A], **more}, Origin("f", 1))[2]

    assert left(id=3, nothing=None, empty="", none=[]) == ["id"]
    assert left(prompt="q", answer="r", solution="other") == ["solution"]  # the others are in the messages
    for name in ("thinking", "train", "loss_mask", "images", "history", "tool_calls", "context"):
        with pytest.raises(DataError, match=f"has '{name}', which rows of the format 'messages' do not use"):
            left(**{name: "x"})
    with pytest.raises(DataError, match="answer and solution, which differ"):
        read_row({"problem": "q", "answer": "r", "solution": "s"}, Origin("f", 1))
