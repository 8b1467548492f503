"""What an effort means for a model: variables of its template, or else a bound on its reasoning.

Families differ in what their templates know: an effort (gpt-oss), a switch (Qwen3, GLM) or nothing. An effort
means something for each: the variable where the template reads it; else the switch where there is one, and a
bound in tokens, which the engine enforces. Where a model cannot reason, an effort is unmet; callers say so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from coterie.text.reply_formats import ReplyFormat
from coterie.text.template_facts import TemplateFacts

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
EFFORTS: tuple[Effort, ...] = get_args(Effort)
SWITCHES = ("enable_thinking", "thinking")  # variables of templates
EFFORT, BUDGET = "reasoning_effort", "thinking_budget"  # variables of templates
# Share of the longest reply that reasoning may take, and the most tokens of it. "max" has no bound.
SHARES: dict[str, tuple[float, int | None]] = {
    "none": (0.0, 0),
    "minimal": (0.1, 512),
    "low": (0.2, 2048),
    "medium": (0.5, 8192),
    "high": (0.8, 24_576),
    "xhigh": (0.95, None),
}
_HARMONY = ("low", "medium", "high")  # what gpt-oss was trained on; its template takes any word
_LITERAL = re.compile(r"""['"](""" + "|".join(EFFORTS) + r""")['"]""")


@dataclass(frozen=True)
class EffortPlan:
    """What becomes of an effort: `variables` for the template; `bounded`: `budget_of` bounds the reasoning.

    `met`: whether it can change the reply.
    """

    variables: Mapping[str, Any] = field(default_factory=dict)
    bounded: bool = False
    met: bool = True


def can_reason(template: str, facts: TemplateFacts, form: ReplyFormat) -> bool:
    """Whether a model's template knows reasoning: it shows some, names its marks, or reads a setting."""
    marks = [mark for mark in form.thinking if mark]
    reads = {*SWITCHES, EFFORT, BUDGET} & facts.reads
    return facts.reasoning or bool(reads) or any(mark in template for mark in marks)


def plan_effort(effort: str, template: str, facts: TemplateFacts, form: ReplyFormat) -> EffortPlan:
    """What `effort` means under a template."""
    variables: dict[str, Any] = {}
    bounded = any(form.thinking)
    switch = next((name for name in SWITCHES if name in facts.reads), None)
    if switch is not None:
        variables[switch] = effort != "none"
    if EFFORT in facts.reads:
        variables[EFFORT] = _named(effort, template, form)
        bounded = effort == "none" and variables[EFFORT] != "none" and switch is None
    elif effort == "none":
        bounded = bounded and switch is None
    met = bool(variables) or effort == "none" or can_reason(template, facts, form)
    return EffortPlan(variables, bounded and met and effort in SHARES, met)


def budget_of(effort: str, longest: int) -> int | None:
    """The most tokens of reasoning in a reply of at most `longest` tokens; None without a bound."""
    if effort not in SHARES:
        return None
    share, most = SHARES[effort]
    budget = int(share * longest)
    return budget if most is None else min(budget, most)


def _named(effort: str, template: str, form: ReplyFormat) -> str:
    """The effort that is nearest among those that a template names; any where it names at most one."""
    known = {*_LITERAL.findall(template)}
    if form.writing.thought is not None:
        known = {*_HARMONY}
    if effort in known or len(known) < 2:
        return effort
    place = EFFORTS.index(effort)  # type: ignore[arg-type]
    others = [name for name in EFFORTS if name in known and (name != "none" or effort == "none")]
    return min(others, key=lambda name: abs(EFFORTS.index(name) - place), default=effort)
