"""The reply parser: written examples of every family, any chunking, and malformed text stays content."""

# ruff: noqa: E501  # tables, one case a line

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coterie.text.messages import Message, ToolCall
from coterie.text.replies import ReplyParser, parse_reply
from coterie.text.reply_formats import format_of, formats

ADD = ToolCall("add", {"a": 1, "b": "x"})
SUB = ToolCall("sub", {})
DEEP = "<｜tool▁call▁begin｜>{}<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
ARGS = '{"a": 1, "b": "x"}'
# format, text, content, reasoning, calls
WRITTEN = [
    ("chatml", f'<think>hm</think>\nSo\n<tool_call>\n{{"name": "add", "arguments": {ARGS}}}\n</tool_call>', "So", "hm", [ADD]),
    ("chatml", '<tool_call>{"name": "sub"}</tool_call><tool_call>{"name": "sub"}</tool_call>', "", None, [SUB, SUB]),
    ("llama3", f'{{"name": "add", "parameters": {ARGS}}}', "", None, [ADD]),
    ("llama3", f'<|python_tag|>{{"name": "add", "parameters": {ARGS}}}<|eom_id|>', "", None, [ADD]),
    ("llama3", '{"name": "sub", "parameters": {}}; {"name": "sub", "parameters": {}}', "", None, [SUB, SUB]),
    ("llama3", '{"type": "function", "name": "sub", "parameters": {}}', "", None, [SUB]),
    ("llama3", '{"name": "Ada", "age": 36}', '{"name": "Ada", "age": 36}', None, []),
    ("llama3", '{"colour": "red"} and more', '{"colour": "red"} and more', None, []),
    ("llama3", "[1, 2, 3]", "[1, 2, 3]", None, []),
    ("llama3", "[link](http://x)", "[link](http://x)", None, []),
    ("llama4", '[add(a=1, b="x"), sub()]', "", None, [ADD, SUB]),
    ("llama4", '<|python_start|>[add(a=1, b="x")]<|python_end|>', "", None, [ADD]),
    ("llama4", "[f(a=true, b=[None, -1.5])]", "", None, [ToolCall("f", {"a": True, "b": [None, -1.5]})]),
    ("llama4", "[f(a=open('x'))]", "[f(a=open('x'))]", None, []),
    ("llama4", f'{{"name": "add", "parameters": {ARGS}}}', "", None, [ADD]),
    ("mistral", f'Sure.[TOOL_CALLS] [{{"name": "add", "arguments": {ARGS}}}, {{"name": "sub", "arguments": {{}}}}]', "Sure.", None, [ADD, SUB]),
    ("mistral", f"[TOOL_CALLS]add[ARGS]{ARGS}[TOOL_CALLS]sub[ARGS]{{}}", "", None, [ADD, SUB]),
    ("mistral", "[THINK]hm[/THINK]yes", "yes", "hm", []),
    ("deepseek", "<think>\nhm\n</think>\n\nyes", "yes", "hm", []),
    ("deepseek", "So.<｜tool▁calls▁begin｜>" + DEEP.format("function", f"add\n```json\n{ARGS}\n```") + "\n"
     + DEEP.format("function", "sub\n```json\n{}\n```") + "<｜tool▁calls▁end｜>", "So.", None, [ADD, SUB]),
    ("deepseek", "<｜tool▁calls▁begin｜>" + DEEP.format("add", ARGS) + "<｜tool▁calls▁end｜>", "", None, [ADD]),
    ("gpt_oss", "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>yes", "yes", "hm", []),
    ("gpt_oss", f"<|channel|>commentary to=functions.add <|constrain|>json<|message|>{ARGS}<|call|>", "", None, [ADD]),
    ("gpt_oss", f"<|channel|>analysis<|message|>hm<|end|><|start|>assistant to=functions.add<|channel|>commentary json<|message|>{ARGS}", "", "hm", [ADD]),
    ("gpt_oss", f" to=functions.add<|channel|>commentary json<|message|>{ARGS}<|call|>", "", None, [ADD]),
    ("gpt_oss", "to=5, then", "to=5, then", None, []),
    ("gpt_oss", "<|channel|>commentary<|message|>First.<|end|><|start|>assistant<|channel|>final<|message|>Then.", "First.\nThen.", None, []),
    ("gpt_oss", "<|channel|>anal", "<|channel|>anal", None, []),
    ("gpt_oss", "<|channel|>commentary to=functions.add<|message|>{", "<|channel|>commentary to=functions.add<|message|>{", None, []),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "content", "reasoning", "calls"), WRITTEN)
