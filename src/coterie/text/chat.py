"""Conversations: one renderer to text and to (ids, mask), one parser of replies.

The mask is found by rendering the conversation turn by turn, so any Hugging Face chat template works without marks.
What people write stays text: a user who types `<|im_end|>` does not end the turn.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from coterie.config.errors import DataError
from coterie.text.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant", "tool")
_PRIVATE = 0xF0000  # supplementary private-use plane: stands for special tokens inside people's text while rendering


@dataclass(frozen=True)
class ToolCall:
    """One call of a tool by the assistant; `arguments` is a JSON object."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Message:
    """One turn. `reasoning` and `tool_calls` belong to assistants; `name` is the tool's for role `tool`."""

    role: str
    content: str = ""
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    name: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The form that Hugging Face chat templates read."""
        data: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.reasoning is not None:
            data["reasoning_content"] = self.reasoning
        if self.tool_calls:
            data["tool_calls"] = [
                {"type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}
                for call in self.tool_calls
            ]
        if self.name is not None:
            data["name"] = self.name
        return data

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Message:
        """Read the OpenAI / Hugging Face form. Errors: `DataError` naming the field."""
        role, content = data.get("role"), data.get("content")
        if role not in ROLES:
            raise DataError(f"message: role {role!r} is not one of {', '.join(ROLES)}")
        if content is not None and not isinstance(content, str):
            raise DataError(f"message: content is {type(content).__name__}; text was expected")
        reasoning = data.get("reasoning_content", data.get("reasoning"))
        if reasoning is not None and not isinstance(reasoning, str):
            raise DataError(f"message: reasoning is {type(reasoning).__name__}; text was expected")
        given = data.get("tool_calls") or ()
        if not isinstance(given, list | tuple):
            raise DataError(f"message: tool_calls is {type(given).__name__}; a list was expected")
        calls = tuple(_read_call(call) for call in given)
        if role != "assistant" and (calls or reasoning is not None):
            raise DataError(f"message: only an assistant has reasoning or tool calls, not role '{role}'")
        if not content and not calls and content is None:
            raise DataError(f"message: role '{role}' has neither content nor tool calls")
        return Message(role, content or "", reasoning, calls, data.get("name"))


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
    import jinja2

    try:
        return _compiled(template).render(
            messages=[_for_template(message) for message in messages],
            tools=list(tools) if tools else None,
            add_generation_prompt=add_generation_prompt,
            **(variables or {}),
        )
    except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"chat template: {' '.join(str(error).split())}") from None


def _for_template(message: Message) -> dict[str, Any]:
    """Templates read reasoning under either of two names; each finds its own."""
    data = message.to_dict()
    return data if message.reasoning is None else {**data, "reasoning": message.reasoning}


def render_ids(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    template: str | None = None,
    add_generation_prompt: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
    variables: Mapping[str, Any] | None = None,
) -> tuple[list[int], list[bool]]:
    """Token ids of a conversation and, for each, whether an assistant wrote it (its end-of-turn token included).

    A reply's tokens are exactly those that follow its prompt: prompt and reply are encoded apart. `template=None` is
    the tokenizer's own; `variables`: more names for it.
    Errors: `DataError` for no template, or one that changes earlier turns later on.
    """
    template = tokenizer.chat_template if template is None else template
    if template is None:
        raise DataError("this tokenizer has no chat template; save a chat_template.jinja beside it or give one")
    hidden, names = _hide(messages, tools or (), sorted(tokenizer.added_tokens, key=len, reverse=True))
    safe_messages, safe_tools = hidden
    variables = {**tokenizer.named_tokens, **(variables or {})}

    def text_of(count: int, prompt: bool) -> str:
        return render(safe_messages[:count], template, prompt, safe_tools, variables)

    whole = text_of(len(safe_messages), add_generation_prompt)
    ids: list[int] = []
    mask: list[bool] = []
    done = 0
    for index, message in enumerate(safe_messages):
        if message.role != "assistant":
            continue
        prompt, turn = text_of(index, True), text_of(index + 1, False)
        if not (turn.startswith(prompt) and whole.startswith(turn) and len(prompt) >= done):
            raise DataError(f"chat template: it rewrites turn {index + 1} later on, so replies cannot be told apart")
        _append(ids, mask, _encode(tokenizer, whole[done : len(prompt)], names), False, tokenizer)
        _append(ids, mask, _encode(tokenizer, turn[len(prompt) :], names), True, tokenizer)
        done = len(turn)
    _append(ids, mask, _encode(tokenizer, whole[done:], names), False, tokenizer)
    return ids, mask


def parse_reply(text: str) -> Message:
    """Split what a model wrote into reasoning, tool calls and content; whatever is not well-formed stays in content.

    Reasoning ends at `</think>` (its `<think>` may have been part of the prompt); reasoning that was never closed is
    all reasoning.
    """
    reasoning: str | None = None
    before, closed, after = text.partition("</think>")
    if closed:
        reasoning, text = before.strip().removeprefix("<think>").strip(), after
    elif text.lstrip().startswith("<think>"):
        reasoning, text = text.lstrip().removeprefix("<think>").strip(), ""
    calls: list[ToolCall] = []

    def take(match: re.Match[str]) -> str:
        try:
            calls.append(_read_call(json.loads(match[1])))
        except (ValueError, DataError):
            return match[0]
        return ""

    content = re.sub(r"<tool_call>(.*?)</tool_call>", take, text, flags=re.DOTALL)
    return Message("assistant", content.strip(), reasoning, tuple(calls))


def _read_call(data: Any) -> ToolCall:
    inner = data.get("function", data) if isinstance(data, Mapping) else None
    name = inner.get("name") if isinstance(inner, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(name, str) or not name:
        raise DataError("tool call: an object with 'name' and 'arguments' was expected")
    arguments = inner.get("arguments", {})
    if isinstance(arguments, str):  # OpenAI sends arguments as JSON text
        try:
            arguments = json.loads(arguments)
        except ValueError:
            raise DataError(f"tool call '{name}': arguments are not valid JSON") from None
    if not isinstance(arguments, Mapping):
        raise DataError(f"tool call '{name}': arguments must be an object")
    return ToolCall(name, dict(arguments))


def _append(ids: list[int], mask: list[bool], new: list[int], learnt: bool, tokenizer: Tokenizer) -> None:
    """Add a piece; in a reply, what the template writes after the end of turn (a line break) is not the model's."""
    ends = [index for index, token in enumerate(new) if token in tokenizer.stop_ids] if learnt else []
    count = (ends[-1] + 1 if ends else len(new)) if learnt else 0
    ids.extend(new)
    mask.extend([True] * count + [False] * (len(new) - count))


