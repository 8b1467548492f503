"""What an effort means under each shipped template, and its share of a reply."""

from __future__ import annotations

import pytest

from coterie.reasoning.effort import EFFORTS, budget_of, can_reason, plan_effort
from coterie.text.reply_formats import format_of
from coterie.text.template_facts import template_facts
from coterie.text.template_sources import shipped_template

SHIPPED = "chatml deepseek_r1 deepseek_v3 gpt_oss llama3 llama4 mistral olmoe qwen3".split()


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("effort", EFFORTS)
def test_an_effort_never_does_nothing_in_silence(name, effort):
    template = shipped_template(name)
    facts, form = template_facts(template), format_of(template)
    plan = plan_effort(effort, template, facts, form)
    acts = bool(plan.variables) or plan.bounded
    assert acts or not plan.met or effort == "max"
    assert plan.met or not can_reason(template, facts, form)
    if "reasoning_effort" in facts.reads:
        assert plan.bounded == (effort == "none")
    if "enable_thinking" in facts.reads:
        assert plan.variables["enable_thinking"] == (effort != "none")


def test_shares_leave_room_for_the_answer():
    assert [budget_of(effort, 1000) for effort in EFFORTS] == [0, 100, 200, 500, 800, 950, None]
    assert [budget_of(effort, 100_000) for effort in EFFORTS] == [0, 512, 2048, 8192, 24_576, 95_000, None]
    for longest in (1, 2, 7, 64):
        assert all((budget_of(effort, longest) or 0) < longest for effort in EFFORTS)
