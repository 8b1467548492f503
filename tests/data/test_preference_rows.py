"""Preferences of every public layout: the beginning is there once, and only what differs is learnt."""

# ruff: noqa: E501  # tables, one case a line

import json

import pytest

from coterie.config.errors import DataError
from coterie.data.formats import ChatExample, LabelledExample, PairExample, PreferenceExample
from coterie.data.readers import read_row
from coterie.data.records import Origin
from coterie.text import Message


def u(text):
    return {"role": "user", "content": text}


def a(text, **more):
    return {"role": "assistant", "content": text, **more}


S = {"role": "system", "content": "s"}
# Every layout of the same preference: after "q", "good" is better than "bad".
LAYOUTS = {
    "text prompt, whole conversations": {"prompt": "q", "chosen": [u("q"), a("good")], "rejected": [u("q"), a("bad")]},
    "prompt as turns, whole conversations": {"prompt": [u("q")], "chosen": [u("q"), a("good")], "rejected": [u("q"), a("bad")]},
    "prompt as turns, replies": {"prompt": [u("q")], "chosen": [a("good")], "rejected": [a("bad")]},
    "prompt as turns, text": {"prompt": [u("q")], "chosen": "good", "rejected": "bad"},
    "single turns": {"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "good"}, "rejected": {"from": "gpt", "value": "bad"}},
    "whole conversations alone": {"chosen": [u("q"), a("good")], "rejected": [u("q"), a("bad")]},
    "as JSON text": {"prompt": "q", "chosen": json.dumps([u("q"), a("good")]), "rejected": json.dumps([u("q"), a("bad")])},
    "the chosen one again as messages": {"prompt": "q", "chosen": [u("q"), a("good")], "rejected": [u("q"), a("bad")], "messages": [u("q"), a("good")], "score_chosen": 3.0},
    "messages as the beginning": {"messages": [u("q")], "chosen": [a("good")], "rejected": [a("bad")]},
    "rejected_response": {"messages": [u("q"), a("good")], "rejected_response": "bad"},
    "rejected_messages, whole": {"messages": [u("q"), a("good")], "rejected_messages": [u("q"), a("bad")]},
    "rejected_messages, reply": {"messages": [u("q"), a("good")], "rejected_messages": [a("bad")]},
    "OpenAI": {"input": {"messages": [u("q")]}, "preferred_output": [a("good")], "non_preferred_output": [a("bad")]},
}  # fmt: skip


def example_of(record):
    return read_row(record, Origin("f", 1))[1]


@pytest.mark.parametrize("record", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_is_the_same_preference(record):
    found = example_of(record)
    assert isinstance(found, PreferenceExample)
    for side, words in ((found.chosen, "good"), (found.rejected, "bad")):
        assert isinstance(side, ChatExample)
        assert side.messages == (Message("user", "q"), Message("assistant", words))
        assert side.learn == (False, True)


@pytest.mark.parametrize("record", LAYOUTS.values(), ids=LAYOUTS)
def test_a_system_message_and_tools_come_first_in_every_layout(record):
    tool = {"type": "function", "function": {"name": "f"}}
    found = example_of({**record, "system": "s", "tools": [tool], "chat_template_kwargs": {"x": 1}})
    for side in (found.chosen, found.rejected):
        assert side.messages[0] == Message("system", "s") and side.learn == (False, False, True)
        assert side.tools == (tool,) and side.variables == {"x": 1}


def test_a_beginning_of_several_turns_is_there_once():
    long = [S, u("q"), a("r"), u("q2")]
    for prompt in (long, long[1:], [u("q2")], "q2", "q"):
        found = example_of({"prompt": prompt, "chosen": [*long, a("good")], "rejected": [*long, a("bad")]})
        assert [m.role for m in found.chosen.messages] == ["system", "user", "assistant", "user", "assistant"]
        assert found.chosen.learn == (False, False, False, False, True)


def test_a_reply_may_say_again_what_the_prompt_said():
    again = example_of({"prompt": [u("q")], "completion": [a("x"), u("q"), a("y")]})
    assert [m.text for m in again.messages] == ["q", "x", "q", "y"]
    assert again.learn == (False, True, False, True)
    other = example_of({"prompt": [u("q"), a("x")], "completion": [u("q"), a("y")]})
    assert [m.text for m in other.messages] == ["q", "x", "q", "y"]
    assert other.learn == (False, False, False, True)


@pytest.mark.parametrize("name", ["chosen", "rejected"])
def test_marks_in_the_sides_count(name):
    sides = {side: [u("q"), a(side, **({"train": False} if side == name else {})), u("p"), a("x")] for side in ("chosen", "rejected")}  # fmt: skip
    found = example_of({"prompt": "q", **sides})
    assert getattr(found, name).learn == (False, False, False, True)


REFUSED = [
    ({"prompt": "other", "chosen": [u("q"), a("good")], "rejected": [u("q"), a("bad")]}, "not the beginning"),
    ({"prompt": [u("other")], "chosen": [u("q"), a("good")], "rejected": [u("q"), a("bad")]}, "not the beginning"),
    ({"prompt": [u("p")], "chosen": [S, u("q"), a("good")], "rejected": [a("bad")]}, "not the beginning"),
    ({"prompt": "q", "completion": [u("p"), a("x")]}, "not the beginning"),
    ({"prompt": "q", "completion": [u("p"), a("x")], "label": True}, "not the beginning"),
    ({"prompt": "q", "chosen": [u("q"), a("good")], "rejected": [u("q"), a("bad")], "messages": [u("z"), a("y")]}, "'messages' that are neither"),
    ({"chosen": [u("q"), a("x")], "rejected": [u("q"), a("x")]}, "do not differ"),
    ({"chosen": "one", "rejected": [a("x")]}, "text and the other"),
    ({"chosen": "same", "rejected": "same"}, "do not differ"),
    ({"prompt": "q", "chosen": "a", "rejected": "b", "margin": float("nan")}, "not a number"),
    ({"prompt": "q", "chosen": "a", "rejected": "b", "margin": True}, "not a number"),
    ({"prompt": "q", "chosen": "a", "rejected": "b", "system": "s"}, "'system', which rows"),
    ({"prompt": "q", "completion": "a", "tools": [{"name": "f"}]}, "'tools', which rows"),
    ({"prompt": "q", "completion": "a", "label": "good"}, "'label' is 'good'"),
    ({"prompt": "q", "completion": "a", "label": 2}, "'label' is 2"),
]  # fmt: skip


@pytest.mark.parametrize(("record", "message"), REFUSED)
def test_contradictions_are_named(record, message):
    with pytest.raises(DataError, match=message):
        example_of(record)


def test_plain_texts_with_a_common_beginning():
    found = example_of({"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"})  # fmt: skip
    assert (found.chosen.prompt, found.chosen.completion) == ("\n\nHuman: q\n\nAssistant:", " good")
    assert (found.rejected.prompt, found.rejected.completion) == ("\n\nHuman: q\n\nAssistant:", " bad")
    again = example_of({"prompt": "Q: 1+1? A:", "chosen": "Q: 1+1? A: 2", "rejected": "Q: 1+1? A: 3"})
    assert again.chosen == PairExample("Q: 1+1? A:", " 2", Origin("f", 1))


LABELS = [(True, True), (False, False), (1, True), (0, False), ("true", True), ("False", False)]


@pytest.mark.parametrize(("value", "label"), LABELS)
@pytest.mark.parametrize("name", ["label", "kto_tag"])
def test_labels(name, value, label):
    forms = [
        {"prompt": "q", "completion": [u("q"), a("good")]},
        {"prompt": [u("q")], "completion": [a("good")]},
        {"messages": [u("q"), a("good")]},
        {"instruction": "q", "output": "good"},
    ]
    for form in forms:
        found = example_of({**form, name: value})
        assert isinstance(found, LabelledExample) and found.label is label
        assert found.example.messages == (Message("user", "q"), Message("assistant", "good"))
        assert found.example.learn == (False, True)
