"""What follows a reply that calls tools: the tokens that the template gives, and templates that cannot."""

# ruff: noqa: E501  # templates changed by hand

from __future__ import annotations

import itertools

import pytest

from coterie.config.errors import DataError
from coterie.text.chat import conversation_ids, render_ids, shipped_template
from coterie.text.messages import Message, ToolCall
from coterie.text.rendering import shipped_names
from coterie.text.tool_turns import ToolTurns, result_message
from coterie.text.tools import CALCULATOR, function, texts
from tests.text.calling import call_text, stop_of, tokenizer_of

LOOKUP = function("lookup", "Look up a price.", texts(["thing"], thing="one thing"))
TOOLS = [LOOKUP, CALCULATOR]
HEAD = [Message("system", "Be brief."), Message("user", "What does a lamp cost?")]
FIRST, SECOND = (
    ToolCall("lookup", {"thing": thing}, f"call0000{n}") for n, thing in enumerate(("lamp", "pin"))
)


@pytest.mark.parametrize("name", shipped_names())
@pytest.mark.parametrize("calls", [(FIRST,), (FIRST, SECOND)])
def test_given_tokens_are_those_of_the_whole_conversation(name: str, calls: tuple[ToolCall, ...]) -> None:
    """Between what the mask of tuning marks as an assistant's stand exactly the tokens of `after`."""
    tokenizer = tokenizer_of(name)
    turns = ToolTurns(tokenizer, HEAD, TOOLS)
    results = [result_message(call, f"{n}5<|im_end|></s>\n") for n, call in enumerate(calls)]
    turn = Message("assistant", "", "hm", calls)
    talk = [*HEAD, turn, *results, turn, *results, Message("assistant", "Answer: 53", "hm")]
    ids, mask = render_ids(tokenizer, talk, tools=TOOLS)
    prompt = conversation_ids(tokenizer, HEAD, add_generation_prompt=True, tools=TOOLS)
    assert ids[: len(prompt)] == prompt
    runs = [
        [token for token, _ in run]
        for learnt, run in itertools.groupby(zip(ids, mask, strict=True), lambda pair: pair[1])
        if not learnt
    ]
    after = list(turns.after(results))
    assert runs[1:3] == [after, after]
    # A control token that a tool's result holds stays text.
    bare = list(turns.after([result_message(call, "5") for call in calls]))
    assert all(after.count(token) == bare.count(token) for token in tokenizer.stop_ids)
    assert "5<|im_end|></s>" in tokenizer.decode(after)


@pytest.mark.parametrize("name", shipped_names())
def test_replies_are_read_as_calls(name: str) -> None:
    tokenizer = tokenizer_of(name)
    turns = ToolTurns(tokenizer, HEAD, TOOLS)
    prompt = conversation_ids(tokenizer, HEAD, add_generation_prompt=True, tools=TOOLS)
    opened = "so</think>" if name == "deepseek_r1" else ""
    text = opened + call_text(tokenizer, "lookup", '{"thing": "lamp"}')
    message, calls = turns.read(prompt, text, cut=False)
    assert message.tool_calls == (ToolCall("lookup", {"thing": "lamp"}),) and not calls[0].broken
    assert message.reasoning == ("so" if opened else None)
    assert turns.read(prompt, text, cut=False)[0].tool_calls[0].id == message.tool_calls[0].id
    broken = opened + call_text(tokenizer, "lookup", '{"thing": lamp}')
    assert [call.broken for call in turns.read(prompt, broken, cut=False)[1]] in ([True], [])
    assert stop_of(tokenizer, calls=True) in tokenizer.stop_ids


def chatml(old: str, new: str) -> str:
    """ChatML with a change."""
    text = shipped_template("chatml")
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (chatml("{%- if tools %}", "{%- if false %}"), "it shows no tools"),
        (chatml("message.tool_calls or []", "[]"), "it shows no tool calls"),
        (chatml("+ message.content + '\\n</tool_response>'", "+ '\\n</tool_response>'"), "no results of tools"),
        # Thoughts only of the last message: what the model reads while it learns is not what it meets later.
        (
            chatml("{%- if message.reasoning_content %}", "{%- if message.reasoning_content and loop.last %}"),
            "it changes a turn that calls tools once results follow",
        ),
        (
            chatml("{{- message.content or '' }}", "{{- message.content or ('' if messages | length < 5 else 'x') }}"),
            "or what stands before it, otherwise than when it was asked for",
        ),
        (chatml("<tool_call>\\n{\"name\"", "<call>\\n{\"name\""), "is not read back as one .*chatml"),
        (chatml("'<|im_start|>assistant\\n' }}", "'<|im_start|>assistant\\nOf course. ' }}"), "otherwise than when it was asked for"),
    ],
)  # fmt: skip
def test_templates_that_cannot(template: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"^chat template: .*{message}"):
        ToolTurns(tokenizer_of(template), HEAD, TOOLS)


def test_a_turn_that_nothing_stops_is_refused() -> None:
    template = chatml(
        "{{- '<|im_end|>\\n' }}\n{%- endif %}\n{%- endfor %}", "{{- '\\n' }}\n{%- endif %}\n{%- endfor %}"
    )
    with pytest.raises(DataError, match="no token that stops a reply"):
        ToolTurns(tokenizer_of(template), HEAD, TOOLS)


def test_a_template_that_takes_one_call_a_turn_refuses_the_results_of_two() -> None:
    one = "{%- if (message.tool_calls or []) | length > 1 %}{{ raise_exception('one call') }}{%- endif %}"
    turns = ToolTurns(
        tokenizer_of(
            chatml("{%- if message.reasoning_content %}", one + "{%- if message.reasoning_content %}")
        ),
        HEAD,
        TOOLS,
    )
    with pytest.raises(DataError, match="one call"):
        turns.after([result_message(call, "1") for call in (FIRST, SECOND)])
    assert turns.after([result_message(FIRST, "1")])
