"""Conversations with tools as they are generated: one reply after the other, on the same token ids.

What the model wrote is never rendered again. A chat template says what follows a reply that calls tools: the
end of its turn, the results, and where the next reply begins. These tokens are cut out of a rendering in
which the reply is a stand-in, so nothing odd that a model writes can change them. Whether that is the
conversation which the template shows later on is tried once, before the first reply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from coterie.config.errors import DataError
from coterie.text.chat import ChatPage
from coterie.text.messages import Message, ToolCall
from coterie.text.printable import joined
from coterie.text.replies import NumberedCall, ReplyParser
from coterie.text.reply_formats import format_of
from coterie.text.template_facts import complaint_of, facts_of
from coterie.text.tokenizer import Tokenizer

_TAIL = 16  # tokens of a prompt in which its last mark is
_STAND_IN = "f"
_MOST_KNOWN = 1024  # results whose tokens are kept: conversations about one problem meet the same ones


class ToolTurns:
    """Reads replies that may call tools, and says what follows them.

    `head`: the messages of a conversation up to its question; `tools`: their descriptions.
    Errors: `DataError` for a template that does not show tools, calls or results, that shows a reply
    otherwise than it was generated, or that changes a turn when the conversation goes on.
    """

    def __init__(
        self, tokenizer: Tokenizer, head: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> None:
        self._tokenizer, self._head, self._tools = tokenizer, list(head), list(tools)
        self._form = format_of(tokenizer.template_for(True))
        self._known: dict[tuple[tuple[str, str, str], ...], tuple[int, ...]] = {}
        self._check()

    def read(self, prompt: Sequence[int], text: str, cut: bool) -> tuple[Message, list[NumberedCall]]:
        """A reply to `prompt` and its calls, those included that are not well-formed.

        `cut`: the model had not ended it. Calls without an id get one that depends on the reply alone.
        """
        numbers = iter(range(100_000))
        opened = self._form.opened_by(self._tokenizer.decode(prompt[-_TAIL:]))
        parser = ReplyParser(self._form, opened, True, lambda: f"call{next(numbers):05d}", streamed=True)
        whole = parser.feed(text)
        whole.add(parser.flush(cut))
        calls = tuple(replace(numbered.call, id=numbered.id) for numbered in whole.calls)
        return Message("assistant", whole.content, whole.reasoning or None, calls), whole.calls

    def after(self, results: Sequence[Message]) -> tuple[int, ...]:
        """The tokens between a reply and the next one, given the results of all of its calls in order.

        Errors: `DataError` where the template refuses them (some take one call in a turn).
        """
        key = tuple((result.name or "", result.tool_call_id or "", result.text) for result in results)
        if key not in self._known:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            calls = [ToolCall(_STAND_IN, {}, result.tool_call_id) for result in results]
            talk = [*self._head, Message("assistant", "", None, calls), *results]
            self._known[key] = tuple(self._page(talk).after_last_reply())
        return self._known[key]

    def _page(self, messages: Sequence[Message]) -> ChatPage:
        return ChatPage(self._tokenizer, messages, None, self._tools, None)

    def _check(self) -> None:
        """Two rounds of calls, as they are generated and as the template shows them afterwards."""
        facts = facts_of(self._tokenizer, tools=True)
        thought = "hm" if facts.reasoning else None
        name = joined(self._tools[0]["function"]["name"])
        call = ToolCall(name, {"a": "b"}, "call00000")
        turn = Message("assistant", "", thought, (call,))
        rounds = [turn, result_message(call, "c"), turn, result_message(call, "d")]
        complaint = complaint_of(self._tokenizer, [*self._head, *rounds], self._tools)
        if complaint is not None:
            raise DataError(complaint)
        for count in (1, 3):
            prompt = self._page([*self._head, *rounds[: count - 1]]).show(True).text
            page = self._page([*self._head, *rounds[:count]])
            shown = page.show(False)
            _, end = page.last_reply(shown)
            if not shown.text.startswith(prompt):
                raise DataError(
                    "chat template: it shows a reply that calls tools, or what stands before it, otherwise "
                    "than when it was asked for, so a model would learn from conversations it never meets"
                )
            self._read_back(prompt, shown.text[len(prompt) : end], turn)
            page = self._page([*self._head, *rounds[: count + 1]])
            if not page.show(False).text.startswith(shown.text[:end]):
                raise DataError(
                    "chat template: it changes a turn that calls tools once results follow, so a model would "
                    "learn from conversations it never meets"
                )
            if tuple(page.after_last_reply()) != self.after([rounds[count]]):
                raise DataError("chat template: what follows a call depends on what stands before it")

    def _read_back(self, prompt: str, shown: str, turn: Message) -> None:
        """Errors: `DataError` unless a shown turn is read as what it is."""
        for name in (name for name, token in self._tokenizer.added_tokens.items() if self._stops(token)):
            shown = shown.removesuffix(name)
        ids = self._tokenizer.encode(prompt[-200:], allow_special=True)
        message, calls = self.read(ids, shown, cut=False)
        if message != turn or any(call.broken for call in calls):
            raise DataError(
                f"chat template: a call that it shows is not read back as one (the format of replies is "
                f"{self._form.name}); give a template that coterie knows (--template)"
            )

    def _stops(self, token: int) -> bool:
        return token in self._tokenizer.stop_ids


def result_message(call: ToolCall, text: str) -> Message:
    """The result of a call as a turn of the conversation."""
    return Message("tool", joined(text), name=joined(call.name), tool_call_id=call.id)
