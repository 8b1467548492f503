"""The format of a row, by its fields, and the reader of each format.

record -> kind_of -> READERS[kind] -> Example, and what is said of the fields that were not read
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from coterie.config.errors import DataError
from coterie.data.chat_rows import (
    read_alpaca,
    read_completion,
    read_messages,
    read_question,
    read_sharegpt,
    read_text,
)
from coterie.data.fields import ANSWER, QUESTION, Fields, check_lost
from coterie.data.formats import (
    ChatExample,
    Example,
    LabelledExample,
    PairExample,
    PreferenceExample,
    TextExample,
)
from coterie.data.preference_rows import read_labelled, read_preference
from coterie.data.records import Origin
from coterie.data.token_rows import read_tokens
from coterie.data.turns import read_turns

FORMATS = (
    "messages, ShareGPT (conversations), Alpaca (instruction, output), prompt and completion, "
    "question and answer, text, preference (chosen, rejected), labelled (prompt, completion, label), "
    "input_ids"
)
_TURNS = {"messages", "conversations", "conversation"}


def kind_of(record: Mapping[str, Any]) -> str:
    """The format of a record, by its fields.

    Errors: `DataError` if it is not a known one.
    """
    has = {key for key, value in record.items() if value is not None}
    if "input_ids" in has:
        return "tokens"
    if len(both := sorted(has & {*_TURNS, "text"})) > 1:
        raise DataError(f"has {' and '.join(both)}, so it is not clear which is meant; keep one of them")
    if {"chosen", "rejected"} <= has or {"preferred_output", "non_preferred_output"} <= has:
        return "preference"
    if "messages" in has and has & {"rejected_response", "rejected_messages"}:
        return "preference"
    if has & {"label", "kto_tag"} and (has & _TURNS or _pick(record, ANSWER)):
        return "labelled"
    if "messages" in has:
        return "messages"
    if has & _TURNS:
        return "sharegpt"
    if "instruction" in has and has & {"output", "response"}:
        return "alpaca"
    if {"prompt", "completion"} <= has:
        return "prompt-completion"
    if _pick(record, QUESTION) and _pick(record, ANSWER):
        return "question-answer"
    if "text" in has:
        return "text"
    raise DataError(f"has the fields {', '.join(map(str, record)) or '(none)'}; known formats: {FORMATS}")


def _pick(record: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if record.get(name) is not None), None)


def read_row(record: Mapping[str, Any], origin: Origin) -> tuple[str, Example, list[str]]:
    """The format of a record, its example, and the names of the fields that were not read.

    Errors: `DataError` for another format, a field that cannot be read, and a field that says what is learnt
    but that rows of this format do not have.
    """
    record = _plain_preference(record)
    kind = kind_of(record)
    row = Fields(record)
    example = READERS[kind](row, origin)
    words = _words(example)
    left = [name for name in row.left() if not _said(record[name], words)]
    check_lost(record, left, kind)
    if kind == "preference" and "messages" in left:
        raise DataError("has 'messages' that are neither the prompt nor the chosen conversation; remove them")
    return kind, example, left


def _words(example: Example) -> set[str]:
    """The texts of an example, to tell a column that repeats one of them from a column that is lost."""
    if isinstance(example, PreferenceExample):
        return _words(example.chosen) | _words(example.rejected)
    if isinstance(example, LabelledExample):
        return _words(example.example)
    if isinstance(example, ChatExample):
        return {message.text.strip() for message in example.messages}
    if isinstance(example, PairExample):
        return {example.prompt.strip(), example.completion.strip()}
    return {example.text.strip()} if isinstance(example, TextExample) else set()


def _said(value: Any, words: set[str]) -> bool:
    """Whether a value is a text of the example, or turns that all are."""
    if isinstance(value, str):
        return value.strip() in words
    if not isinstance(value, list | tuple):
        return False
    try:
        return {turn.message.text.strip() for turn in read_turns(value, "")} <= words
    except DataError:
        return False


def _plain_preference(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """A preference in the form of OpenAI's API with the names of the others."""
    given = record.get("input")
    if not {"preferred_output", "non_preferred_output"} <= set(record) or not isinstance(given, Mapping):
        return record
    names = {"preferred_output": "chosen", "non_preferred_output": "rejected"}
    plain = {names.get(name, name): value for name, value in record.items() if name != "input"}
    return plain | {"prompt" if name == "messages" else name: value for name, value in given.items()}


def _read_labelled(row: Fields, origin: Origin) -> Example:
    kind = kind_of({name: value for name, value in row.record.items() if name not in ("label", "kto_tag")})
    return read_labelled(row, origin, READERS[kind])


READERS: dict[str, Callable[[Fields, Origin], Example]] = {
    "tokens": read_tokens,
    "preference": read_preference,
    "labelled": _read_labelled,
    "messages": read_messages,
    "sharegpt": read_sharegpt,
    "alpaca": read_alpaca,
    "prompt-completion": read_completion,
    "question-answer": read_question,
    "text": read_text,
}