def _hide(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], specials: Sequence[str]
) -> tuple[tuple[list[Message], list[Any]], dict[str, str]]:
    """Replace special tokens inside people's text by private-use characters; return also what each stands for."""
    used = {char for text in _strings([[m.to_dict() for m in messages], list(tools)]) for char in text}
    free = (chr(code) for code in range(_PRIVATE, 0x10FFFE) if chr(code) not in used)
    names = dict(zip(free, specials, strict=False))

    def hide(value: Any) -> Any:
        if isinstance(value, str):
            for char, special in names.items():
                value = value.replace(special, char)
            return value
        if isinstance(value, Mapping):
            return {hide(key): hide(item) for key, item in value.items()}
        return [hide(item) for item in value] if isinstance(value, list | tuple) else value

    safe = [
        replace(
            message,
            content=hide(message.content),
            reasoning=hide(message.reasoning),
            name=hide(message.name),
            tool_calls=tuple(ToolCall(hide(call.name), hide(call.arguments)) for call in message.tool_calls),
        )
        for message in messages
    ]
    return (safe, hide(list(tools))), names


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _encode(tokenizer: Tokenizer, text: str, names: Mapping[str, str]) -> list[int]:
    """Ids of rendered text: special tokens the template wrote become ids, those people wrote stay text."""
    added = tokenizer.added_tokens
    pattern = "|".join(re.escape(name) for name in names.values())
    ids: list[int] = []
    for piece in re.split(f"({pattern})", text) if pattern else [text]:
        if piece in added:
            ids.append(added[piece])
        elif piece:
            ids.extend(tokenizer.encode("".join(names.get(char, char) for char in piece)))
    return ids


@functools.lru_cache(maxsize=16)
def _compiled(template: str) -> Any:
    """The template in the environment that transformers uses: sandboxed, blocks trimmed, plain JSON."""
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    def to_json(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment.from_string(template)
