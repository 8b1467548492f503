"""All fields for how much a model thinks, turned into template variables and a bound on its reasoning."""

from __future__ import annotations

from typing import Any

from coterie.hosting.errors import invalid
from coterie.protocol.requests import ChatRequest
from coterie.reasoning.effort import BUDGET, SWITCHES, EffortPlan, budget_of, can_reason, plan_effort
from coterie.text.reply_formats import ReplyFormat
from coterie.text.template_facts import TemplateFacts

_TYPES = {"enabled": True, "disabled": False}


def settled(
    body: ChatRequest, template: str, facts: TemplateFacts, form: ReplyFormat
) -> tuple[ChatRequest, list[str]]:
    """The request without `enable_thinking` (Qwen), `thinking` (GLM) and `reasoning` (OpenRouter).

    `reasoning_effort` is kept where it bounds the reasoning (`thinking_bound`). Also returns the names of
    fields without effect.
    Errors: `ApiError` 400 where two of them disagree.
    """
    wish, said = _wish(body)
    effort = body.reasoning_effort or (body.reasoning.effort if body.reasoning is not None else None)
    if effort == "none" and wish:
        raise invalid(f"/reasoning_effort: differs from {said[0]}; send one", "/reasoning_effort")
    thinks, names = can_reason(template, facts, form), list[str]()
    if wish is False and effort not in (None, "none"):
        names.append("reasoning_effort")
    effort = "none" if wish is False else effort
    plan = EffortPlan() if effort is None else plan_effort(effort, template, facts, form)
    if not plan.met:
        names.append("reasoning_effort")
    given, variables = body.chat_template_kwargs or {}, dict(plan.variables)
    if wish:
        variables |= {name: True for name in SWITCHES if name in facts.reads}
        names += [] if thinks else said
    budget = _budget(body, thinks, effort == "none" and plan.bounded, names)
    if budget is not None and plan.bounded and effort != "none" and not variables:
        names.append("reasoning_effort")  # the number says it more exactly
    if any(given.get(name, value) != value for name, value in variables.items()):
        names.append("reasoning_effort" if body.reasoning_effort or not said else said[0])
    if budget is not None and BUDGET in facts.reads:
        variables[BUDGET] = budget
    update: dict[str, Any] = dict.fromkeys(("enable_thinking", "thinking", "reasoning"))
    update["thinking_token_budget"] = budget
    update["reasoning_effort"] = effort if plan.bounded and budget is None else None
    update["chat_template_kwargs"] = {**variables, **given} or None
    return body.model_copy(update=update), list(dict.fromkeys(names))


def thinking_bound(body: ChatRequest, longest: int) -> int | None:
    """The most tokens of reasoning in a reply of at most `longest`, for a settled request; None: any."""
    if body.thinking_token_budget is not None:
        return body.thinking_token_budget
    return None if body.reasoning_effort is None else budget_of(body.reasoning_effort, longest)


def _wish(body: ChatRequest) -> tuple[bool | None, list[str]]:
    """Whether the switches turn thinking on or off, and their names. Errors: `ApiError` 400."""
    said = {
        "enable_thinking": body.enable_thinking,
        "thinking": None if body.thinking is None else _TYPES.get(body.thinking.type),
        "reasoning": None if body.reasoning is None else body.reasoning.enabled,
    }
    said = {name: wish for name, wish in said.items() if wish is not None}
    if len({*said.values()}) > 1:
        name = [*said][-1]
        raise invalid(f"/{name}: differs from {next(iter(said))}; send one", f"/{name}")
    return next(iter(said.values()), None), [*said]


def _budget(body: ChatRequest, thinks: bool, off: bool, names: list[str]) -> int | None:
    """The number of tokens that bounds the reasoning; fields that say another one are added to `names`.

    `thinks`: the model can reason. `off`: the reasoning ends at its start.
    """
    asked = {
        "thinking_token_budget": body.thinking_token_budget,
        "thinking.budget_tokens": None if body.thinking is None else body.thinking.budget_tokens,
        "reasoning.max_tokens": None if body.reasoning is None else body.reasoning.max_tokens,
    }
    said = {name: value for name, value in asked.items() if value is not None}
    budget = 0 if off else next(iter(said.values()), None) if thinks else None
    names += [name for name, value in said.items() if value != budget]
    return budget
