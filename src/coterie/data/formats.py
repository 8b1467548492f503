"""Every common format of tuning data, recognised by the fields of a record."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from coterie.config.errors import DataError
from coterie.data.records import Origin
from coterie.text.chat import Message

Tools = tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class ChatExample:
    """A conversation. `learn`: for each message whether it is learnt; None means the assistant's messages."""

    messages: tuple[Message, ...]
    origin: Origin
    tools: Tools = ()
    learn: tuple[bool, ...] | None = None


@dataclass(frozen=True)
class PairExample:
    """A plain-text prompt and its completion, without a chat template."""

    prompt: str
    completion: str
    origin: Origin


@dataclass(frozen=True)
class PreferenceExample:
    """Two continuations of one beginning (conversations or plain texts), of which `chosen` is the better one.

    `margin`: by how much it is better, if the data says so.
    """

    chosen: ChatExample | PairExample
    rejected: ChatExample | PairExample
    origin: Origin
    margin: float = 0.0


@dataclass(frozen=True)
class LabelledExample:
    """A continuation with a label that says whether it is wanted (for KTO)."""

    example: ChatExample | PairExample
    label: bool
    origin: Origin


@dataclass(frozen=True)
class TextExample:
    """Plain text, all of which is learnt."""

    text: str
    origin: Origin


@dataclass(frozen=True)
class PretokenisedExample:
    """An example given as token ids. Tokens whose label is -100 are not learnt."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    origin: Origin


Example = ChatExample | PairExample | PreferenceExample | LabelledExample | TextExample | PretokenisedExample


_QUESTION = ("query", "question", "problem", "instruction", "prompt", "input")
_ANSWER = ("response", "answer", "solution", "output", "completion")
_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "bot": "assistant",
    "model": "assistant", "system": "system", "developer": "system", "function_call": "assistant",
    "observation": "tool", "tool": "tool", "function_response": "tool",
}  # fmt: skip
FORMATS = (
    "messages, ShareGPT (conversations), Alpaca (instruction, output), prompt and completion, "
    "question and answer, text, preference (chosen, rejected), labelled (prompt, completion, label), "
    "input_ids"
)


def kind_of(record: Mapping[str, Any]) -> str:
    """The format of a record, by its fields.

    Errors: `DataError` if it is not a known one.
    """
    has = {key for key, value in record.items() if value is not None}
    if "input_ids" in has:
        return "tokens"
    if len(both := sorted(has & {"messages", "conversations", "text"})) > 1:
        raise DataError(f"has {' and '.join(both)}, so it is not clear which is meant; keep one of them")
    if {"chosen", "rejected"} <= has or (
        "messages" in has and has & {"rejected_response", "rejected_messages"}
    ):
        return "preference"
    if has & {"label", "kto_tag"} and (has & {"messages", "conversations"} or _pick(record, _ANSWER)):
        return "labelled"
    if "messages" in has:
        return "messages"
    if "conversations" in has:
        return "sharegpt"
    if "instruction" in has and has & {"output", "response"}:
        return "alpaca"
    if {"prompt", "completion"} <= has:
        return "prompt-completion"
    if _pick(record, _QUESTION) and _pick(record, _ANSWER):
        return "question-answer"
    if "text" in has:
        return "text"
    raise DataError(f"has the fields {', '.join(map(str, record)) or '(none)'}; known formats: {FORMATS}")


def _pick(record: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if record.get(name) is not None), None)


def _turns(value: Any, name: str) -> list[Message]:
    """A list of messages in the OpenAI or the ShareGPT form."""
    value = json.loads(value) if isinstance(value, str) and value.lstrip().startswith("[") else value
    if (
        not isinstance(value, list | tuple)
        or not value
        or not all(isinstance(turn, Mapping) for turn in value)
    ):
        raise DataError(f"field '{name}' is not a list of messages")
    return [_turn(turn) for turn in value]


def _turn(turn: Mapping[str, Any]) -> Message:
    if "from" not in turn:
        cleaned = {key: item for key, item in turn.items() if item is not None}
        if cleaned.get("role") == "developer":
            cleaned["role"] = "system"
        return Message.from_dict(cleaned)
    role = _ROLES.get(str(turn["from"]))
    if role is None:
        raise DataError(f"message: from {turn['from']!r} is not one of {', '.join(_ROLES)}")
    if turn["from"] == "function_call":
        call = turn.get("value")
        try:
            calls = json.loads(call) if isinstance(call, str) else call
        except ValueError:
            raise DataError("message: the value of a function_call is nott JSON") from None
        calls = calls if isinstance(calls, list) else [calls]
        return Message.from_dict({"role": role, "content": None, "tool_calls": calls})
    return Message.from_dict({"role": role, "content": turn.get("value")})


def _tools(record: Mapping[str, Any]) -> Tools:
    tools = record.get("tools") or ()
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError:
            raise DataError("field 'tools' is not JSON") from None
    if not isinstance(tools, list | tuple) or not all(isinstance(tool, Mapping) for tool in tools):
        raise DataError("field 'tools' is not a list of objects")
    return tuple(tools)


def _chat(record: Mapping[str, Any], origin: Origin, turns: list[Message], given: Any = None) -> ChatExample:
    system = record.get("system")
    if isinstance(system, str) and system and turns[0].role != "system":
        turns = [Message("system", system), *turns]
        given = None if given is None else [{}, *given]
    return ChatExample(tuple(turns), origin, _tools(record), _learnt(turns, given))


def _learnt(turns: Sequence[Message], given: Any) -> tuple[bool, ...] | None:
    """A mark per message from the turns' own `loss`, `train` or `weight`, if any turn has one."""
    marks = [
        next((turn[key] for key in ("loss", "train", "weight") if key in turn), None) for turn in given or ()
    ]
    if all(mark is None for mark in marks):
        return None
    return tuple(
        message.role == "assistant" if mark is None else bool(mark)
        for message, mark in zip(turns, marks, strict=True)
    )


