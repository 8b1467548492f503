"""Blocks and their events: however a reply is cut into steps, the events add up to it."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from coterie.api.anthropic.events import Blocks, fold
from coterie.api.anthropic.turns import carried
from coterie.text.messages import ToolCall
from coterie.text.replies import CallPart, Delta, NumberedCall

TEXT = st.text(max_size=3)
ARGUMENTS = st.dictionaries(TEXT, st.integers() | TEXT | st.none(), max_size=2)


@st.composite
def deltas(draw: st.DrawFn) -> list[Delta]:
    calls = iter(range(100))

    found = []
    for _ in range(draw(st.integers(0, 5))):
        found.append(Delta(draw(TEXT), draw(TEXT)))
        for _ in range(draw(st.integers(0, 2))):
            number, name, arguments = next(calls), draw(st.sampled_from("fg")), draw(ARGUMENTS)
            text, id = json.dumps(arguments), f"call_{number}"
            cut = draw(st.integers(1, len(text)))
            found[-1].parts.append(CallPart(number, id, name, text[:cut]))
            if draw(st.booleans()):  # the rest comes with a later step
                found.append(Delta())
            found[-1].parts.append(CallPart(number, None, None, text[cut:]))
            found[-1].calls.append(NumberedCall(number, id, ToolCall(name, arguments), text))
    return found


def events_of(steps: list[Delta], hide: bool = False) -> list[dict]:
    blocks = Blocks(hide)
    start = {"type": "message_start", "message": {"role": "assistant", "content": []}}
    events = [start, *(event for step in steps for event in blocks.add(step)), *blocks.close()]
    return json.loads(json.dumps(events))  # as a client receives them


@given(deltas())
def test_events_add_up_to_the_reply(steps):
    content = fold(events_of(steps))["content"]
    for kind, field in (("text", "content"), ("thinking", "reasoning")):
        shown = "".join(block[kind] for block in content if block["type"] == kind)
        assert shown == "".join(getattr(step, field) for step in steps)
    made = [(block["id"], block["name"], block["input"]) for block in content if block["type"] == "tool_use"]
    assert made == [(one.id, one.call.name, one.call.arguments) for step in steps for one in step.calls]
    assert all(block["signature"] for block in content if block["type"] == "thinking")
    # A block is as long as it can be, and not empty.
    kinds = [block["type"] for block in content]
    assert not any(a == b != "tool_use" for a, b in pairwise(kinds))
    assert all(block.get(block["type"], "x") for block in content)


@given(deltas())
def test_one_block_is_open_at_a_time_and_indices_count_up(steps):
    is_open, count = False, 0
    for event in events_of(steps)[1:]:
        kind = event["type"]
        assert is_open == (kind != "content_block_start")
        count += kind == "content_block_start"
        assert event["index"] == count - 1
        is_open = kind != "content_block_stop"
    assert not is_open


@given(deltas())
def test_hidden_reasoning_is_in_the_signature_only(steps):
    content = fold(events_of(steps, hide=True))["content"]
    thoughts = [block for block in content if block["type"] == "thinking"]
    assert not any(block["thinking"] for block in thoughts)
    assert "".join(carried(block["signature"]) for block in thoughts) == "".join(
        step.reasoning for step in steps
    )