def test_written_replies(name, text, content, reasoning, calls):
    assert parse_reply(text, formats()[name]) == Message("assistant", content, reasoning, tuple(calls))


MARKS = sorted(
    {mark for form in formats().values() for region in form.regions for mark in (*region.open, *region.close)}
)
piece = st.one_of(
    st.sampled_from([*MARKS, *(text for _, text, *_ in WRITTEN), "<|message|>", "<", "{", "[", '{"name": "f"', " ", "\n"]),
    st.text(alphabet='ab {}[]<|>"()=\n', max_size=6),
)  # fmt: skip


@given(
    name=st.sampled_from(sorted(formats())),
    pieces=st.lists(piece, max_size=6),
    opened=st.booleans(),
    data=st.data(),
)
@settings(max_examples=400, deadline=None)
@example(name="llama3", pieces=['{"x": 1}<|python_tag|>{"name": "f"}'], opened=False, data=None)
def test_any_chunking_gives_the_same_message_and_the_pieces_add_up(name, pieces, opened, data):
    text = "".join(pieces)
    whole = ReplyParser(formats()[name], opened)
    whole.feed(text)
    message = whole.finish()
    cuts = (
        range(len(text))
        if data is None
        else sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    )
    edges = [0, *cuts, len(text)]
    parser = ReplyParser(formats()[name], opened)
    deltas = [parser.feed(text[a:b]) for a, b in pairwise(edges)] + [parser.flush()]
    assert parser.finish() == message
    assert "".join(delta.content for delta in deltas) == message.text
    assert "".join(delta.reasoning for delta in deltas) == (message.reasoning or "")
    calls = [numbered for delta in deltas for numbered in delta.calls]
    assert tuple(numbered.call for numbered in calls) == message.tool_calls
    assert [numbered.index for numbered in calls] == list(range(len(calls)))
    assert len({numbered.id for numbered in calls}) == len(calls)


@given(name=st.sampled_from(sorted(formats())), text=st.text(alphabet="abc .,\n", max_size=40))
def test_plain_text_is_content_and_comes_at_once(name, text):
    parser = ReplyParser(formats()[name])
    assert parser.feed(text).content == text.strip()
    assert parser.finish() == Message("assistant", text.strip())


def test_without_tools_their_marks_are_text():
    text = '<tool_call>{"name": "f"}</tool_call>'
    parser = ReplyParser(tools=False)
    assert parser.feed(text).content == text and parser.finish().tool_calls == ()


def test_a_template_tells_its_format():
    assert format_of(None).name == format_of("{{ '<|im_start|>' }}").name == "chatml"
    assert format_of("x <|start|>assistant<|channel|>final").name == "gpt_oss"
    assert format_of("'[INST] ' + x").name == "mistral"
    assert (
        format_of("<|start_header_id|>").name == "llama3" and format_of("<|header_start|>").name == "llama4"
    )
    assert format_of("<｜User｜><｜Assistant｜>").name == "deepseek"


@pytest.mark.parametrize("stop", ["lo", "\n", " ", "<", "Hello", "}"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_stop_strings_cut_the_content_at_the_same_place_however_it_is_cut(stop: str, size: int) -> None:
    """The content is what it is without them, up to the first one."""
    text = "<think>\nHello } lo < x\n</think>\n\n Hello < lo\nand } more <b> \n"
    whole = ReplyParser()
    whole.feed(text)
    content = whole.finish().text
    parser = ReplyParser(stops=(stop, "never"))
    for start in range(0, len(text), size):
        parser.feed(text[start : start + size])
    message = parser.finish()
    assert message.text == content.partition(stop)[0] and parser.stopped == (stop in content)
    assert message.reasoning == whole.finish().reasoning == "Hello } lo < x"
