"""Other servers' fields for how much a model thinks, turned into those of the chat API."""

from __future__ import annotations

from typing import Any

from coterie.hosting.errors import invalid
from coterie.protocol.requests import ChatRequest
from coterie.text.template_facts import TemplateFacts

SWITCHES = ("enable_thinking", "thinking")  # variables of templates
_TYPES = {"enabled": True, "disabled": False}


def settled(body: ChatRequest, facts: TemplateFacts, can_think: bool) -> tuple[ChatRequest, list[str]]:
    """The request without `enable_thinking` (Qwen), `thinking` (GLM) and `reasoning` (OpenRouter).

    `can_think`: the model's replies may hold reasoning. Also returns the names of fields without effect.
    Errors: `ApiError` 400 where two of them disagree.
    """
    thinking, reasoning = body.thinking, body.reasoning
    said = {
        "enable_thinking": body.enable_thinking,
        "thinking": None if thinking is None else _TYPES.get(thinking.type),
        "reasoning": None if reasoning is None else reasoning.enabled,
    }
    said = {name: wish for name, wish in said.items() if wish is not None}
    if len({*said.values()}) > 1:
        name = [*said][-1]
        raise invalid(f"/{name}: differs from {next(iter(said))}; send one", f"/{name}")
    wish = next(iter(said.values()), None)
    update: dict[str, Any] = dict.fromkeys(("enable_thinking", "thinking", "reasoning"))
    names = []
    budgets = {
        "thinking.budget_tokens": None if thinking is None else thinking.budget_tokens,
        "reasoning.max_tokens": None if reasoning is None else reasoning.max_tokens,
    }
    for name, budget in budgets.items():
        if budget is not None and can_think and body.thinking_token_budget is None:
            update["thinking_token_budget"] = budget
        elif budget is not None and body.thinking_token_budget != budget:
            names.append(name)
    switch = next((name for name in SWITCHES if name in facts.reads), None)
    if wish is not None and switch is not None:
        update["chat_template_kwargs"] = {switch: wish, **(body.chat_template_kwargs or {})}
    elif wish is False and can_think:
        update["thinking_token_budget"] = 0
    elif wish and not can_think:
        names += said
    if reasoning is not None and body.reasoning_effort is None:
        update["reasoning_effort"] = reasoning.effort
    return body.model_copy(update=update), names
