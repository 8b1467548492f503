"""Votes and processes of a model in Python."""

from __future__ import annotations

import math

import pytest

from coterie.config import ConfigError
from coterie.reasoning.votes import answer_of
from tests.serve.support import language_model

ASK = [{"role": "user", "content": "Hello"}]


def test_a_vote_is_over_the_replies_that_seeds_give():
    model = language_model("dense")
    found = model.vote(ASK, 4, rule="text", temperature=1.0, seed=3, max_tokens=6)
    alone = [model.chat(ASK, temperature=1.0, seed=3 + index, max_tokens=6) for index in range(4)]
    assert [reply.ids for reply in found.replies] == [reply.ids for reply in alone]
    assert found.tokens == sum(len(reply.ids) for reply in alone) and found.table.of == 4
    cut = [reply.finish_reason == "length" for reply in alone]
    answers = [answer_of(one.text, "text", c) for one, c in zip(found.messages, cut, strict=True)]
    assert found.table.unanswered == answers.count(None)
    assert found.message == found.messages[found.table.winner] and found.majority == found.table.majority
    assert found.answer == (answers[found.table.winner] if found.table.rows else None)


def test_the_prompt_is_read_once():
    model = language_model("dense")
    found = model.vote("fox " * 60, 4, rule="text", temperature=1.0, seed=1, max_tokens=2)
    assert found.replies[0].cached == 0 and all(reply.cached > 60 for reply in found.replies[1:])


def test_what_cannot_be_voted_on():
    model = language_model("dense")
    with pytest.raises(ConfigError, match="temperature 0 all replies are the same"):
        model.vote(ASK, 3, temperature=0, max_tokens=2)
    with pytest.raises(ConfigError, match="from 2 to 64"):
        model.vote(ASK, 1, temperature=1.0)


def test_the_steps_of_a_reply_hold_all_its_tokens():
    model = language_model("dense")
    reply = model.chat(ASK, temperature=0, max_tokens=12)
    steps = model.process(reply).steps
    assert sum(step.tokens for step in steps) == len(reply.ids)
    total = math.fsum(step.tokens * step.mean_logprob for step in steps)
    assert total == pytest.approx(math.fsum(reply.logprobs))
