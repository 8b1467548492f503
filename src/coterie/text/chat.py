"""Conversations to token ids: `conversation_ids` for a prompt, `render_ids` with what is learnt.

A conversation is rendered as a whole, and the whole text is encoded in one call, as transformers does it: the
ids are those of `apply_chat_template`. What people typed is the one exception (`text.control_tokens`).
Learning renders it once more to find what the assistant wrote (`text.reply_places`).
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from coterie.config.errors import DataError
from coterie.text.control_tokens import Shown, Talk, TypedMarks, typed_names, without
from coterie.text.guarded import Encoded
from coterie.text.messages import Message, ToolCall
from coterie.text.rendering import render, shipped_template
from coterie.text.replies import parse_reply
from coterie.text.reply_places import ReplyFinder, Span, surroundings, ways_of_marking
from coterie.text.template_facts import left_out
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
    "typed_control_tokens",
    "with_call_ids",
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
    """Token ids of a conversation, rendered and encoded in one pass.

    `template=None` is the tokenizer's own; `variables`: more names for it. Control tokens that users and
    tools wrote stay text. Errors: `DataError` for no template, or one that refuses the conversation.
    """
    page = ChatPage(tokenizer, messages, template, tools, variables)
    return page.encode(page.show(add_generation_prompt)).ids


def with_call_ids(messages: Sequence[Message]) -> list[Message]:
    """The messages with ids for calls that have none, and for the results of these, in their order.

    They are nine letters and digits, as Mistral's templates insist, and depend on the conversation alone.
    """
    found: list[Message] = []
    waiting: list[str] = []
    for number, message in enumerate(messages):
        if message.tool_calls:
            calls = []
            for place, call in enumerate(message.tool_calls):
                seed = f"{number} {place} {call.name} {call.arguments}"
                new = hashlib.sha256(seed.encode("utf-8", "replace")).hexdigest()[:9]
                calls.append(call if call.id is not None else replace(call, id=new))
            waiting = [call.id or "" for call in calls]
            message = _changed(message, tool_calls=tuple(calls))
        elif message.role == "tool":
            known = message.tool_call_id
            if known is not None and known in waiting:
                waiting.remove(known)
            elif known is None and waiting:
                message = _changed(message, tool_call_id=waiting.pop(0))
        found.append(message)
    return found


def _changed(message: Message, **new: Any) -> Message:
    keys = (*message.keys, *new) if message.keys else ()
    return replace(message, **new, keys=tuple(dict.fromkeys(keys)))


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
    Errors: those of `conversation_ids`; `DataError` for a template that leaves out a reply, or reasoning,
    that is to be learnt.
    """
    page = ChatPage(tokenizer, messages, template, tools, variables)
    shown = page.show(add_generation_prompt)
    encoded = page.encode(shown)
    mask = [False] * len(encoded.ids)
    if not add_generation_prompt and any(message.role == "assistant" for message in messages):
        for index, span in page.replies(shown):
            if learn is None or learn[index]:
                _mark(mask, encoded, page.added, _learnt(messages[index], index, span, shown.text))
        for index, what in left_out(messages, shown.text, page.text_of):
            if messages[index].role == "assistant" and (learn is None or learn[index]):
                raise DataError(f"chat template: it leaves out {what} of turn {index + 1}")
    return Rendered(encoded.ids, mask)


