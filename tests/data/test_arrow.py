"""The same rows teach the same in every format of file, whatever nulls the format adds."""

import json

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.config.errors import DataError
from coterie.data.arrow import without_padding
from coterie.data.examples import read_examples

NAMES = ["a", "b", "city", "query", "unit"]


def tool(name, arguments, required=()):
    schema = {"type": "object", "properties": {key: {"type": "string"} for key in arguments}}
    schema |= {"required": list(required)} if required else {}
    return {"type": "function", "function": {"name": name, "description": name, "parameters": schema}}


@st.composite
def rows(draw):
    """A few rows whose calls and tools have different keys; a null argument is one that its tool requires."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        keys = draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1).map(sorted))
        nulls = draw(st.lists(st.sampled_from(keys), unique=True))
        given = {key: None if key in nulls else draw(st.text("xyzé ", max_size=4)) for key in keys}
        given["inner"] = dict.fromkeys(draw(st.lists(st.sampled_from(NAMES), unique=True)) or ["a"], "v")
        call = {"type": "function", "function": {"name": "_".join(keys), "arguments": given}}
        marked = draw(st.sampled_from([{}, {"train": True}, {"thinking": "so"}]))
        reply = {"role": "assistant", "content": "", "tool_calls": [call], **marked}
        talk = [{"role": "user", "content": draw(st.text("xyz", min_size=1, max_size=4))}, reply]
        if draw(st.booleans()):
            talk += [{"role": "tool", "content": "1", "name": "f"}, {"role": "assistant", "content": "done"}]
        found.append({"messages": talk, "tools": [tool("_".join(keys), keys, nulls)]})
    return found


def ordered(value):
    """The value with the keys of its objects in one order; Arrow's columns have one order for all rows."""
    if isinstance(value, dict):
        return {key: ordered(value[key]) for key in sorted(value)}
    return [ordered(item) for item in value] if isinstance(value, list) else value


def written(folder, records):
    table = pyarrow.Table.from_pylist(records)
    paths = {suffix: folder / f"rows.{suffix}" for suffix in ("jsonl", "json", "parquet", "arrow", "stream.arrow")}  # fmt: skip  # noqa: E501
    paths["jsonl"].write_text("".join(json.dumps(record) + "\n" for record in records))
    paths["json"].write_text(json.dumps(records))
    pyarrow.parquet.write_table(table, paths["parquet"])
    with pyarrow.ipc.new_file(paths["arrow"], table.schema) as sink:
        sink.write_table(table)
    with pyarrow.ipc.new_stream(paths["stream.arrow"], table.schema) as sink:
        sink.write_table(table)
    return paths


def taught(path):
    found = read_examples(str(path))
    assert not found.problems
    return [
        (
            [message.to_dict() for message in example.messages],
            ordered(list(example.tools)),
            example.learn,
            example.origin.line,
        )
        for example in found.examples
    ]


@given(records=rows())
@settings(max_examples=10, deadline=None)
def test_every_format_teaches_the_same(tmp_path_factory, records):
    records = ordered(records)
    paths = written(tmp_path_factory.mktemp("rows"), records)
    want = taught(paths.pop("jsonl"))
    for name, path in paths.items():
        got = taught(path)
        assert ordered([list(row) for row in got]) == ordered([list(row) for row in want]), name


def test_only_what_arrow_added_is_taken_away():
    call = {"name": "f", "arguments": {"kept": None, "added": None, "list": [None, {"x": None}]}}
    record = {
        "messages": [{"role": "assistant", "content": None, "tool_calls": [call]}],
        "tools": json.dumps([tool("f", ["kept"], ["kept"])]),
        "other": None,
    }
    (message,) = without_padding(record)["messages"]
    assert message["tool_calls"] == [{"name": "f", "arguments": {"kept": None, "list": [None, {}]}}]
    assert "content" not in message and "other" in without_padding(record)


def test_maps_keep_their_nulls(tmp_path):
    pairs = pyarrow.map_(pyarrow.string(), pyarrow.string())
    call = pyarrow.struct([("name", pyarrow.string()), ("arguments", pairs)])
    turn = pyarrow.struct(
        [("role", pyarrow.string()), ("content", pyarrow.string()), ("tool_calls", pyarrow.list_(call))]
    )
    talk = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "tool_calls": [{"name": "f", "arguments": [("a", None), ("b", "x")]}]},
    ]
    again = [
        dict(talk[0]),
        {"role": "assistant", "tool_calls": [{"name": "f", "arguments": [("a", "1")] * 2}]},
    ]
    table = pyarrow.table({"messages": pyarrow.array([talk, again], pyarrow.list_(turn))})
    pyarrow.parquet.write_table(table, tmp_path / "m.parquet")
    found = read_examples(str(tmp_path / "m.parquet"))
    assert found.examples[0].messages[1].tool_calls[0].arguments == {"a": None, "b": "x"}
    (problem,) = found.problems
    assert (problem.line, "key twice" in problem.message) == (2, True)


def test_files_that_are_not_what_they_say(tmp_path):
    for name, content in [
        ("x.parquet", b"PAR1"),
        ("x.arrow", b"ARROW1"),
        ("y.arrow", b"abc"),
        ("z.parquet", b""),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="is not a readable") as caught:
            read_examples(str(tmp_path / name))
        assert "\n" not in str(caught.value)
    column = pyarrow.array(["a"])
    pyarrow.parquet.write_table(
        pyarrow.table([column, column], names=["text", "text"]), tmp_path / "t.parquet"
    )
    with pytest.raises(DataError, match="several columns named text"):
        read_examples(str(tmp_path / "t.parquet"))
    broken = pyarrow.Array.from_buffers(
        pyarrow.string(), 1, [None, pyarrow.py_buffer(b"\0\0\0\0\2\0\0\0"), pyarrow.py_buffer(b"\xff\xff")]
    )
    pyarrow.parquet.write_table(pyarrow.table({"text": broken}), tmp_path / "u.parquet")
    (problem,) = read_examples(str(tmp_path / "u.parquet")).problems
    assert problem.line == 1 and "cannot be read" in problem.message
