"""Calls read as they are written: the parts are the plain answer's text, in any chunking and every family."""

# ruff: noqa: E501  # tables, one case a line

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.text.messages import ToolCall
from coterie.text.replies import Delta, NumberedCall, ReplyParser, parse_reply
from coterie.text.reply_formats import formats
from tests.text.test_replies import ARGS, MARKS, WRITTEN, piece

OPEN = "<tool_call>\n"


def streamed(name: str, pieces: list[str], cut: bool = False, opened: bool = False) -> Delta:
    """All that a streamed reply gives, its deltas added up."""
    parser = ReplyParser(formats()[name], opened, streamed=True)
    whole = Delta()
    for text in pieces:
        whole.add(parser.feed(text))
    whole.add(parser.flush(cut))
    return whole


def told(delta: Delta) -> tuple[str, str, list[tuple[str, str, bool]]]:
    """What a reply says, without its ids."""
    calls = [(call.call.name, call.arguments, call.broken) for call in delta.calls]
    return delta.content, delta.reasoning, calls


def check_parts(delta: Delta) -> None:
    """The parts of every call add up to its text, and only the first one names it."""
    assert [call.index for call in delta.calls] == list(range(len(delta.calls)))
    assert [part.index for part in delta.parts] == sorted(part.index for part in delta.parts)
    for call in delta.calls:
        parts = [part for part in delta.parts if part.index == call.index]
        assert "".join(part.arguments for part in parts) == call.arguments
        assert [(part.id, part.name) for part in parts[:1]] == [(call.id, call.call.name)]
        assert all(part.id is None and part.name is None and part.arguments for part in parts[1:])
        assert call.broken or json.loads(call.arguments) == dict(call.call.arguments)
    assert {part.index for part in delta.parts} == {call.index for call in delta.calls}


@pytest.mark.parametrize(("name", "text", "content", "reasoning", "calls"), WRITTEN)
def test_well_formed_replies_are_read_as_a_whole_reader_reads_them(name, text, content, reasoning, calls):
    got = streamed(name, [text])
    check_parts(got)
    if not text.endswith("<|message|>{"):  # a call that had begun
        assert (got.content, got.reasoning) == (content, reasoning or "")
        assert [call.call for call in got.calls] == calls


@given(
    name=st.sampled_from(sorted(formats())),
    pieces=st.lists(piece | st.sampled_from(['{"a": "', '\\"', "\\u00e9", '"}', "}}", "], ", '"arguments": {']), max_size=7),
    opened=st.booleans(),
    cut=st.booleans(),
    data=st.data(),
)  # fmt: skip
@settings(max_examples=400, deadline=None)
def test_any_chunking_gives_the_same_reply_and_the_parts_add_up(name, pieces, opened, cut, data):
    text = "".join(pieces)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    chunks = [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]
    whole = streamed(name, [text], cut, opened)
    got = streamed(name, chunks, cut, opened)
    check_parts(got)
    assert told(got) == told(whole)
    assert told(streamed(name, list(text), cut, opened)) == told(whole)


arguments = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(MARKS),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=5,
    ),
    max_size=3,
)


