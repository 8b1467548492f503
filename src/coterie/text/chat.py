"""Conversations to token ids: `conversation_ids` for a prompt, `render_ids` with what is learnt.

A prompt is rendered once, as a whole. Only learning asks which tokens the assistant wrote, and only then are
the beginnings of the conversation rendered, so that any Hugging Face template works unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from coterie.config.errors import DataError
from coterie.text.control_tokens import SafeConversation
from coterie.text.messages import Message, ToolCall
from coterie.text.rendering import render, shipped_template
from coterie.text.replies import parse_reply
from coterie.text.reply_places import openings, reply_span, reply_starts
from coterie.text.tokenizer import Tokenizer

__all__ = [
    "Message",
    "Rendered",
    "ToolCall",
    "conversation_ids",
    "parse_reply",
    "render",
    "render_ids",
    "shipped_template",
]


class Rendered(NamedTuple):
    """A conversation as tokens (S of them). `mask`: whether an assistant wrote the token and it is learnt."""

    ids: list[int]
    mask: list[bool]


def conversation_ids(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    template: str | None = None,
    add_generation_prompt: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
    variables: Mapping[str, Any] | None = None,
) -> list[int]:
    """Token ids of a conversation, rendered in one pass.

    `template=None` is the tokenizer's own; `variables`: more names for it. Control tokens inside messages and
    tools stay text. Errors: `DataError` for no template, and when the template refuses the conversation.
    """
    template, variables = _settings(tokenizer, template, variables)
    added = tokenizer.added_tokens
    found = openings(template, variables, added)
    # A user could type an opening of plain text, so the occurrences in messages are hidden.
    plain = [opening.mark for opening in found if not any(name in opening.mark for name in added)]
    safe = SafeConversation(tokenizer, messages, tools, plain)
    whole = render(safe.messages, template, add_generation_prompt, safe.tools, variables)
    edges = [0, *reply_starts(whole, found, added), len(whole)]
    return safe.ids(whole[start:end] for start, end in pairwise(edges))


def render_ids(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    template: str | None = None,
    add_generation_prompt: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
    variables: Mapping[str, Any] | None = None,
    learn: Sequence[bool] | None = None,
) -> Rendered:
    """Token ids of a conversation and the mask of what an assistant wrote, end-of-turn tokens included.

    A reply's tokens are those that follow its prompt. A template may show a reply differently once the
    conversation goes on; the reply is then what it shows. `learn`: for each message whether an assistant's
    words in it are marked at all. With `add_generation_prompt` nothing is: nobody learns from a prompt.
    Errors: those of `conversation_ids`; `DataError` for a template that changes earlier turns so that a reply
    cannot be found again, or that leaves out reasoning that is to be learnt.
    """
    if add_generation_prompt:
        asked = conversation_ids(tokenizer, messages, template, True, tools, variables)
        return Rendered(asked, [False] * len(asked))
    template, variables = _settings(tokenizer, template, variables)
    safe = SafeConversation(tokenizer, messages, tools)

    def text_of(count: int, prompt: bool) -> str:
        return render(safe.messages[:count], template, prompt, safe.tools, variables)

    whole = text_of(len(safe.messages), False)
    ids: list[int] = []
    mask: list[bool] = []
    done = 0

    def add(end: int, learnt: bool) -> None:
        """Encode the text up to `end`."""
        nonlocal done
        new = safe.ids([whole[done:end]])
        ids.extend(new)
        mask.extend([learnt] * len(new))
        done = end

    for index, message in enumerate(safe.messages):
        if message.role != "assistant":
            continue
        marked = learn is None or learn[index]
        beginnings = text_of(index, False), text_of(index, True), text_of(index + 1, False)
        span = reply_span(tokenizer, whole, *beginnings)
        if span is None or span[0] < done:
            raise DataError(
                f"chat template: it rewrites turn {index + 1} later on, so replies cannot be told apart"
            )
        lost = message.reasoning is not None and message.reasoning.strip() not in whole[span[0] : span[1]]
        if lost and marked:
            raise DataError(
                f"chat template: it leaves out the reasoning of turn {index + 1}; drop it, or learn no "
                "such turn"
            )
        add(span[0], False)
        add(span[1], marked)
    add(len(whole), False)
    return Rendered(ids, mask)


def _settings(
    tokenizer: Tokenizer, template: str | None, variables: Mapping[str, Any] | None
) -> tuple[str, dict[str, Any]]:
    """The template to use, and the names it is given besides the conversation. Errors: `DataError`."""
    template = tokenizer.chat_template if template is None else template
    if template is None:
        raise DataError(
            "this tokenizer has no chat template; save a chat_template.jinja in its directory or give one"
        )
    return template, {**tokenizer.named_tokens, **(variables or {})}
