"""Other servers' fields for how much a model thinks."""

# ruff: noqa: E501  # one case a line

from __future__ import annotations

from typing import Any

import pytest

from coterie.hosting.errors import ApiError
from coterie.protocol.requests import ChatRequest
from coterie.protocol.thinking_fields import settled, thinking_bound
from coterie.text.reply_formats import format_of
from coterie.text.template_facts import template_facts

PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"
MARKED = PLAIN + "{# a reply may hold <think> #}"
READS = PLAIN + "{% if enable_thinking %}<think>{% endif %}"
HARMONY = PLAIN + "<|channel|>{{ reasoning_effort }}"
LEVELS = PLAIN + "{% if reasoning_effort not in ['none', 'high'] %}{% endif %}<think>"
BUDGETED = PLAIN + "<think>{{ thinking_budget }}"
ASKED = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
ON, OFF = {"type": "enabled", "budget_tokens": 7}, {"type": "disabled"}


def variables(**given: Any) -> dict[str, Any]:
    return {"chat_template_kwargs": given}


CASES: list[tuple[str, dict[str, Any], dict[str, Any], list[str]]] = [
    # switches and numbers
    (READS, {"enable_thinking": False}, variables(enable_thinking=False), []),
    (READS, {"thinking": OFF}, variables(enable_thinking=False), []),
    (READS, {"thinking": ON}, {**variables(enable_thinking=True), "thinking_token_budget": 7}, []),
    (MARKED, {"thinking": OFF}, {"thinking_token_budget": 0}, []),  # it thinks unless it is stopped
    (MARKED, {"thinking": OFF, "thinking_token_budget": 5}, {"thinking_token_budget": 0}, ["thinking_token_budget"]),
    (MARKED, {"thinking": {"type": "auto"}}, {}, []),
    (PLAIN, {"thinking": OFF, "enable_thinking": False}, {"thinking_token_budget": 0}, []),
    (PLAIN, {"enable_thinking": True}, {}, ["enable_thinking"]),
    (PLAIN, {"thinking": ON}, {}, ["thinking", "thinking.budget_tokens"]),
    (PLAIN, {"reasoning": {"max_tokens": 9}}, {}, ["reasoning.max_tokens"]),
    (PLAIN, {"thinking_token_budget": 9}, {}, ["thinking_token_budget"]),
    (MARKED, {"reasoning": {"max_tokens": 9}, "thinking_token_budget": 9}, {"thinking_token_budget": 9}, []),
    (MARKED, {"reasoning": {"max_tokens": 8}, "thinking_token_budget": 9}, {"thinking_token_budget": 9}, ["reasoning.max_tokens"]),
    (BUDGETED, {"thinking_token_budget": 9}, {**variables(thinking_budget=9), "thinking_token_budget": 9}, []),
    # an effort: a variable, else a switch and a bound, else a bound, else named
    (READS, {"reasoning": {"enabled": True, "effort": "low"}}, {**variables(enable_thinking=True), "reasoning_effort": "low"}, []),
    (READS, {"reasoning_effort": "none"}, variables(enable_thinking=False), []),
    (READS, {"reasoning_effort": "high"}, {**variables(enable_thinking=True), "reasoning_effort": "high"}, []),
    (READS, {"reasoning_effort": "max"}, variables(enable_thinking=True), []),  # no bound
    (READS, {"reasoning_effort": "low", "thinking_token_budget": 7}, {**variables(enable_thinking=True), "thinking_token_budget": 7}, []),
    (READS, {"reasoning_effort": "low", "enable_thinking": False}, variables(enable_thinking=False), ["reasoning_effort"]),
    (READS, {"reasoning_effort": "max", **variables(enable_thinking=False)}, variables(enable_thinking=False), ["reasoning_effort"]),
    (MARKED, {"reasoning_effort": "none"}, {"thinking_token_budget": 0}, []),
    (MARKED, {"reasoning_effort": "low"}, {"reasoning_effort": "low"}, []),
    (MARKED, {"reasoning_effort": "low", "thinking_token_budget": 7}, {"thinking_token_budget": 7}, ["reasoning_effort"]),
    (MARKED, {"reasoning_effort": "max"}, {}, []),
    (PLAIN, {"reasoning_effort": "low"}, {}, ["reasoning_effort"]),
    (PLAIN, {"reasoning_effort": "none"}, {"thinking_token_budget": 0}, []),
    # names that the template knows: the nearest one
    (HARMONY, {"reasoning_effort": "high"}, variables(reasoning_effort="high"), []),
    (HARMONY, {"reasoning_effort": "minimal"}, variables(reasoning_effort="low"), []),
    (HARMONY, {"reasoning_effort": "xhigh"}, variables(reasoning_effort="high"), []),
    (HARMONY, {"reasoning_effort": "none"}, {**variables(reasoning_effort="low"), "thinking_token_budget": 0}, []),
    (HARMONY, {"thinking": OFF}, {**variables(reasoning_effort="low"), "thinking_token_budget": 0}, []),
    (LEVELS, {"reasoning_effort": "minimal"}, variables(reasoning_effort="high"), []),
    (LEVELS, {"reasoning_effort": "none"}, variables(reasoning_effort="none"), []),
]  # fmt: skip


@pytest.mark.parametrize(("template", "more", "becomes", "names"), CASES)
def test_they_become_variables_and_a_bound_or_are_named(template, more, becomes, names):
    body, named = settled(
        ChatRequest(**ASKED, **more), template, template_facts(template), format_of(template)
    )
    assert body == ChatRequest(**ASKED, **becomes) and named == names


def test_the_bound_is_the_number_or_a_share_of_the_longest_reply():
    bounds = [
        thinking_bound(ChatRequest(**ASKED, **more), 1000)
        for more in (
            {},
            {"reasoning_effort": "low"},
            {"thinking_token_budget": 3, "reasoning_effort": "low"},
            {"reasoning_effort": "max"},
        )
    ]
    assert bounds == [None, 200, 3, None]


def test_two_that_disagree_are_refused():
    asked = ChatRequest(**ASKED, enable_thinking=True, thinking=OFF)
    with pytest.raises(ApiError, match="/thinking: differs from enable_thinking"):
        settled(asked, READS, template_facts(READS), format_of(READS))
    asked = ChatRequest(**ASKED, enable_thinking=True, reasoning_effort="none")
    with pytest.raises(ApiError, match="/reasoning_effort: differs from enable_thinking"):
        settled(asked, READS, template_facts(READS), format_of(READS))
