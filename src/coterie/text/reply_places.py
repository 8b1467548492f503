"""Where replies begin and end in a rendered conversation.

A reply and what asks for it are encoded apart, because a model continues the tokens of its prompt: text that
was generated must get the same ids when it is read again. For a prompt it is enough to know where replies
begin (`reply_starts`, from what the template writes to ask for a reply). Learning needs exact spans
(`reply_span`), for any template, and finds them by rendering the beginnings of the conversation.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coterie.config.errors import DataError
from coterie.text.messages import Message, ToolCall
from coterie.text.rendering import render
from coterie.text.tokenizer import Tokenizer

_PROBE = "\U0010fffd"  # the last private-use character: the text of the messages of a probe
_SHORTEST = 3  # characters of an opening without control tokens; shorter ones occur by chance
# Tokens that end a message which is shown again, in templates whose model ends its turn with another one.
_MESSAGE_ENDS = ("<|end|>",)


@dataclass(frozen=True)
class Opening:
    """What a template writes before a reply. `always`: the part of `text` that no reply leaves out."""

    text: str
    always: str

    @property
    def mark(self) -> str:
        """`always` without white space around it, which JSON would spell differently inside a string."""
        return self.always.strip()


def openings(
    template: str, variables: Mapping[str, Any], added_tokens: Mapping[str, int]
) -> tuple[Opening, ...]:
    """What a template writes to ask for a reply: after a question, and after the result of a tool."""
    key = json.dumps(variables, sort_keys=True, default=str)
    return _openings(template, key, tuple(added_tokens))


@functools.lru_cache(maxsize=64)
def _openings(template: str, variables: str, tokens: tuple[str, ...]) -> tuple[Opening, ...]:
    question = Message("user", _PROBE)
    call = Message("assistant", "", None, (ToolCall("f", {}),))
    found = {}
    for talk in ([question], [question, call, Message("tool", _PROBE, name="f")]):
        try:
            plain = render(talk, template, False, None, json.loads(variables))
            asked = render(talk, template, True, None, json.loads(variables))
        except DataError:
            continue  # the template does not take such a conversation, so it has no such opening
        text = asked.removeprefix(plain).lstrip() if asked.startswith(plain) else ""
        always = _unmistakable(text, tokens)
        if not text and talk == [question]:
            # Mistral's template writes nothing to ask for a reply; its questions end with a mark.
            text = always = asked.rpartition(_PROBE)[2]
        if any(name in always for name in tokens) or len(always.strip()) >= _SHORTEST:
            found[text] = Opening(text, always)
    return tuple(found.values())


def _unmistakable(text: str, tokens: tuple[str, ...]) -> str:
    """An opening up to its second control token, or up to the first one when it begins with plain text.

    What follows may be missing in a reply that is shown again, such as an empty block of reasoning.
    """
    begins = [name for name in tokens if text.startswith(name)]
    skip = len(max(begins, key=len)) if begins else 0
    ends = [place for name in tokens if (place := text.find(name, skip)) >= 0]
    return text[: min(ends, default=len(text))]


def reply_starts(text: str, found: tuple[Opening, ...], added_tokens: Mapping[str, int]) -> list[int]:
    """The places in a rendered conversation at which replies begin, in order."""
    starts = set()
    for opening in found:
        at = text.find(opening.always)
        while at >= 0:
            shared = _shared(opening.text, text, at)
            starts.add(at + _not_inside_a_token(opening.text, shared, added_tokens))
            at = text.find(opening.always, at + len(opening.always))
    return sorted(starts)


def reply_span(
    tokenizer: Tokenizer, whole: str, before: str, prompt: str, turn: str
) -> tuple[int, int] | None:
    """Where a reply is in the `whole` text, its end-of-turn token included; None when it cannot be found.

    `before`, `prompt`, `turn`: the conversation before the reply, then with the request for a reply, then
    with the reply. A template may show a reply differently once the conversation goes on; the span is then
    that of the shown form.
    """
    added = tokenizer.added_tokens
    stops = [name for name, number in added.items() if number in tokenizer.stop_ids]
    if turn.startswith(prompt) and whole.startswith(turn):
        # What the template writes after the end of turn (a line break) is not the model's.
        ends = [turn.rfind(name, len(prompt)) + len(name) for name in stops if name in turn[len(prompt) :]]
        return len(prompt), max(ends, default=len(turn))
    start = _not_inside_a_token(prompt, _shared(prompt, whole), added)
    if not whole.startswith(before) or start < len(before):
        return None
    found = [(whole.find(name, start), name) for name in (*stops, *_MESSAGE_ENDS) if name in whole[start:]]
    if not found:
        return start, len(whole)
    at, name = min(found)
    return start, at + (len(name) if name in stops else 0)


def _shared(wanted: str, text: str, at: int = 0) -> int:
    """How many characters of `wanted` are those of `text` from `at` on."""
    there = text[at : at + len(wanted)]
    differs = (place for place, (a, b) in enumerate(zip(wanted, there, strict=False)) if a != b)
    return next(differs, len(there))


def _not_inside_a_token(text: str, place: int, tokens: Mapping[str, int]) -> int:
    """`place`, or the beginning of the control token of `text` that it cuts, such as `<think>`."""
    for name in tokens:
        at = text.rfind(name, 0, place + len(name))
        place = at if at < place < at + len(name) and at >= 0 else place
    return place
