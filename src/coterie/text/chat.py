"""Conversations: one renderer to text and to (ids, mask), one parser of replies.

The mask is found by rendering the conversation turn by turn, so any Hugging Face chat template works without
marks. What people write stays text: a user who types `<|im_end|>` does not end the turn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from coterie.config.errors import DataError
from coterie.text.messages import Message, TextPart, ToolCall
from coterie.text.replies import parse_reply
from coterie.text.reply_formats import TEMPLATES
from coterie.text.tokenizer import Tokenizer

__all__ = ["Message", "ToolCall", "parse_reply", "render", "render_ids", "shipped_template"]

_PRIVATE = (
    0xF0000  # supplementary private-use plane: stands for special tokens inside people's text while rendering
)
_MESSAGE_ENDS = (
    "<|end|>",
)  # end a message that is shown again, where the model itself ends its turn otherwise


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
    from coterie.text.template_sandbox import run  # jinja2 is slow to import

    given = {"tools": list(tools) if tools else None, "add_generation_prompt": add_generation_prompt}
    names = {**(variables or {}), **given}
    try:
        return run(template, {**names, "messages": [_for_template(message) for message in messages]})
    except DataError:
        if not any(message.tool_calls for message in messages):
            raise
        try:  # some templates join the arguments of calls as text, as OpenAI sends them
            return run(
                template, {**names, "messages": [_for_template(message, True) for message in messages]}
            )
        except DataError:
            pass
        raise


def _for_template(message: Message, text_arguments: bool = False) -> dict[str, Any]:
    """Templates read reasoning under either of two names; each finds its own."""
    data = message.to_dict()
    for call in data.get("tool_calls", ()) if text_arguments else ():
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
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
    """Token ids of a conversation and, for each, whether an assistant wrote it (its end-of-turn token
    included).

    A reply's tokens are those that follow its prompt: prompt and reply are encoded apart. A template may show
    a reply otherwise once the conversation goes on; then the reply is what it shows. `template=None` is the
    tokenizer's own; `variables`: more names for it; `learn`: for each message whether an assistant's words in
    it are marked at all. Errors: `DataError` for no template, and unless a prompt is asked for, for one that
    changes earlier turns so that a reply cannot be found again, or that leaves out reasoning that is to be
    learnt.
    """
    template = tokenizer.chat_template if template is None else template
    if template is None:
        raise DataError(
            "this tokenizer has no chat template; save a chat_template.jinja beside it or give one"
        )
    hidden, names = _hide(messages, tools or (), sorted(tokenizer.added_tokens, key=len, reverse=True))
    safe_messages, safe_tools = hidden
    variables = {**tokenizer.named_tokens, **(variables or {})}

    def text_of(count: int, prompt: bool) -> str:
        return render(safe_messages[:count], template, prompt, safe_tools, variables)

    whole = text_of(len(safe_messages), add_generation_prompt)
    ids: list[int] = []
    mask: list[bool] = []
    done = 0

    def add(end: int, learnt: bool) -> None:
        """Encode the text up to `end`."""
        nonlocal done
        new = _encode(tokenizer, whole[done:end], names)
        ids.extend(new)
        mask.extend([learnt] * len(new))
        done = end

    for index, message in enumerate(safe_messages):
        if message.role != "assistant":
            continue
        marked = learn is None or learn[index]
        span = _reply_span(
            tokenizer, whole, *(text_of(index + n, p) for n, p in ((0, False), (0, True), (1, False)))
        )
        if span is None or span[0] < done:
            if add_generation_prompt:
                break  # nobody learns from a prompt: the rest is encoded as it stands
            raise DataError(
                f"chat template: it rewrites turn {index + 1} later on, so replies cannot be told apart"
            )
        lost = message.reasoning is not None and message.reasoning.strip() not in whole[span[0] : span[1]]
        if lost and marked and not add_generation_prompt:
            raise DataError(
                f"chat template: it leaves out the reasoning of turn {index + 1}; drop it, or learn no such turn"
            )
        add(span[0], False)
        add(span[1], marked)
    add(len(whole), False)
    return ids, mask


def _reply_span(
    tokenizer: Tokenizer, whole: str, before: str, prompt: str, turn: str
) -> tuple[int, int] | None:
    """Where a reply stands in the `whole` text, its end-of-turn token included; None when it cannot be told.

    `before`, `prompt`, `turn`: the conversation before it, with the request for a reply, and with the reply.
    """
    stops = [name for name, number in tokenizer.added_tokens.items() if number in tokenizer.stop_ids]
    if turn.startswith(prompt) and whole.startswith(turn):
        # What the template writes after the end of turn (a line break) is not the model's.
        ends = [turn.rfind(name, len(prompt)) + len(name) for name in stops if name in turn[len(prompt) :]]
        return len(prompt), max(ends, default=len(turn))
    start = next(
        (i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b),
        min(len(prompt), len(whole)),
    )
    for (
        name
    ) in tokenizer.added_tokens:  # never from the middle of a token, such as the one that begins reasoning
        at = prompt.rfind(name, 0, start + len(name))
        start = at if at < start < at + len(name) and at >= 0 else start
    if not whole.startswith(before) or start < len(before):
        return None
    found = [(whole.find(name, start), name) for name in (*stops, *_MESSAGE_ENDS) if name in whole[start:]]
    if not found:
        return start, len(whole)
    at, name = min(found)
    return start, at + (len(name) if name in stops else 0)


def _hide(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], specials: Sequence[str]
) -> tuple[tuple[list[Message], list[Any]], dict[str, str]]:
    """Replace special tokens inside people's text by private-use characters; return also what each stands
    for.
    """
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
            content=tuple(TextPart(hide(part.text)) for part in message.content),
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
