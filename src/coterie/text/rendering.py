"""A conversation to text, by a chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from coterie.config.errors import DataError
from coterie.text.messages import Message
from coterie.text.reply_formats import TEMPLATES


def shipped_template(name: str) -> str:
    """A chat template that comes with coterie. Errors: `DataError` with the names of all of them."""
    path = TEMPLATES / f"{name}.jinja"
    known = sorted(found.stem for found in TEMPLATES.glob("*.jinja"))
    if name not in known:
        raise DataError(f"chat template '{name}': coterie has none of that name; it has {', '.join(known)}")
    return path.read_text(encoding="utf-8")


def render(
    messages: Sequence[Message],
    template: str,
    add_generation_prompt: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """The text of a conversation, as transformers' `apply_chat_template(tokenize=False)` gives it.

    `template`: jinja source, run in a sandbox. `variables`: more names for the template (`bos_token`...).
    Errors: `DataError` when the template refuses the conversation or is broken.
    """
    from coterie.text.template_sandbox import run  # jinja2 is slow to import

    given = {"tools": list(tools) if tools else None, "add_generation_prompt": add_generation_prompt}
    names = {**(variables or {}), **given}
    try:
        return run(template, {**names, "messages": [_for_template(message) for message in messages]})
    except DataError:
        if not any(message.tool_calls for message in messages):
            raise
        # Some templates join the arguments of calls as text, which is how OpenAI sends them.
        try:
            as_text = [_for_template(message, text_arguments=True) for message in messages]
            return run(template, {**names, "messages": as_text})
        except DataError:
            pass
        raise  # the first error: the template was given what most templates take


def _for_template(message: Message, text_arguments: bool = False) -> dict[str, Any]:
    """A message as templates read it. Some look for reasoning under `reasoning`, so both names are given."""
    data = message.to_dict()
    for call in data.get("tool_calls", ()) if text_arguments else ():
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return data if message.reasoning is None else {**data, "reasoning": message.reasoning}
