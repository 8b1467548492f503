"""Rows that hold one conversation, or a prompt and its completion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from coterie.config.errors import DataError
from coterie.data.fields import (
    ANSWER,
    QUESTION,
    REASONING,
    TOOLS,
    VARIABLES,
    Fields,
    from_json,
    one_mark,
    plain_json,
    says_nothing,
)
from coterie.data.formats import ChatExample, PairExample, TextExample, Tools
from coterie.data.records import Origin
from coterie.data.turns import RowTurn, learnt_of, read_turns, turns_in
from coterie.text.messages import Message

# What a template is given anyway; a row's arguments must not replace it.
_TAKEN = frozenset({"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"})


def chat(row: Fields, origin: Origin, turns: Sequence[RowTurn], first: int | None = None) -> ChatExample:
    """A conversation with the row's own system message, tools and arguments for the template.

    `first`: the first of `turns` that can be learnt (default: by the marks of the turns).
    Errors: `DataError` that names the field.
    """
    turns = list(turns)
    system = row.take("system", "system_prompt")
    if not says_nothing(system):
        if not isinstance(system, str):
            raise DataError(f"field 'system' is {type(system).__name__}; text was expected")
        if turns[0].message.role != "system":
            turns.insert(0, RowTurn(Message("system", system)))
            first = None if first is None else first + 1
        elif turns[0].message.text != system:
            raise DataError("has a 'system' and a system message that differ; keep one of them")
    return ChatExample(
        tuple(turn.message for turn in turns),
        origin,
        _tools(row),
        learnt_of(turns, first),
        _variables(row),
        tuple(dict.fromkeys(name for turn in turns for name in turn.unread)),
    )


def _tools(row: Fields) -> Tools:
    name = "functions" if "functions" in row and "tools" not in row else "tools"
    tools = row.take(*TOOLS)
    tools = from_json(tools, name) if not says_nothing(tools) else ()
    if says_nothing(tools):
        return ()
    if not isinstance(tools, list | tuple):
        raise DataError(f"field '{name}' is not a list of objects")
    # Lists of tools whose schemas differ are often written as one JSON text for each.
    tools = [from_json(tool, name) for tool in tools]
    if not all(isinstance(tool, Mapping) for tool in tools):
        raise DataError(f"field '{name}' is not a list of objects")
    plain_json(tools, name)
    return tuple(tools if name == "tools" else ({"type": "function", "function": tool} for tool in tools))


def _variables(row: Fields) -> Mapping[str, Any]:
    given = from_json(row.take(*VARIABLES), VARIABLES[0])
    if says_nothing(given):
        return {}
    if not isinstance(given, Mapping):
        raise DataError(f"field '{VARIABLES[0]}' is {type(given).__name__}; an object was expected")
    if replaced := sorted(_TAKEN & set(given)):
        raise DataError(f"field '{VARIABLES[0]}' sets {', '.join(replaced)}, which is given anyway")
    return dict(plain_json(given, VARIABLES[0]))


def read_messages(row: Fields, origin: Origin) -> ChatExample:
    """`messages`, in any form of turns. Errors: `DataError`."""
    return chat(row, origin, read_turns(row.take("messages"), "messages"))


def read_sharegpt(row: Fields, origin: Origin) -> ChatExample:
    """`conversations` or `conversation`, in any form of turns. Errors: `DataError`."""
    given = row.take("conversations", "conversation")
    return chat(row, origin, read_turns(given, "conversations"))


def read_alpaca(row: Fields, origin: Origin) -> ChatExample:
    """`instruction`, `input` or `context`, `output` or `response`, `history`. Errors: `DataError`."""
    answer = answered(row, ("output", "response"))
    return chat(row, origin, [*instructed(row), answer])


def instructed(row: Fields) -> list[RowTurn]:
    """The turns of an instruction with its history and input, without the answer. Errors: `DataError`."""
    question = row.text("instruction")
    extra = row.take("input", "context")
    if not says_nothing(extra):
        question += "\n\n" + row.text("input", "context")
    history = from_json(row.take("history"), "history")
    if history is not None and not isinstance(history, list | tuple):
        raise DataError("field 'history' is not a list of [question, answer]")
    earlier = [turn for pair in history or () for turn in _both(pair)]
    return [*earlier, RowTurn(Message("user", question))]


def _both(pair: Any) -> Iterator[RowTurn]:
    if (
        not isinstance(pair, list | tuple)
        or len(pair) != 2
        or not all(isinstance(text, str) for text in pair)
    ):
        raise DataError("field 'history' is not a list of [question, answer]")
    yield from (RowTurn(Message(role, text)) for role, text in zip(("user", "assistant"), pair, strict=True))


def answered(row: Fields, names: Sequence[str]) -> RowTurn:
    """The assistant's turn of a row without turns: its answer, and its reasoning if the row has it.

    Errors: `DataError`.
    """
    reasoning = row.take(*REASONING)
    if not isinstance(reasoning, str | None):
        raise DataError(f"reasoning is {type(reasoning).__name__}; text was expected")
    return RowTurn(Message("assistant", row.text(*names), reasoning or None), one_mark(_marks(row)))


def _marks(row: Fields) -> dict[str, Any]:
    """A mark of the whole row, which then concerns its only answer."""
    names = ("train", "loss", "weight")
    return {name: row.take(name) for name in names}


def read_question(row: Fields, origin: Origin) -> ChatExample:
    """A question and its answer, under any of their names. Errors: `DataError`."""
    return chat(row, origin, [RowTurn(Message("user", row.text(*QUESTION))), answered(row, ANSWER)])


def read_completion(row: Fields, origin: Origin) -> ChatExample | PairExample:
    """`prompt` and `completion`, both text or both turns. Errors: `DataError`."""
    return continued(row, origin, row.take("prompt"), row.take("completion"), "completion")


def read_text(row: Fields, origin: Origin) -> TextExample:
    """`text`. Errors: `DataError`."""
    text = row.text("text")
    if not text.strip():
        raise DataError("field 'text' is empty")
    return TextExample(text, origin)


def continued(row: Fields, origin: Origin, prompt: Any, side: Any, name: str) -> ChatExample | PairExample:
    """A prompt and what follows it. Both plain text give a pair; otherwise a text counts as one turn.

    `side` may be the whole conversation, in which case the prompt must be its beginning.
    Errors: `DataError`.
    """
    if _is_text(prompt) and _is_text(side):
        if not side:
            raise DataError(f"field '{name}' is empty, so there is nothing to learn")
        return PairExample(prompt, side, origin)
    before = [RowTurn(Message("user", prompt))] if _is_text(prompt) else read_turns(prompt, "prompt")
    after = [RowTurn(Message("assistant", side))] if _is_text(side) else read_turns(side, name)
    turns, first = joined(before, after, name)
    return chat(row, origin, turns, first)


def _is_text(value: Any) -> bool:
    """Whether a value is words, and not turns as JSON text."""
    return isinstance(value, str) and turns_in(value) is None


def joined(before: list[RowTurn], after: list[RowTurn], name: str) -> tuple[list[RowTurn], int]:
    """A prompt and its continuation as one conversation, and the number of turns before what is learnt.

    `after` may hold the whole prompt, perhaps with turns before it, or the prompt's last turns once more;
    they are kept once.
    Errors: `DataError` if `after` begins a conversation without the prompt.
    """
    words, given = [turn.message for turn in after], [turn.message for turn in before]
    if words[0].role not in ("system", "user"):
        return [*before, *after], len(before)
    for at in range(len(words) - len(given) + 1):
        if _alike(given, words[at : at + len(given)]):
            return after, at + len(given)
    for size in range(min(len(given) - 1, len(words)), 0, -1):
        if _alike(given[-size:], words[:size]):
            return [*before[:-size], *after], len(before)
    if words[0].role == "system" or given[-1].role == "user":
        raise DataError(
            f"the prompt is not the beginning of the conversation in '{name}'; "
            f"give the reply alone in '{name}', or the same prompt"
        )
    return [*before, *after], len(before)


def _alike(one: Sequence[Message], other: Sequence[Message]) -> bool:
    """Whether two beginnings say the same, white space at the ends of a text aside."""
    return all(
        (a.role, a.text.strip(), a.tool_calls, a.reasoning or None)
        == (b.role, b.text.strip(), b.tool_calls, b.reasoning or None)
        for a, b in zip(one, other, strict=True)
    )
