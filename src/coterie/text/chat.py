"""Conversations: one renderer to text and to (ids, mask), one parser of replies.

The mask is found by rendering the conversation turn by turn, so any Hugging Face chat template works without marks.
What people write stays text: a user who types `<|im_end|>` does not end the turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from coterie.config.errors import DataError
from coterie.text.messages import Message, ToolCall
from coterie.text.replies import TEMPLATES, parse_reply
from coterie.text.tokenizer import Tokenizer

__all__ = ["Message", "ToolCall", "parse_reply", "render", "render_ids", "shipped_template"]

_PRIVATE = 0xF0000  # supplementary private-use plane: stands for special tokens inside people's text while rendering


def shipped_template(name: str) -> str:
    """A chat template that comes with coterie. Errors: `DataError` with their names."""
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
    from coterie.text.sandbox import run  # jinja2 is slow to import

    given = {
        "messages": [_for_template(message) for message in messages],
        "tools": list(tools) if tools else None,
        "add_generation_prompt": add_generation_prompt,
    }
    return run(template, {**(variables or {}), **given})


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
    learn: Sequence[bool] | None = None,
) -> tuple[list[int], list[bool]]:
    """Token ids of a conversation and, for each, whether an assistant wrote it (its end-of-turn token included).

    `learn`: for each message whether an assistant's words in it are marked at all (None: all of them).

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
        _append(ids, mask, _encode(tokenizer, turn[len(prompt) :], names), learn is None or learn[index], tokenizer)
        done = len(turn)
    _append(ids, mask, _encode(tokenizer, whole[done:], names), False, tokenizer)
    return ids, mask


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
