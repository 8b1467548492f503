"""The steps of a reply, and which tokens belong to which."""

from __future__ import annotations

import pytest

from coterie.reasoning.steps import ProcessReader, step_parts, step_starts
from coterie.text.replies import CallPart, Delta


def cut(text: str) -> list[str]:
    starts = [*step_starts(text)]
    return [text[a:b].strip() for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("one\ntwo\n\tthree", ["one", "two", "three"]),
        ("one\ntwo\n\nthree\nfour", ["one\ntwo", "three\nfour"]),
        ("First:\n1. add\n2. take\n   away\nso", ["First:", "1. add", "2. take\n   away\nso"]),
        ("Step 1: add\nStep 2: take", ["Step 1: add", "Step 2: take"]),
        ("a\n```py\nx = 1\n\ny = 2\n```\nb", ["a", "```py\nx = 1\n\ny = 2\n```", "b"]),
        ("\n\none", ["one"]),
        ("one", ["one"]),
        ("", [""]),
    ],
)
def test_steps_are_numbered_points_else_paragraphs_else_lines(text, steps):
    assert cut(text) == steps


def test_tokens_belong_to_the_step_in_which_their_words_begin():
    reader = ProcessReader()
    reader.add(-1.0, [])  # a mark before reasoning
    reader.add(-2.0, [("reasoning", "1 + 1", False)])
    reader.add(-3.0, [("reasoning", " = 3\nso", False)])
    reader.add(-4.0, [("reasoning", " on", False)])
    reader.add(-5.0, [])  # the mark behind it
    reader.add(-6.0, [("content", "3", False)])
    reader.add(-7.0, [("call", 'add {"a": ', True)])
    reader.add(-8.0, [("call", "1}", False)])
    reader.add(-8.0, [("call", "now {}", True)])
    reader.add(-9.0, [])  # the end of the turn
    found = reader.process()
    assert [(step.part, step.text, step.tokens, step.mean_logprob) for step in found.steps] == [
        ("reasoning", "1 + 1 = 3", 3, -2.0),
        ("reasoning", "so on", 1, -4.0),
        ("content", "3", 2, -5.5),
        ("call", 'add {"a": 1}', 2, -7.5),
        ("call", "now {}", 2, -8.5),
    ]
    facts = found.to_dict()
    assert facts["checks"] == {"right": 0, "wrong": 1}
    assert facts["steps"][0]["checks"] == [{"text": "1 + 1 = 3", "right": False, "value": "2"}]
    assert sum(step["tokens"] for step in facts["steps"]) == 10


def test_an_empty_reply_has_no_words():
    reader = ProcessReader()
    assert reader.process().steps == ()
    reader.add(-1.0, [])
    assert reader.process().steps == ()


def test_the_parts_of_a_delta():
    delta = Delta("hm", "so", [CallPart(0, "id", "add", '{"a"'), CallPart(0, None, None, ": 1}")])
    assert step_parts(delta, False) == [
        ("reasoning", "hm", False),
        ("content", "so", False),
        ("call", 'add {"a"', True),
        ("call", ": 1}", False),
    ]
    assert step_parts(delta, True)[0][0] == "call"
