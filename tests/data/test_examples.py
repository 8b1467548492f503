"""Every format becomes the same examples; what is learnt is exact; every fault has its line."""

# ruff: noqa: E501  # tables, one case a line

import json

import pytest

from coterie.config.errors import DataError
from coterie.data.examples import read_all, read_examples
from coterie.data.formats import (
    ChatExample,
    LabelledExample,
    PairExample,
    PreferenceExample,
    PretokenisedExample,
    TextExample,
)
from coterie.text import Message, ToolCall

U, A, S = Message("user", "1+1?"), Message("assistant", "2"), Message("system", "Be brief.")
CALL = {"name": "add", "arguments": {"a": 1}}
TOOL = {"type": "function", "function": {"name": "add"}}
CALLED = (
    Message("user", "1+1?"),
    Message("assistant", "", None, (ToolCall("add", {"a": 1}),)),
    Message("tool", "2"),
    A,
)
# name, record, kind, messages, learn
CHATS = [
    ("messages", {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]}, "messages", (U, A), None),
    ("developer", {"messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]}, "messages", (S, U, A), None),
    ("nulls of Parquet", {"messages": [{"role": "user", "content": "1+1?", "tool_calls": None, "name": None}, {"role": "assistant", "content": "2", "tool_calls": None, "name": None}]}, "messages", (U, A), None),
    ("loss marks", {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2", "loss": False}, {"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]}, "messages", (U, A, U, A), (False, False, False, True)),
    ("weights", {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2", "weight": 1}]}, "messages", (U, A), (False, True)),
    ("system field", {"system": "Be brief.", "messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2", "train": True}]}, "messages", (S, U, A), (False, False, True)),
    ("sharegpt", {"conversations": [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "2"}]}, "sharegpt", (U, A), None),
    ("sharegpt, calls", {"conversations": [{"from": "human", "value": "1+1?"}, {"from": "function_call", "value": json.dumps(CALL)}, {"from": "observation", "value": "2"}, {"from": "gpt", "value": "2"}]}, "sharegpt", CALLED, None),
    ("pairs", {"conversations": [{"human": "1+1?", "assistant": "2"}]}, "sharegpt", (U, A), None),
    ("alpaca", {"instruction": "1+1?", "input": "", "output": "2"}, "alpaca", (U, A), None),
    ("alpaca, all fields", {"instruction": "1", "input": "x", "output": "2", "system": "Be brief.", "history": [["1+1?", "2"]]}, "alpaca", (S, U, A, Message("user", "1\n\nx"), A), None),
    ("prompt and completion", {"prompt": [{"role": "user", "content": "1+1?"}], "completion": [{"role": "assistant", "content": "2"}]}, "prompt-completion", (U, A), (False, True)),
    ("query and response", {"query": "1+1?", "response": "2"}, "question-answer", (U, A), None),
    ("problem and solution", {"problem": "1+1?", "solution": "2"}, "question-answer", (U, A), None),
]  # fmt: skip


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.mark.parametrize(
    ("record", "kind", "messages", "learn"), [c[1:] for c in CHATS], ids=[c[0] for c in CHATS]
)
def test_conversations_of_every_form(tmp_path, record, kind, messages, learn):
    found = read_examples(write(tmp_path / "any.jsonl", {**record, "tools": [TOOL]}))
    assert found.problems == [] and found.format == kind
    (example,) = found.examples
    assert isinstance(example, ChatExample) and example.messages == messages and example.learn == learn
    assert example.tools == (TOOL,) and str(example.origin).endswith("any.jsonl:1")