@given(
    name=st.sampled_from(sorted(formats())),
    calls=st.lists(st.tuples(st.from_regex(r"[a-z_]\w{0,8}", fullmatch=True), arguments), min_size=1, max_size=3),
    ascii=st.booleans(),
    indent=st.sampled_from([None, 2]),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_calls_of_every_family_come_with_the_models_own_text(name, calls, ascii, indent):
    writing = formats()[name].writing
    calls = calls if writing.between is not None else calls[:1]
    texts = [json.dumps(given, ensure_ascii=ascii, indent=indent) for _, given in calls]
    written = [
        writing.call.replace("{object}", f'{{"name": "{called}", "{writing.arguments}": {text}}}')
        if "{object}" in writing.call
        else writing.call.replace("{name}", called).replace("{arguments}", text)
        for (called, _), text in zip(calls, texts, strict=True)
    ]
    got = streamed(name, list(writing.open + (writing.between or "").join(written) + writing.close))
    check_parts(got)
    assert [(call.call.name, call.arguments) for call in got.calls] == [
        (called, text) for (called, _), text in zip(calls, texts, strict=True)
    ]
    assert not any(call.broken for call in got.calls) and got.content == ""


JSON_CALLS = [
    ("chatml", OPEN + f'{{"name": "add", "arguments": {ARGS}}}\n</tool_call>'),
    ("llama3", f'{{"name": "add", "parameters": {ARGS}}}'),
    ("llama3", f'<|python_tag|>{{"name": "add", "parameters": {ARGS}}}'),
    ("llama4", f'{{"type": "function", "name": "add", "parameters": {ARGS}}}'),
    ("mistral", f'[TOOL_CALLS] [{{"name": "add", "arguments": {ARGS}}}]'),
    ("mistral", f"[TOOL_CALLS]add[ARGS]{ARGS}"),
    ("deepseek", f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{ARGS}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
    ("deepseek", f"<｜tool▁call▁begin｜>add<｜tool▁sep｜>{ARGS}<｜tool▁call▁end｜>"),
    ("gpt_oss", f"<|channel|>commentary to=functions.add <|constrain|>json<|message|>{ARGS}<|call|>"),
    ("gpt_oss", f" to=functions.add<|channel|>commentary json<|message|>{ARGS}<|call|>"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text"), JSON_CALLS)
def test_arguments_come_as_they_are_written(name, text):
    """Every character of them at once, and the call as soon as it is complete."""
    parser = ReplyParser(formats()[name], streamed=True)
    begin = text.index(ARGS)
    early = [parser.feed(char) for char in text[:begin]]
    assert not any(early)
    for char in ARGS:
        delta = parser.feed(char)
        assert "".join(part.arguments for part in delta.parts) == char
    rest = [delta, parser.feed(text[begin + len(ARGS) :]), parser.flush()]
    assert [call.call for one in rest for call in one.calls] == [ToolCall("add", json.loads(ARGS))]


@pytest.mark.parametrize(("name", "text"), [*JSON_CALLS, ("llama4", '<|python_start|>[add(a=1, b="x")]<|python_end|>'), ("llama4", '[add(a=1, b="x")]')])  # fmt: skip
def test_a_call_that_is_cut_off_is_a_call_so_far_and_never_markup(name, text):
    bare = text[0] in "{["
    for end in range(len(text) + 1):
        got = streamed(name, list(text[:end]), cut=True)
        check_parts(got)
        assert len(got.calls) <= 1
        if got.calls:
            assert got.content == "" and got.calls[0].call.name == "add"
            assert got.calls[0].broken is (got.calls[0].arguments != ARGS)
            assert ARGS.startswith(got.calls[0].arguments)
        elif got.content:  # the beginning of a mark, or of an answer in JSON
            assert text.strip().startswith(got.content) and (
                bare or len(got.content) < 6 or " to=" in text[:4]
            )
    begun = text.find(ARGS) + 1 if ARGS in text else len(text) - 1
    assert streamed(name, list(text[:begun]), cut=True).calls


BROKEN = [
    # The call ends at the format's mark, or where its object does.
    ('{"name": "f", "arguments": {"a": 1</tool_call> Done.', "Done.", [("f", '{"a": 1', True)]),
    ('{"name": "f", "arguments": {"a": 1}</tool_call>', "", [("f", '{"a": 1}', False)]),
    ('{"name": "f", "arguments": {"a": 1}}}\n</tool_call>', "", [("f", '{"a": 1}', False)]),
    ('{"name": "f", "arguments": {"a": 1,}}\n</tool_call>', "", [("f", '{"a": 1,}', True)]),
    ('{"name": "f", "arguments": {"a": "x\ny"}}\n</tool_call>', "", [("f", '{"a": "x\ny"}', True)]),
    ('{"name": "f", "arguments": {"a": "x}}\n</tool_call>ok', "ok", [("f", '{"a": "x}}\n', True)]),
    ('{"name": "f", "arguments": {"a": "x}}\n<tool_call>{"name": "g"}</tool_call>', "", [("f", '{"a": "x}}\n', True), ("g", "{}", False)]),
    # A mark in a string belongs to it.
    ('{"name": "f", "arguments": {"a": "</tool_call>"}}</tool_call>', "", [("f", '{"a": "</tool_call>"}', False)]),
    # The name may come last, the arguments as a text; what comes twice counts once.
    ('{"arguments": {"a": [1, {}]}, "id": "x", "name": "f"}</tool_call>', "", [("f", '{"a": [1, {}]}', False)]),
    ('{"name": "f", "arguments": "{\\"a\\": \\"\\u00e9\\\\n\\ud83d\\"}"}</tool_call>', "", [("f", '{"a": "é\\n\\ud83d"}', True)]),
    ('{"name": "f", "arguments": {}, "arguments": {"b": 1}}</tool_call>', "", [("f", "{}", False)]),
    ('{"type": "function", "function": {"name": "f", "arguments": {}}}</tool_call>', "", [("f", "{}", False)]),
    # Words between calls and their mark are not lost.
    ('[{"name": "f"}, {"name": "g", "arguments": {}}] See?</tool_call>', "See?", [("f", "{}", False), ("g", "{}", False)]),
    # What is no call stays text.
    ('{"name": "", "arguments": {}}</tool_call>', OPEN + '{"name": "", "arguments": {}}</tool_call>', []),
    ('{"name": "f", "arguments": [1]}</tool_call>', OPEN + '{"name": "f", "arguments": [1]}</tool_call>', []),
    ('{"name": "f", "arguments": "no"}</tool_call>', OPEN + '{"name": "f", "arguments": "no"}</tool_call>', []),
    ("hello</tool_call>", OPEN + "hello</tool_call>", []),
]  # fmt: skip


@pytest.mark.parametrize(("text", "content", "calls"), BROKEN)
def test_what_is_not_well_formed(text, content, calls):
    for chunks in ([OPEN + text], list(OPEN + text)):
        got = streamed("chatml", chunks)
        check_parts(got)
        assert told(got) == (content, "", calls)


def test_words_after_a_bare_call_are_content():
    got = streamed("llama3", list('{"name": "f", "parameters": {"a": 1}}\nI have asked.'))
    assert told(got) == ("I have asked.", "", [("f", '{"a": 1}', False)])


def test_an_id_before_the_arguments_is_kept():
    for id, kept in (("call_7", True), ("odd id!", False)):
        call = f'[TOOL_CALLS] [{{"id": "{id}", "name": "f", "arguments": {{}}}}]'
        (numbered,) = streamed("mistral", list(call)).calls
        assert isinstance(numbered, NumberedCall) and (numbered.id == id) is kept


def test_reading_a_long_call_takes_time_in_proportion_to_its_length():
    """A quadratic reader would copy or read its text thousands of times."""
    text = OPEN + json.dumps({"name": "f", "note": "n" * 20_000, "arguments": {"a": "x" * 60_000}})
    parser = ReplyParser(streamed=True)
    for start in range(0, len(text), 4):
        parser.feed(text[start : start + 4])
        stream = parser._stream
        assert stream is None or not stream.begun or len(stream._text) < 100
    assert parse_reply(text + "</tool_call>").tool_calls == parser.finish().tool_calls
