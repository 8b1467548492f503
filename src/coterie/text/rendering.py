"""A conversation to text, by a chat template."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from coterie.config.errors import DataError
from coterie.text.messages import Message
from coterie.text.reply_formats import TEMPLATES

# What `render` gives every template itself, so that no further variable may have these names.
GIVEN = ("messages", "tools", "add_generation_prompt")
_PROBE = "q7zk{}x3"  # the texts of the messages of a probe: nothing that a template changes


def shipped_names() -> list[str]:
    """The chat templates that come with coterie."""
    return sorted(found.stem for found in TEMPLATES.glob("*.jinja"))


def shipped_template(name: str) -> str:
    """A chat template that comes with coterie. Errors: `DataError` with the names of all of them."""
    known = shipped_names()
    if name not in known:
        raise DataError(f"chat template '{name}': coterie has none of that name; it has {', '.join(known)}")
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


def render(
    messages: Sequence[Message],
    template: str,
    add_generation_prompt: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """The text of a conversation, as transformers' `apply_chat_template(tokenize=False)` gives it.

    `template`: jinja source, run in a sandbox. `variables`: more names for the template (`bos_token`...).
    Where transformers would lose words or fail, the template gets what it can show: a text for parts that it
    does not read, parts for a text, an empty text for content that is missing, and arguments as text.
    Errors: `DataError` when the template refuses the conversation or is broken.
    """
    names: dict[str, Any] = {"documents": None, **(variables or {})}
    names |= {"tools": list(tools) if tools else None, "add_generation_prompt": add_generation_prompt}
    takes = _parts_read(template, _tokens(variables))
    first: DataError | None = None
    for ways in _ways(messages):
        try:
            return _run(
                template, names, [_for_template(message, template, takes, *ways) for message in messages]
            )
        except DataError as error:
            first = first or error
    assert first is not None
    raise first  # the template was then given what most templates take


def _run(template: str, names: Mapping[str, Any], messages: list[dict[str, Any]]) -> str:
    from coterie.text.template_sandbox import run  # jinja2 is slow to import

    return run(template, {**names, "messages": messages})


def _ways(messages: Sequence[Message]) -> Iterator[tuple[bool, bool]]:
    """What to try in turn: content that is missing as an empty text, the arguments of calls as JSON text."""
    absent = any(message.form == "nothing" for message in messages)
    calls = any(message.tool_calls for message in messages)
    # Some templates join the arguments of calls as text, which is how OpenAI sends them.
    for text_arguments in (False, True) if calls else (False,):
        for empty_text in (False, True) if absent else (False,):
            yield empty_text, text_arguments


def _for_template(
    message: Message, template: str, takes: Mapping[str, str], empty_text: bool, text_arguments: bool
) -> dict[str, Any]:
    """A message as transformers gives it to templates: a field that is null is left out."""
    data = message.to_dict()
    if message.form == "nothing" and not empty_text:
        del data["content"]
    elif takes[message.role] == "parts" or (takes[message.role] == "both" and message.form == "parts"):
        data["content"] = [{"type": "text", "text": part.text} for part in message.content]
    elif message.form == "nothing":
        data["content"] = ""
    for call in data.get("tool_calls", ()) if text_arguments else ():
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    if message.reasoning is not None:
        data["thinking"] = message.reasoning
        if message.calls_it_reasoning or _reads_reasoning_only(template):
            data["reasoning"] = message.reasoning
    # transformers puts `thinking` first and leaves the other fields in their order.
    first = ["thinking"] if message.reasoning is not None else []
    return {key: data[key] for key in dict.fromkeys((*first, *message.keys, *data)) if key in data}


@functools.lru_cache(maxsize=64)
def _reads_reasoning_only(template: str) -> bool:
    """Whether a template only reads `reasoning`, the one name that transformers does not fill."""
    words = set(re.findall(r"\w+", template))
    return "reasoning" in words and not words & {"reasoning_content", "thinking"}


def _tokens(variables: Mapping[str, Any] | None) -> str:
    """The variables that a probe needs. Not those of a request, because each new value would be probed."""
    return json.dumps({key: value for key, value in (variables or {}).items() if key.endswith("_token")})


@functools.lru_cache(maxsize=64)
def _parts_read(template: str, variables: str) -> dict[str, str]:
    """For each role how a template reads content: `text`, `parts`, or `both`, found by rendering each."""
    user: dict[str, Any] = {"role": "user", "content": "hello"}
    function = {"name": "f", "arguments": {}}
    calls = [{"id": "abcdefgh1", "type": "function", "function": function}]
    call = {"role": "assistant", "content": "", "tool_calls": calls}
    before = {"system": [], "user": [], "assistant": [user], "tool": [user, call]}
    found = {}
    for role, talk in before.items():
        after = [user] if role == "system" else []
        extra = {"tool_call_id": "abcdefgh1", "name": "f"} if role == "tool" else {}
        shows = {}
        for form, content in (("text", _PROBE.format(0)), ("parts", _probe_parts())):
            message = {"role": role, "content": content, **extra}
            shows[form] = _shows(template, json.loads(variables), [*talk, message, *after])
        found[role] = "both" if all(shows.values()) else "parts" if shows["parts"] else "text"
    return found


def _probe_parts() -> list[dict[str, str]]:
    return [{"type": "text", "text": _PROBE.format(number)} for number in range(2)]


def _shows(template: str, variables: Mapping[str, Any], messages: list[dict[str, Any]]) -> bool:
    """Whether the probe's text is in the rendering, and not because the list of parts was written out."""
    names = {**variables, "tools": None, "documents": None, "add_generation_prompt": False}
    parts = any(isinstance(message["content"], list) for message in messages)
    try:
        text = _run(template, names, messages)
    except DataError:
        return False
    written = re.search(rf"text['\"]: ['\"]{_PROBE.format(0)}", text)
    return written is None and all(_PROBE.format(number) in text for number in range(2 if parts else 1))