def _read_messages(record: Mapping[str, Any], origin: Origin) -> ChatExample:
    return _chat(record, origin, _turns(record["messages"], "messages"), record["messages"])


def _read_sharegpt(record: Mapping[str, Any], origin: Origin) -> ChatExample:
    given = record["conversations"]
    if isinstance(given, list) and given and all(set(turn) == {"human", "assistant"} for turn in given):
        pairs = [(Message("user", turn["human"]), Message("assistant", turn["assistant"])) for turn in given]
        return _chat(record, origin, [message for pair in pairs for message in pair])
    return _chat(record, origin, _turns(given, "conversations"), given)


def _read_alpaca(record: Mapping[str, Any], origin: Origin) -> ChatExample:
    question = _text(record, "instruction")
    if record.get("input"):
        question += "\n\n" + _text(record, "input")
    turns = [Message(role, text) for pair in record.get("history") or () for role, text in _both(pair)]
    answer = _text(record, "output" if record.get("output") is not None else "response")
    return _chat(record, origin, [*turns, Message("user", question), Message("assistant", answer)])


def _both(pair: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise DataError("field 'history' is not a list of [question, answer]")
    yield from zip(("user", "assistant"), map(str, pair), strict=True)


def _read_question(record: Mapping[str, Any], origin: Origin) -> ChatExample:
    question, answer = _pick(record, _QUESTION), _pick(record, _ANSWER)
    assert question is not None and answer is not None
    turns = [Message("user", _text(record, question)), Message("assistant", _text(record, answer))]
    return _chat(record, origin, turns)


def _read_completion(record: Mapping[str, Any], origin: Origin) -> ChatExample | PairExample:
    return _continued(record, origin, record["prompt"], record["completion"], "completion")


def _continued(
    record: Mapping[str, Any], origin: Origin, prompt: Any, completion: Any, name: str
) -> ChatExample | PairExample:
    """A prompt and its completion: both plain text, or both messages (a text then counts as one message)."""
    if isinstance(prompt, str) and isinstance(completion, str):
        if not completion:
            raise DataError(f"field '{name}' is empty, so there is nothing to learn")
        return PairExample(prompt, completion, origin)
    before = [Message("user", prompt)] if isinstance(prompt, str) else _turns(prompt, "prompt")
    after = [Message("assistant", completion)] if isinstance(completion, str) else _turns(completion, name)
    example = _chat(record, origin, [*before, *after])
    first = len(example.messages) - len(after)
    marks = tuple(at >= first and m.role == "assistant" for at, m in enumerate(example.messages))
    return replace(example, learn=marks)


def _read_preference(record: Mapping[str, Any], origin: Origin) -> PreferenceExample:
    margin = record.get("margin") or 0.0
    pair: list[ChatExample | PairExample]
    if not isinstance(margin, int | float):
        raise DataError("field 'margin' is not a number")
    if "chosen" not in record:  # swift: the conversation is the chosen one
        *before, chosen = _turns(record["messages"], "messages")
        rejected: Any = record.get("rejected_response")
        if rejected is None:
            rejected = _turns(record["rejected_messages"], "rejected_messages")[-1]
        last = rejected if isinstance(rejected, Message) else Message("assistant", str(rejected))
        pair = [_last_learnt(record, origin, [*before, turn]) for turn in (chosen, last)]
    elif record.get("prompt") is None and record.get("conversations") is None:
        both = [_turns(record[name], name) for name in ("chosen", "rejected")]  # two whole conversations
        same = 0
        while same < min(map(len, both)) and both[0][same] == both[1][same]:
            same += 1
        pair = [_last_learnt(record, origin, turns, same) for turns in both]
    else:
        prompt = record.get("prompt") if record.get("prompt") is not None else record["conversations"]
        pair = []
        for name in ("chosen", "rejected"):
            side = [record[name]] if isinstance(record[name], Mapping) else record[name]
            pair.append(_continued(record, origin, prompt, side, name))
    return PreferenceExample(pair[0], pair[1], origin, float(margin))


def _last_learnt(
    record: Mapping[str, Any], origin: Origin, turns: list[Message], first: int | None = None
) -> ChatExample:
    first = len(turns) - 1 if first is None else first
    example = _chat(record, origin, turns)
    first += len(example.messages) - len(turns)
    marks = tuple(at >= first and m.role == "assistant" for at, m in enumerate(example.messages))
    if not any(marks):
        raise DataError("chosen and rejected do not differ in what an assistant says")
    return replace(example, learn=marks)


def _read_labelled(record: Mapping[str, Any], origin: Origin) -> LabelledExample:
    label = record.get("label", record.get("kto_tag"))
    if not isinstance(label, bool):
        raise DataError(f"field 'label' is {label!r}; true or false was expected")
    plain = {key: value for key, value in record.items() if key not in ("label", "kto_tag")}
    example = READERS[kind_of(plain)](plain, origin)
    if isinstance(example, ChatExample) and example.learn is None:
        example = _last_learnt(plain, origin, list(example.messages))
    if not isinstance(example, ChatExample | PairExample):
        raise DataError("a label needs a conversation, or a prompt and its completion")
    return LabelledExample(example, label, origin)


def _read_text(record: Mapping[str, Any], origin: Origin) -> TextExample:
    text = _text(record, "text")
    if not text.strip():
        raise DataError("field 'text' is empty")
    return TextExample(text, origin)


def _read_tokens(record: Mapping[str, Any], origin: Origin) -> PretokenisedExample:
    ids = record["input_ids"]
    labels = record.get("labels")
    labels = ids if labels is None else labels
    for name, numbers in (("input_ids", ids), ("labels", labels)):
        if not isinstance(numbers, list | tuple) or not all(type(number) is int for number in numbers):
            raise DataError(f"field '{name}' is not a list of whole numbers")
    if len(ids) != len(labels):
        raise DataError(f"has {len(ids)} input_ids and {len(labels)} labels")
    return PretokenisedExample(tuple(ids), tuple(labels), origin)


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str):
        raise DataError(f"field '{name}' is {type(value).__name__}; text was expected")
    return value


READERS: dict[str, Callable[[Mapping[str, Any], Origin], Example]] = {
    "tokens": _read_tokens,
    "preference": _read_preference,
    "labelled": _read_labelled,
    "messages": _read_messages,
    "sharegpt": _read_sharegpt,
    "alpaca": _read_alpaca,
    "prompt-completion": _read_completion,
    "question-answer": _read_question,
    "text": _read_text,
}
