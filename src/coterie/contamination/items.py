"""Evaluation items as text: what is looked up, from rows of JSON lines.

A row has `id`, a question (`question`, `prompt` or `messages`), `answer`, and perhaps `choices` and a
`passage` (or `context`). Other fields are not read. A file of `coterie eval items` is read as
it is; its canary is no item.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.config.errors import DataError
from coterie.config.files import file_sha256, read_bytes
from coterie.config.json_text import JsonError, JsonLimits, parse_json

WRITTEN = "coterie.items/v1"  # the schema that the first line of a file of `coterie eval items` names
_QUESTIONS = ("question", "prompt", "messages")
_PASSAGES = ("passage", "context")
_FILE = JsonLimits(size=2**32)
_LINE = JsonLimits(size=64 * 2**20)


@dataclass(frozen=True)
class QueriedItem:
    """The texts of one item. `answers`: every form that counts as the answer, letters of choices included."""

    id: str
    question: str
    answers: tuple[str, ...]
    choices: tuple[str, ...] = ()
    passage: str = ""

    @property
    def asked(self) -> str:
        """The question with its lettered choices, as benchmarks print them."""
        lines = (f"{_letter(at)}. {choice}" for at, choice in enumerate(self.choices))
        return "\n".join([self.question, *lines])


def read_items(path: str | Path) -> list[QueriedItem]:
    """The items of a JSONL file, or of a JSON file that holds a list.

    Errors: `DataError`, one line with the place, for a file that cannot be read, a row without a question or
    an answer, and an id that occurs twice.
    """
    path = Path(path)
    try:
        raw = read_bytes(path, _FILE.size)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a JSONL file of items") from None
    if path.suffix == ".json":
        try:
            rows = parse_json(raw, _FILE)
        except JsonError as error:
            raise DataError(f"{path}: {error}") from None
        return items_of(enumerate(rows if isinstance(rows, list) else [rows], 1), str(path))
    return items_of(_lines(raw, path), str(path))


def items_digest(paths: Sequence[str]) -> str:
    """One SHA-256 of several files of items. Errors: `DataError` for one that cannot be read."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            digest.update(bytes.fromhex(file_sha256(Path(path))))
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read ({error.strerror}); give a JSONL file of items"
            ) from None
    return digest.hexdigest()


def _lines(raw: bytes, path: Path) -> Iterable[tuple[int, Any]]:
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        if line.strip():
            try:
                yield number, parse_json(line, _LINE)
            except JsonError as error:
                raise DataError(f"{path}:{number}: {error}") from None


def items_of(rows: Iterable[tuple[int, Any]], where: str) -> list[QueriedItem]:
    """Items from (line, row) pairs. `where`: the file, for messages. Errors: see `read_items`."""
    found: dict[str, tuple[int, QueriedItem]] = {}
    read = item_of
    for number, row in rows:
        try:
            if not isinstance(row, Mapping):
                raise DataError(f"holds a {type(row).__name__}; an object was expected")
            if not found and row.get("schema") == WRITTEN:
                read = _written_item
                continue
            if read is _written_item and _is_canary(row):
                continue
            item = read(row)
            if item.id in found:
                raise DataError(f"id '{item.id}' is that of line {found[item.id][0]} too; ids must differ")
        except DataError as error:
            raise DataError(f"{where}:{number}: {error}") from None
        found[item.id] = number, item
    if not found:
        raise DataError(f"{where}: holds no item; give rows with id, question and answer")
    return [item for _, item in found.values()]


def item_of(row: Mapping[str, Any]) -> QueriedItem:
    """One row as an item. Errors: `DataError` that names the field."""
    name = row.get("id")
    if not isinstance(name, str | int) or isinstance(name, bool) or name == "":
        raise DataError("has no 'id' (text or a whole number)")
    question = _text(_first(row, _QUESTIONS), "question")
    if not question.strip():
        raise DataError(f"item '{name}' has no question ('question', 'prompt' or 'messages')")
    choices = _choices(row.get("choices"))
    answers = tuple(dict.fromkeys(_answers(_first(row, ("answer", "answers")), choices)))
    if not answers:
        raise DataError(f"item '{name}' has no 'answer'; text without an answer is no item")
    return QueriedItem(str(name), question, answers, choices, _text(_first(row, _PASSAGES), "passage"))


def answer_forms(answer: Any, choices: Sequence[str]) -> tuple[str, ...]:
    """Every form of an answer of JSON types as text; a number names one of the choices."""
    if choices and isinstance(answer, int) and 0 <= answer < len(choices):
        return (choices[answer],)
    if isinstance(answer, str):
        return (answer,)
    if isinstance(answer, list) and all(isinstance(one, str) for one in answer):
        return tuple(answer)
    return (json.dumps(answer, ensure_ascii=False, sort_keys=True),)


def _written_item(row: Mapping[str, Any]) -> QueriedItem:
    """One row of `coterie eval items`."""
    turns, name = row.get("turns"), row.get("id")
    if not isinstance(name, str) or not isinstance(turns, list) or not turns or "answer" not in row:
        raise DataError("is not an item as coterie eval items writes it; write the file again")
    choices = _choices(row.get("choices"))
    question, passage = _turn(turns[-1], "turns"), _text(row.get("passage"), "passage")
    return QueriedItem(name, question, answer_forms(row["answer"], choices), choices, passage)


def _is_canary(row: Mapping[str, Any]) -> bool:
    facts = row.get("facts")
    return isinstance(facts, Mapping) and bool(facts.get("canary"))


def _first(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "", [])), None)


def _text(value: Any, name: str) -> str:
    """Text, or the words of all turns of a conversation."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, list):
        return "\n".join(_turn(turn, name) for turn in value)
    raise DataError(f"field '{name}' is {type(value).__name__}; text or a list of messages was expected")


def _turn(turn: Any, name: str) -> str:
    if isinstance(turn, str):
        return turn
    content = turn.get("content") if isinstance(turn, Mapping) else None
    if isinstance(content, list):
        content = "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    if not isinstance(content, str):
        raise DataError(f"field '{name}' has a message without text content")
    return content


def _choices(value: Any) -> tuple[str, ...]:
    if isinstance(value, Mapping):
        value = value.get("text")
    if value is None:
        return ()
    if not isinstance(value, list):
        raise DataError(f"field 'choices' is {type(value).__name__}; a list was expected")
    return tuple(str(choice) for choice in value)


def _answers(value: Any, choices: Sequence[str]) -> Iterable[str]:
    """Every form of the answer: the text, and of a chosen one its letter and its words."""
    if isinstance(value, Mapping):
        value = value.get("text")
    if isinstance(value, list):
        for one in value:
            yield from _answers(one, choices)
        return
    if value is None:
        return
    text = str(value)
    letters = [_letter(at) for at in range(len(choices))]
    if choices and isinstance(value, int) and not isinstance(value, bool) and text not in choices:
        if not 0 <= value < len(choices):
            raise DataError(f"'answer' is choice {value}, and there are {len(choices)}")
        yield from (choices[value], letters[value])
    elif text.strip() in letters:
        yield from (choices[letters.index(text.strip())], text)
    elif text.strip():
        yield text
        if text in choices:
            yield letters[list(choices).index(text)]


def _letter(at: int) -> str:
    return chr(ord("A") + at) if at < 26 else str(at + 1)
