"""Where the assistant's replies are in a rendered conversation, found by one more rendering.

In that rendering each message carries one private-use character, which no other has, at the edges of its
words (`ways_of_marking`). Without these characters it is the same text, so they tell where the words of every
message are. What a template writes between a message's words and the reply it asks for does not depend on the
conversation: rendering a few short ones shows it (`surroundings`). The work is linear in the turns, and a
template is never given a beginning of the conversation, which it may refuse.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from coterie.config.errors import DataError
from coterie.text.control_tokens import with_strings
from coterie.text.messages import ROLES, Message, TextPart, ToolCall
from coterie.text.rendering import render

_PROBE = "\U0010fffd"  # the last private-use character: the words of a message whose surroundings are wanted
# Tokens that end a message which is shown again, in templates whose model ends its turn with another one.
_MESSAGE_ENDS = ("<|end|>",)
_SHORTEST = 3  # characters of an opening without control tokens; shorter ones occur by chance


Span = tuple[int, int]


@dataclass(frozen=True)
class Opening:
    """What a template writes between the words of a message and a reply.

    `text`: all of it. `always`: what it adds to ask for the reply, up to what a reply that is shown again may
    lack (an empty block of reasoning).
    """

    text: str
    always: str


@dataclass(frozen=True)
class Surroundings:
    """Openings by the role of the message before (`""`: none), and what is written after a last reply."""

    openings: Mapping[str, Opening]
    after: str


def surroundings(template: str, variables: Mapping[str, Any], names: Collection[str]) -> Surroundings:
    """What a template writes around replies; `names`: the tokenizer's added tokens."""
    key = json.dumps(variables, sort_keys=True, default=str)
    return _surroundings(template, key, tuple(sorted(names)))


@functools.lru_cache(maxsize=64)
def _surroundings(template: str, variables: str, names: tuple[str, ...]) -> Surroundings:
    question = Message("user", _PROBE)
    call = Message("assistant", "", None, (ToolCall("f", {}),))
    talks = {
        "user": [question],
        "tool": [question, call, Message("tool", _PROBE, name="f")],
        "assistant": [question, Message("assistant", _PROBE)],
        "system": [Message("system", _PROBE)],
        "": [],
    }

    def shown(talk: Sequence[Message], prompt: bool) -> str | None:
        try:
            return render(talk, template, prompt, None, json.loads(variables))
        except DataError:
            return None  # the template does not take such a conversation, so it has no such opening

    found = {}
    for role, talk in talks.items():
        asked, plain = shown(talk, True), shown(talk, False)
        if asked is None or (talk and _PROBE not in asked):
            continue
        text = asked.rpartition(_PROBE)[2]
        added = asked.removeprefix(plain) if plain is not None and asked.startswith(plain) else ""
        found[role] = Opening(text, _unmistakable(added.lstrip(), names))
    last = shown(talks["assistant"], False)
    return Surroundings(found, last.rpartition(_PROBE)[2] if last is not None and _PROBE in last else "")


def _unmistakable(text: str, names: Sequence[str]) -> str:
    """An opening up to its second control token, or up to the first one when it begins with plain text."""
    begins = [name for name in names if text.startswith(name)]
    skip = len(max(begins, key=len)) if begins else 0
    ends = [place for name in names if (place := text.find(name, skip)) >= 0]
    always = text[: min(ends, default=len(text))]
    return always if begins or len(always.strip()) >= _SHORTEST else ""


def ways_of_marking(messages: Sequence[Message], marks: Sequence[str]) -> Iterator[list[Message]]:
    """Messages that carry their marks, in ways from the most telling to the most careful.

    A template may leave out a message without words, so those are marked first and then not; it may look at
    how a text begins, so at last there are marks only behind the last words.
    """
    talk = ("user", "tool", "assistant")
    for empty, sparing in ((ROLES, False), (talk, False), (talk[:2], False), ((), False), ((), True)):
        yield [
            _marked(message, mark, message.role in empty, sparing)
            for message, mark in zip(messages, marks, strict=True)
        ]


def _marked(message: Message, mark: str, empty: bool, sparing: bool) -> Message:
    """A message with its mark around its words. White space at the edges stays outside: templates trim."""

    def around(text: str) -> str:
        body, before = text.strip(), len(text) - len(text.lstrip())
        start = "" if sparing or message.role != "assistant" else mark
        return text[:before] + start + body + mark + text[before + len(body) :] if body else text

    def arguments(call: ToolCall) -> Mapping[str, Any]:
        """Every text of a call, and every key, with the mark: whichever is last ends what the model wrote."""
        marked: Mapping[str, Any] = with_strings(call.arguments, lambda text: text + mark)
        return call.arguments if sparing else marked

    if not message.text.strip() and not message.tool_calls:
        text = message.text + mark if empty else message.text
    else:
        text = around(message.text)
    content = (TextPart(text),) if text else ()
    if message.role != "assistant" or (sparing and message.text.strip() and not message.tool_calls):
        return replace(message, content=content)
    calls = tuple(
        replace(call, name=call.name + mark, arguments=arguments(call)) for call in message.tool_calls
    )
    reasoning = None if message.reasoning is None else around(message.reasoning)
    return replace(message, content=content, reasoning=reasoning, tool_calls=calls)