def typed_control_tokens(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    template: str | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> list[str]:
    """Control tokens in the words of users and tools, which stay text. Errors: `DataError`, no template."""
    page = ChatPage(tokenizer, messages, template, tools, None)
    return typed_names(page.talk, page.control)


class ChatPage:
    """A conversation with the tokenizer and template that show it.

    Errors: `DataError` for no template, and wherever the template refuses the conversation.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        messages: Sequence[Message],
        template: str | None,
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any] | None,
    ) -> None:
        self._tokenizer = tokenizer
        self._template = tokenizer.template_for(bool(tools)) if template is None else template
        self.talk = Talk(messages, tools, variables)
        self.control = tokenizer.control_tokens(self._template)
        self.added = frozenset(tokenizer.added_tokens.values())
        self._safe, self._typed = self.talk, None
        if typed_names(self.talk, self.control):
            self._typed = TypedMarks(*self.talk.unused(2))
            self._safe = self._typed.put(self.talk, self.control)

    def show(self, prompt: bool) -> Shown:
        """The conversation rendered, with the request for a reply where `prompt`."""
        text = self._render(self._safe.messages, prompt)
        return Shown(text) if self._typed is None else self._typed.take(text)

    def text_of(self, messages: Sequence[Message]) -> str:
        """The text of other messages in the place of this conversation's."""
        return self._render(messages, False)

    def encode(self, shown: Shown) -> Encoded:
        """The whole text in one call."""
        is_token = None if self._typed is None else shown.is_token
        return self._tokenizer.encode_places(shown.text, is_token, self._template)

    def replies(self, shown: Shown) -> Iterator[tuple[int, Span | None]]:
        """Each assistant's message with the span of its reply in the rendered text; None: it is not shown."""
        messages = self._safe.messages
        marks = self._safe.unused(len(messages))
        number = {mark: index for index, mark in enumerate(marks)}
        for marked in ways_of_marking(messages, marks):
            text = self._render(marked, False)
            bare = text if self._typed is None else self._typed.take(text).text
            bare, places = without(bare, marks)
            if bare == shown.text:
                break
        else:
            raise DataError(
                "chat template: it looks into replies in a way that hides where they begin and end"
            )
        tokenizer = self._tokenizer
        names = tokenizer.added_tokens
        stops = [name for name, token in names.items() if token in tokenizer.stop_ids]
        variables = {**tokenizer.named_tokens, **(self._safe.variables or {})}
        around = surroundings(self._template, variables, names)
        found = [(place, number[mark]) for place, mark in places]
        return ReplyFinder(shown.text, found, around, stops, names).spans(messages)

    def last_reply(self, shown: Shown) -> Span:
        """Where the last reply is in the rendered text, end of turn included. Errors: `DataError`."""
        span = next((span for _, span in reversed(list(self.replies(shown)))), None)
        if span is None:
            raise DataError("chat template: it rewrites replies, so where one ends is not known")
        return span

    def after_last_reply(self) -> list[int]:
        """The tokens that follow the last reply, up to where the next one begins.

        Errors: `DataError` for a template that ends a reply with no token that stops the model.
        """
        plain, asked = self.show(False), self.show(True)
        _, end = self.last_reply(plain)
        if not asked.text.startswith(plain.text):
            raise DataError("chat template: it shows a conversation differently where a reply is asked for")
        encoded = self.encode(asked)
        first = bisect_left(encoded.offsets, end, key=lambda place: place[0])
        if not first or encoded.ids[first - 1] not in self._tokenizer.stop_ids:
            raise DataError("chat template: it ends replies that call tools with no token that stops a reply")
        return encoded.ids[first:]

    def _render(self, messages: Sequence[Message], prompt: bool) -> str:
        variables = {**self._tokenizer.named_tokens, **(self._safe.variables or {})}
        return render(messages, self._template, prompt, self._safe.tools, variables)


def _learnt(message: Message, index: int, span: Span | None, text: str) -> Span:
    """The span of a reply that is to be learnt. Errors: `DataError` if the template does not show it all."""
    shown = "" if span is None else text[slice(*span)]
    if any(call.name not in shown for call in message.tool_calls):
        raise DataError(f"chat template: it leaves out the tool calls of turn {index + 1}, so none is learnt")
    if span is None:
        raise DataError(
            f"chat template: it rewrites turn {index + 1} later on, so replies cannot be told apart"
        )
    if message.reasoning is not None and message.reasoning.strip() not in shown:
        raise DataError(
            f"chat template: it leaves out the reasoning of turn {index + 1}; drop it, or learn no such turn"
        )
    return span


def _mark(mask: list[bool], encoded: Encoded, added: Collection[int], span: Span) -> None:
    """Mark the tokens that stand for any character of the span."""
    begin, end = span
    first = bisect_right(encoded.offsets, begin, key=lambda place: place[1])
    for number in range(first, len(mask)):
        start, _ = encoded.offsets[number]
        if start >= end:
            break
        # An added token may take white space after it, which is the reply's; it is the prompt's all the same.
        mask[number] = start >= begin or encoded.ids[number] not in added
