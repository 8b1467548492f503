"""The turns of a row's conversation, in every form that public data uses, each with its mark.

[{role, content}], [{from, value}], [{human, assistant}], a table of them {role: [...], content: [...]},
or any of these as JSON text  -->  RowTurn
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from coterie.config.errors import DataError
from coterie.data.fields import MARKS, REASONING, from_json, ignorable, one_mark, plain_json, says_nothing
from coterie.text.messages import Message

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant",
    "chatgpt": "assistant", "function_call": "assistant", "tool_call": "assistant",
    "tool": "tool", "observation": "tool", "function": "tool", "function_response": "tool",
    "tool_response": "tool", "ipython": "tool",
}  # fmt: skip
# Turns of these roles hold a call as JSON.
_CALLS = ("function_call", "tool_call")
# The fields of a turn that are read.
TURN_FIELDS = (
    "role", "from", "content", "value", "name", "tool_calls", "function_call", "tool_call_id",
    *REASONING, *MARKS,
)  # fmt: skip


@dataclass(frozen=True)
class RowTurn:
    """One turn. `mark`: whether its words are learnt; None if the row does not say.

    `unread`: fields that nothing here reads, for a chat template to use. `is_call`: it came as a turn that
    holds calls only, so it belongs to the assistant's turn before it.
    """

    message: Message
    mark: bool | None = None
    unread: tuple[str, ...] = ()
    is_call: bool = False


def read_turns(value: Any, name: str) -> list[RowTurn]:
    """The turns in the field `name`.

    Errors: `DataError` for another form, or for the first turn that cannot be read, with its number.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        value = from_json(value, name)
    if isinstance(value, Mapping):
        value = _transposed(value) or [dict(value)]
    if (
        not isinstance(value, list | tuple)
        or not value
        or not all(isinstance(turn, Mapping) for turn in value)
    ):
        raise DataError(f"field '{name}' is not a list of messages")
    turns: list[RowTurn] = []
    for number, turn in enumerate(value, 1):
        try:
            for read in _read(turn):
                turns[-1:] = _joined(turns[-1:], read)
        except DataError as error:
            raise DataError(f"turn {number} of '{name}': {str(error).removeprefix('message: ')}") from None
    return turns


def turns_in(text: str) -> Any:
    """The turn or the turns that a text is the JSON of; None for other words."""
    if text.lstrip()[:1] not in ("[", "{"):
        return None
    try:
        found = from_json(text, "")
    except DataError:
        return None  # words that begin with a bracket
    first = found[0] if isinstance(found, list) and found else found
    return found if isinstance(first, Mapping) and {"role", "from"} & set(first) else None


def learnt_of(turns: Sequence[RowTurn], first: int | None = None) -> tuple[bool, ...] | None:
    """A mark per turn: its own, or whether an assistant wrote it. Turns before `first` are not learnt.

    None without any mark of the row's own and without `first`: every assistant's turn is learnt.
    """
    if first is None and all(turn.mark is None for turn in turns):
        return None
    return tuple(
        at >= (first or 0) and turn.message.role == "assistant" and turn.mark is not False
        for at, turn in enumerate(turns)
    )