class ReplyFinder:
    """Finds replies in a rendered conversation.

    `text`: the rendering. `places`: (place in it, message) of every mark, in order. `stops`: names of the
    tokens that end a reply. `names`: all added tokens.
    """

    def __init__(
        self,
        text: str,
        places: Sequence[tuple[int, int]],
        around: Surroundings,
        stops: Collection[str],
        names: Collection[str],
    ) -> None:
        self._text, self._places, self._around = text, places, around
        self._stops, self._names = stops, names
        self._first: dict[int, int] = {}
        self._last: dict[int, int] = {}
        for number, (_, index) in enumerate(places):
            self._first.setdefault(index, number)
            self._last[index] = number

    def spans(self, messages: Sequence[Message]) -> Iterator[tuple[int, Span | None]]:
        """Each assistant's message with its span, end-of-turn token included; None if it is not shown.

        A template may show a reply otherwise than it was generated; the span is that of the shown form.
        """
        done = before = 0  # the end of the last reply; the number of the last mark of the messages before
        for index, message in enumerate(messages):
            if message.role == "assistant":
                span = self._span(messages, index, before)
                if span is not None and span[0] < done:
                    span = None
                done = done if span is None else span[1]
                yield index, span
            before = max(before, self._last.get(index, -1) + 1)

    def _span(self, messages: Sequence[Message], index: int, before: int) -> Span | None:
        """Span of one reply. `before`: how many marks there are up to the end of the messages before it."""
        places, shown = self._places, index in self._first
        if not shown and (messages[index].text.strip() or messages[index].tool_calls):
            return None
        first = self._first[index] if shown else before
        after = self._last[index] + 1 if shown else before
        if first < before:
            return None
        gap = places[first - 1][0] if first else 0
        words = places[first][0] if first < len(places) else len(self._text)
        start = gap + self._start(self._text[gap:words], messages[index - 1].role if index else "")
        end = places[after - 1][0] if shown else start
        limit = places[after][0] if after < len(places) else len(self._text)
        return start, end + self._end(self._text[end:limit], index + 1 == len(messages))

    def _start(self, gap: str, role: str) -> int:
        """Where in the text between the words of two messages the reply of the second one begins."""
        openings = self._around.openings
        if role in openings and not openings[role].text.strip():
            return len(_common(gap, openings[role].text))
        for known in (role, *openings):
            if known in openings and (at := self._after(gap, openings[known])) is not None:
                return at
        return len(gap)

    def _after(self, gap: str, opening: Opening) -> int | None:
        """The place in `gap` behind an opening, of which a reply that is shown again may lack the end."""
        bare, wanted = gap.lstrip(), opening.text.lstrip()
        skip = len(gap) - len(bare)
        at = skip if bare.startswith(wanted) else gap.rfind(wanted)
        if at >= 0 and wanted:
            return at + len(wanted)
        at = gap.rfind(opening.always) if opening.always else -1
        if at >= 0:
            wanted = opening.text[opening.text.rfind(opening.always) :]
        else:
            at = skip
        shared = self._outside(wanted, len(_common(wanted, gap[at:])))
        return at + shared if shared else None

    def _end(self, rest: str, is_last: bool) -> int:
        """How much of the text after a reply's words belongs to it; `rest` reaches to the next words."""
        after = self._around.after.lstrip()
        skip = len(rest) - len(rest.lstrip())
        known = after and rest[skip:].startswith(after)
        # What the template writes after the end of turn (a line break) is not the model's.
        own = rest if is_last else rest[: skip + len(after)] if known else ""
        ends = [own.rfind(name) + len(name) for name in self._stops if name in own]
        found = [(rest.find(name), name) for name in (*self._stops, *_MESSAGE_ENDS) if name in rest]
        if ends:
            return max(ends)
        if found and not is_last:
            at, name = min(found)
            return at + (len(name) if name in self._stops else 0)
        return len(own) or len(_common(rest, self._around.after))

    def _outside(self, text: str, place: int) -> int:
        """`place`, or the beginning of the control token of `text` that it cuts, such as `<think>`."""
        for name in self._names:
            at = text.rfind(name, 0, place + len(name))
            place = at if at < place < at + len(name) and at >= 0 else place
        return place


def _common(one: str, other: str) -> str:
    """The beginning that two texts share."""
    differs = (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return one[: next(differs, min(len(one), len(other)))]
