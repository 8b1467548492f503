"""Other servers' fields for how much a model thinks."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.hosting.errors import ApiError
from coterie.protocol.requests import ChatRequest
from coterie.protocol.thinking_fields import settled
from coterie.text.template_facts import template_facts

PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"
READS = PLAIN + "{% if enable_thinking %}<think>{% endif %}"
ASKED = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
ON, OFF = {"type": "enabled", "budget_tokens": 7}, {"type": "disabled"}
CASES: list[tuple[str, bool, dict[str, Any], dict[str, Any], list[str]]] = [
    (READS, True, {"enable_thinking": False}, {"chat_template_kwargs": {"enable_thinking": False}}, []),
    (READS, True, {"thinking": OFF}, {"chat_template_kwargs": {"enable_thinking": False}}, []),
    (READS, True, {"thinking": ON},
     {"chat_template_kwargs": {"enable_thinking": True}, "thinking_token_budget": 7}, []),
    (READS, True, {"reasoning": {"enabled": True, "effort": "low"}},
     {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "low"}, []),
    (PLAIN, True, {"thinking": OFF}, {"thinking_token_budget": 0}, []),  # it thinks unless it is stopped
    (PLAIN, True, {"thinking": {"type": "auto"}}, {}, []),
    (PLAIN, False, {"thinking": OFF, "enable_thinking": False}, {}, []),  # it never thinks
    (PLAIN, False, {"enable_thinking": True}, {}, ["enable_thinking"]),
    (PLAIN, False, {"thinking": ON}, {}, ["thinking.budget_tokens", "thinking"]),
    (PLAIN, False, {"reasoning": {"max_tokens": 9}}, {}, ["reasoning.max_tokens"]),
    (PLAIN, True, {"reasoning": {"max_tokens": 9}, "thinking_token_budget": 9},
     {"thinking_token_budget": 9}, []),
]  # fmt: skip


@pytest.mark.parametrize(("template", "can_think", "more", "becomes", "names"), CASES)
def test_they_become_fields_of_the_chat_api_or_are_named(template, can_think, more, becomes, names):
    body, named = settled(ChatRequest(**ASKED, **more), template_facts(template), can_think)
    assert body == ChatRequest(**ASKED, **becomes) and named == names


def test_two_that_disagree_are_refused():
    asked = ChatRequest(**ASKED, enable_thinking=True, thinking=OFF)
    with pytest.raises(ApiError, match="/thinking: differs from enable_thinking"):
        settled(asked, template_facts(READS), True)
