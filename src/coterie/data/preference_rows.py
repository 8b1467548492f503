"""Rows that compare two continuations, and rows that label one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from coterie.config.errors import DataError
from coterie.data.chat_rows import chat, continued, instructed
from coterie.data.fields import QUESTION, Fields, mark
from coterie.data.formats import (
    ChatExample,
    Example,
    LabelledExample,
    PairExample,
    PreferenceExample,
)
from coterie.data.records import Origin
from coterie.data.turns import RowTurn, learnt_of, read_turns, turns_in
from coterie.text.messages import Message

Pair = tuple[ChatExample, ChatExample] | tuple[PairExample, PairExample]
_SIDES = ("chosen", "rejected")


def read_preference(row: Fields, origin: Origin) -> PreferenceExample:
    """Two continuations of one beginning, in every layout of public data.

    The beginning: `prompt` (text or turns), `conversations`, `messages`, a question, or what the two have in
    common. The sides: texts, single turns, turns after the beginning, or whole conversations.
    Errors: `DataError` that names the field.
    """
    margin = row.take("margin")
    margin = 0.0 if margin is None else margin
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not abs(margin) < 1e30:  # NaN too
        raise DataError("field 'margin' is not a number")
    chosen, rejected = _pair(row, origin)
    if isinstance(chosen, ChatExample) and isinstance(rejected, ChatExample):
        for side in (chosen, rejected):
            if not any(side.learn or (True,)):
                raise DataError("chosen and rejected do not differ in what an assistant says")
    return PreferenceExample(chosen, rejected, origin, float(margin))


def _pair(row: Fields, origin: Origin) -> tuple[ChatExample | PairExample, ChatExample | PairExample]:
    if "chosen" not in row:  # swift: the conversation is the chosen one
        whole = read_turns(row.take("messages"), "messages")
        return _whole(row, origin, whole, _rejected(row, whole))
    sides = [_side(row.take(name)) for name in _SIDES]
    prompt = _prompt(row)
    if prompt is None:
        if all(isinstance(side, str) for side in sides):
            return _common_text(sides[0], sides[1], origin)
        if any(isinstance(side, str) for side in sides):
            raise DataError("chosen or rejected is text and the other one is not")
        whole, other = (read_turns(side, name) for side, name in zip(sides, _SIDES, strict=True))
        return _whole(row, origin, whole, other)
    if isinstance(prompt, str) and all(_repeats(prompt, side) for side in sides):
        sides = [side[len(prompt) :] for side in sides]
    pair = [continued(row, origin, prompt, side, name) for side, name in zip(sides, _SIDES, strict=True)]
    if isinstance(pair[0], ChatExample) and isinstance(pair[1], ChatExample):
        pair = [_learnt_from(side, _same(pair[0].messages, pair[1].messages)) for side in pair]
    return pair[0], pair[1]


def _prompt(row: Fields) -> Any:
    """The beginning that both sides have: text, turns, or None if the row gives none."""
    for name in ("prompt", "conversations", "conversation"):
        if name in row:
            return row.take(name)
    if "instruction" in row:
        return [turn.message.to_dict() for turn in instructed(row)]
    if any(name in row for name in QUESTION):
        return row.text(*QUESTION)
    if "messages" in row:
        # Public sets repeat the chosen conversation here; then it says nothing new.
        turns = read_turns(row.record["messages"], "messages")
        if turns[-1].message.role != "assistant":
            return row.take("messages")
    return None


def _side(value: Any) -> Any:
    """One side, a single turn as a list."""
    if isinstance(value, str) and (found := turns_in(value)) is not None:
        value = found
    single = isinstance(value, Mapping) and {"role", "from"} & set(value) and not _table(value)
    return [value] if single else value


def _table(value: Mapping[str, Any]) -> bool:
    return isinstance(value.get("role", value.get("from")), list)


def _rejected(row: Fields, whole: list[RowTurn]) -> list[RowTurn]:
    """The rejected conversation of a row in swift's form, where `messages` is the chosen one."""
    given = row.take("rejected_response", "rejected_messages")
    if isinstance(_side(given), str):
        return [*whole[:-1], RowTurn(Message("assistant", given))]
    turns = read_turns(_side(given), "rejected_messages")
    if turns[0].message.role in ("system", "user"):
        return turns
    before = max((at for at, turn in enumerate(whole) if turn.message.role == "user"), default=-1)
    return [*whole[: before + 1], *turns]


def _whole(
    row: Fields, origin: Origin, whole: list[RowTurn], other: list[RowTurn]
) -> tuple[ChatExample, ChatExample]:
    """Two whole conversations: what follows their common beginning is learnt."""
    same = _same([turn.message for turn in whole], [turn.message for turn in other])
    return chat(row, origin, whole, same), chat(row, origin, other, same)


def _same(one: Any, other: Any) -> int:
    """How many messages two conversations have in common at the beginning."""
    same = 0
    while same < min(len(one), len(other)) and one[same] == other[same]:
        same += 1
    return same


def _learnt_from(side: ChatExample | PairExample, first: int) -> ChatExample | PairExample:
    """The side, with nothing learnt before message `first`."""
    if not isinstance(side, ChatExample) or side.learn is None:
        return side
    return replace(side, learn=tuple(learnt and at >= first for at, learnt in enumerate(side.learn)))


def _repeats(prompt: str, side: Any) -> bool:
    """Whether a text begins with its whole prompt, which is then there twice. One word may be chance."""
    return isinstance(side, str) and len(prompt.split()) > 1 and side.startswith(prompt) and side != prompt


def _common_text(chosen: str, rejected: str, origin: Origin) -> tuple[PairExample, PairExample]:
    """Two texts with a common beginning, which is the prompt; it ends before a word that differs."""
    end = 0
    while end < min(len(chosen), len(rejected)) and chosen[end] == rejected[end]:
        end += 1
    while end and not chosen[end - 1].isspace():
        end -= 1
    while end and chosen[end - 1].isspace():  # the space belongs to the word after it
        end -= 1
    sides = (chosen[end:], rejected[end:])
    if not all(sides) or sides[0] == sides[1]:
        raise DataError("chosen and rejected do not differ in what follows their common beginning")
    return PairExample(chosen[:end], sides[0], origin), PairExample(chosen[:end], sides[1], origin)


def read_labelled(row: Fields, origin: Origin, read: Callable[[Fields, Origin], Example]) -> LabelledExample:
    """A continuation with `label` or `kto_tag`; `read` reads the rest of the row.

    Errors: `DataError`.
    """
    label = row.take("label", "kto_tag")
    try:
        label = mark("label", label)
    except DataError:
        raise DataError(f"field 'label' is {label!r}; true or false was expected") from None
    example = read(row, origin)
    if isinstance(example, ChatExample) and example.learn is None:
        turns = [RowTurn(message) for message in example.messages]
        example = replace(example, learn=learnt_of(turns, len(turns) - 1))
    if not isinstance(example, ChatExample | PairExample):
        raise DataError("a label needs a conversation, or a prompt and its completion")
    return LabelledExample(example, label, origin)