def _transposed(table: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The rows of a table given as one list per column, as `datasets` writes a sequence of objects."""
    columns = {name: column for name, column in table.items() if column is not None}
    if not columns or not all(isinstance(column, list) for column in columns.values()):
        return None
    if len({len(column) for column in columns.values()}) > 1 or not {"role", "from"} & set(columns):
        return None
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _read(turn: Mapping[str, Any]) -> Iterator[RowTurn]:
    if not {"role", "from"} & set(turn) and {"human", "assistant"} <= set(turn):
        unread = _unread(turn, ("human", "assistant", "system", *MARKS))
        if not says_nothing(turn.get("system")):
            yield RowTurn(Message.from_dict({"role": "system", "content": turn["system"]}))
        yield RowTurn(Message.from_dict({"role": "user", "content": turn["human"]}))
        answer = Message.from_dict({"role": "assistant", "content": turn["assistant"]})
        yield RowTurn(answer, one_mark(turn), unread)
        return
    given = _same(turn, ("role", "from"))
    if given is None:
        raise DataError(f"has no role (fields: {', '.join(map(str, turn)) or 'none'})")
    role = ROLES.get(given.lower()) if isinstance(given, str) else None
    if role is None:
        raise DataError(f"role {given!r} is not one of {', '.join(ROLES)}")
    data: dict[str, Any] = {"role": role, "content": _same(turn, ("content", "value"))}
    _check_parts(data["content"])
    data |= {key: turn[key] for key in ("name", "tool_call_id") if turn.get(key) is not None}
    is_call = given.lower() in _CALLS
    if is_call:
        data["tool_calls"], data["content"] = _list_of(data["content"], str(given)), None
    elif calls := _calls(turn):
        data["tool_calls"] = calls
    data |= _reasoning(turn, role)
    unread = _unread(turn, TURN_FIELDS)
    data |= {name: turn[name] for name in unread}
    data = {key: data[key] for key in dict.fromkeys((*turn, *data)) if key in data}  # in the order of the row
    plain_json(data, "tool_calls")
    message = Message.from_dict(data)
    marked = one_mark(turn)
    if marked and role != "assistant":
        raise DataError(f"marks the words of role '{given}' to be learnt; only an assistant's are")
    yield RowTurn(message, marked, unread, is_call)


def _check_parts(content: Any) -> None:
    """Errors: `DataError` for a part of the content that says more than its text."""
    for number, part in enumerate(content if isinstance(content, list | tuple) else (), 1):
        if isinstance(part, Mapping) and (lost := _unread(part, ("type", "text", "cache_control"))):
            raise DataError(f"part {number} of the content has '{lost[0]}', which is not read")


def _same(turn: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The value of the one field among `names` that is not null. Errors: `DataError` if two differ."""
    found = [turn[name] for name in names if turn.get(name) is not None]
    if len(found) > 1 and found[0] != found[1]:
        raise DataError(f"{' and '.join(names)} differ; keep one of them")
    return found[0] if found else None


def _reasoning(turn: Mapping[str, Any], role: str) -> dict[str, Any]:
    """The reasoning under the name that templates look for."""
    text = _same_of(turn, REASONING)
    if text is None or (role != "assistant" and says_nothing(text)):
        return {}
    name = "reasoning" if turn.get("reasoning") is not None else "reasoning_content"
    return {name: text}


def _same_of(turn: Mapping[str, Any], names: Sequence[str]) -> Any:
    found = {name: turn[name] for name in names if turn.get(name) is not None}
    if len({repr(value) for value in found.values()}) > 1:
        raise DataError(f"{' and '.join(found)} differ; keep one of them")
    return next(iter(found.values()), None)


def _calls(turn: Mapping[str, Any]) -> list[Any]:
    several = _list_of(turn.get("tool_calls"), "tool_calls")
    single = _list_of(turn.get("function_call"), "function_call")  # OpenAI's form before tool_calls
    if several and single:
        raise DataError("has tool_calls and function_call; keep one of them")
    return several or single


def _list_of(calls: Any, name: str) -> list[Any]:
    """Calls as a list: given as one, as a single object, or as JSON text of either."""
    calls = from_json(calls, name) if isinstance(calls, str) and calls.strip() else calls
    if says_nothing(calls):
        return []
    return list(calls) if isinstance(calls, list | tuple) else [calls]


def _unread(turn: Mapping[str, Any], read: Sequence[str]) -> tuple[str, ...]:
    return tuple(
        str(name)
        for name, value in turn.items()
        if name not in read and not says_nothing(value) and not ignorable(str(name))
    )


def _joined(last: list[RowTurn], new: RowTurn) -> list[RowTurn]:
    """The last turn and a new one. A turn that only calls joins the assistant's turn before it."""
    if not last or not new.is_call or last[0].message.role != "assistant":
        return [*last, new]
    before, after = last[0], new
    if before.message.tool_calls and not before.is_call:
        return [before, after]
    if before.mark != after.mark:
        raise DataError("marks a call otherwise than the words before it, which are one turn with it")
    calls = (*before.message.tool_calls, *after.message.tool_calls)
    data = {**before.message.to_dict(), **Message(role="assistant", tool_calls=calls).to_dict()}
    data["content"] = before.message.text or None
    joined = Message.from_dict(data)
    return [replace(before, message=joined, unread=(*before.unread, *after.unread), is_call=True)]