def test_other_kinds(tmp_path):
    prompt, chosen, rejected = (
        [{"role": "user", "content": "1+1?"}],
        {"role": "assistant", "content": "2"},
        {"role": "assistant", "content": "3"},
    )
    forms = [
        {"prompt": prompt, "chosen": [chosen], "rejected": [rejected], "margin": 0.5},
        {"chosen": [*prompt, chosen], "rejected": [*prompt, rejected], "margin": 0.5},
        {"messages": [*prompt, chosen], "rejected_response": "3", "margin": 0.5},
        {"conversations": [{"from": "human", "value": "1+1?"}], "chosen": {"from": "gpt", "value": "2"}, "rejected": {"from": "gpt", "value": "3"}, "margin": 0.5},
    ]  # fmt: skip
    for number, form in enumerate(forms):
        found = read_examples(write(tmp_path / f"{number}.jsonl", form))
        (example,) = found.examples
        assert (
            found.format == "preference" and isinstance(example, PreferenceExample) and example.margin == 0.5
        )
        assert example.chosen.messages == (U, A) and example.chosen.learn == (False, True)
        assert example.rejected.messages == (U, Message("assistant", "3")) and example.rejected.learn == (
            False,
            True,
        )

    def only(record):
        return read_examples(write(tmp_path / "x.jsonl", record)).examples[0]

    plain = only({"prompt": "a", "completion": "b"})
    assert isinstance(plain, PairExample) and (plain.prompt, plain.completion) == ("a", "b")
    labelled = only({"prompt": "a", "completion": "b", "label": False})
    assert (
        isinstance(labelled, LabelledExample)
        and labelled.label is False
        and labelled.example.completion == "b"
    )
    tagged = only({"messages": [*prompt, chosen], "kto_tag": True})
    assert isinstance(tagged, LabelledExample) and tagged.label and tagged.example.learn == (False, True)
    text, tokens = only({"text": "abc"}), only({"input_ids": [1, 2], "labels": [-100, 2]})
    assert isinstance(text, TextExample) and text.text == "abc"
    assert isinstance(tokens, PretokenisedExample) and (tokens.ids, tokens.labels) == ((1, 2), (-100, 2))


GOOD = {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]}


def test_faults_have_their_lines_and_the_rest_is_read(tmp_path):
    path = tmp_path / "a.jsonl"
    bad = [
        "{bad", "[1]", json.dumps({"body": 1}), json.dumps({"text": "x"}), json.dumps({"messages": "x"}), json.dumps({"messages": []}),
        json.dumps({"messages": [{"role": "robot", "content": "x"}]}), json.dumps({"messages": [{"role": "user"}]}),
        json.dumps({**GOOD, "text": "x"}), json.dumps({**GOOD, "tools": "{"}),
    ]  # fmt: skip
    path.write_text("\n".join([json.dumps(GOOD), *bad, "", json.dumps(GOOD)]))
    found = read_examples(str(path))
    assert [example.origin.line for example in found.examples] == [1, 13]
    assert [problem.line for problem in found.problems] == [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    said = [
        "is not valid JSON", "an object was expected", "known formats", "of the kind 'text' in a source that began with 'messages'", "not a list of messages",
        "not a list of messages", "role 'robot'", "neither content", "messages and text, so it is not clear", "field 'tools' is text and is not valid JSON",
    ]  # fmt: skip
    for problem, part in zip(found.problems, said, strict=True):
        assert part in problem.message


def test_sources_shares_and_mixtures(tmp_path, monkeypatch):
    import io

    import pyarrow
    import pyarrow.parquet

    records = [{"prompt": f"p{n}", "completion": f"c{n}"} for n in range(20)]
    lines = write(tmp_path / "a.jsonl", *records)
    (tmp_path / "b.json").write_text(json.dumps(records))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "c.parquet")
    want = [(f"p{n}", f"c{n}") for n in range(20)]
    for name in ("a.jsonl", "b.json", "c.parquet"):
        examples = read_examples(str(tmp_path / name)).examples
        assert [(e.prompt, e.completion) for e in examples] == want and examples[4].origin.line == 5
    assert len(read_examples(str(tmp_path)).examples) == 60
    assert len(read_examples(lines + ":0.3").examples) == 6 and len(read_examples(lines + "#5").examples) == 5
    assert len(read_examples(lines, limit=3).examples) == 3
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "a.jsonl").read_bytes())))
    assert len(read_examples("-").examples) == 20
    other = write(tmp_path / "other.jsonl", {"prompt": "a", "chosen": "b", "rejected": "c"})
    with pytest.raises(DataError, match="hold examples to imitate and preferences"):
        read_all([lines, other])
    for source, message in [
        ("nothing", "no such file"),
        (lines + "#50", "there are 20"),
        (lines + ":2.5", "at most 1"),
    ]:
        with pytest.raises(DataError, match=message):
            read_examples(source)


def test_the_shipped_conversations_are_whole() -> None:
    found = read_examples("starter")
    assert not found.problems and 150 <= len(found.examples) <= 250
    examples = [example for example in found.examples if isinstance(example, ChatExample)]
    assert len(examples) == len(found.examples)
    assert sum(any(m.tool_calls for m in example.messages) for example in examples) >= 20
    for example in examples:
        assert example.messages[-1].role == "assistant"
        names = {tool["function"]["name"] for tool in example.tools}
        assert {call.name for message in example.messages for call in message.tool_calls} <= names
    assert len({repr((example.messages, example.tools)) for example in examples}) == len(examples)
