"""How a reply's tokens become steps of a choice: calls are numbered, hidden or counted for the end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from coterie.hosting.engine_thread import Job
from coterie.infer.request import TokenEvent
from coterie.infer.sampling import SamplingParams
from coterie.protocol.conversation import Conversation
from coterie.protocol.replies import ChoiceStep, Replies, call_object
from coterie.text.reply_formats import format_of
from tests.serve.support import service

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "é"}}\n</tool_call>'


def steps(pieces: list[str], end: str = "stop", **talk: Any) -> list[ChoiceStep]:
    """The steps of a reply whose tokens have these texts, and an empty one with the reason of the end."""

    async def main() -> list[ChoiceStep]:
        served = service()
        served.start()
        job = Job([1], SamplingParams())
        given = {
            "has_tools": True,
            "hide_calls": False,
            "one_call": False,
            "forced": False,
            "stops": (),
            **talk,
        }
        conversation = Conversation([1], [job], None, format_of(None), False, **given)
        replies = Replies(served, conversation, served.thread.submit([job]))
        texts = [(piece, None) for piece in pieces] + [("", end)]
        try:
            return [replies._step(0, TokenEvent(0, 5, 0.0, (), text, reason)) for text, reason in texts]
        finally:
            await asyncio.to_thread(served.thread.stop)

    return asyncio.run(main())


def test_calls_are_numbered_and_end_the_reply() -> None:
    done = steps(["Sure. ", CALL, CALL])
    objects = [call_object(call) for step in done for call in step.delta.calls]
    assert [call["index"] for call in objects] == [0, 1]
    assert len({call["id"] for call in objects}) == 2
    assert json.loads(objects[0]["function"]["arguments"]) == {"a": 1, "b": "é"}
    assert "".join(step.delta.content for step in done) == "Sure."
    assert [step.finish for step in done] == [None, None, None, "tool_calls"]


def test_hidden_calls_leave_no_marks() -> None:
    done = steps([f"Well. {CALL}"], hide_calls=True)
    assert "".join(step.delta.content for step in done) == "Well."
    assert not any(step.delta.calls for step in done) and done[-1].finish == "stop"


def test_without_tools_marks_are_text() -> None:
    done = steps([CALL], has_tools=False)
    assert "".join(step.delta.content for step in done) == CALL and done[-1].finish == "stop"


def test_one_call_ends_the_reply_at_once() -> None:
    assert steps([CALL, CALL], one_call=True)[0].finish == "tool_calls"


OTHER = CALL.replace("1", "2")


def test_a_forced_reply_ends_before_it_repeats_a_call() -> None:
    """Some models never stop by themselves; another call is another matter."""
    done = steps([CALL, OTHER, CALL, OTHER], forced=True)
    assert [len(step.delta.calls) for step in done[:3]] == [1, 1, 0]
    assert [step.finish for step in done[:3]] == [None, None, "tool_calls"]
    free = steps([CALL, CALL], forced=False)
    assert [len(step.delta.calls) for step in free[:2]] == [1, 1]


def test_a_call_that_must_differ_is_held_back_until_it_does() -> None:
    """Characters are tokens here. What is equal to an earlier call's beginning may become a repeat."""
    pieces = [*CALL, *OTHER, *CALL]
    done = steps(pieces, forced=True)
    ends = [number for number, step in enumerate(done) if step.finish]
    done = done[: ends[0] + 1]
    parts = [(number, part) for number, step in enumerate(done) for part in step.delta.parts]
    calls = [call for step in done for call in step.delta.calls]
    assert [call.arguments for call in calls] == ['{"a": 1, "b": "é"}', '{"a": 2, "b": "é"}']
    for call in calls:
        assert "".join(part.arguments for _, part in parts if part.index == call.index) == call.arguments
    second = min(number for number, part in parts if part.index == 1)
    assert pieces[second] == "2" and pieces[second - 1] == " "
    assert len(done) == len(CALL) + len(OTHER) + CALL.rindex("}") + 1, "it ends where it is known to repeat"
    cut = steps([*CALL, *CALL[:40]], forced=True, end="length")
    assert [call.arguments for step in cut for call in step.delta.calls][1:] == [""]


def test_one_call_ends_where_its_object_does() -> None:
    done = steps([CALL + CALL], one_call=True)
    assert [len(step.delta.calls) for step in done[:1]] == [1] and {p.index for p in done[0].delta.parts} == {
        0
    }
    assert done[0].delta.content == "" and done[0].finish == "tool_calls"


def test_a_call_that_is_cut_off_is_a_call_and_the_reason_stays() -> None:
    done = steps(["Sure.", *CALL[:47]], end="length")
    (call,) = [call for step in done for call in step.delta.calls]
    assert call.broken and call_object(call)["function"] == {"name": "add", "arguments": '{"a": '}
    assert done[-1].finish == "length" and "".join(step.delta.content for step in done) == "Sure."


def test_stop_strings_end_content_and_nothing_else() -> None:
    """Reasoning and arguments may contain them; they are found across pieces and across a call."""
    thinking = "<think>one END two</think>\n\n"
    call_of_end = CALL.replace("add", "END")
    for texts, content, finish in (
        ([thinking, "yes EN", "D no"], "yes ", "stop"),
        ([thinking, "yes", call_of_end, "END no"], "yes", "tool_calls"),
        ([thinking, "yes EN", call_of_end, "D no"], "yes ", "tool_calls"),
        ([thinking + "yes EN"], "yes EN", "stop"),
        ([thinking + "END"], "", "stop"),
        ([thinking[:12], thinking[12:-2], "\n\nyes", "\n", "\nno"], "yes", "stop"),
    ):
        done = steps(texts, stops=("END", "\n\n"))
        ended = next(step.finish for step in done if step.finish)
        assert ("".join(step.delta.content for step in done), ended) == (content, finish), texts
        assert "".join(step.delta.reasoning for step in done) == "one END two"
