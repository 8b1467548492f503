"""How replies to a user's own questions are judged, by name.

Where the form of a question asks for a line `Answer: ...`, the answer is what stands there; otherwise it is
the whole reply. `lenient` looks for it anywhere.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from coterie.benchmarks.answers import anywhere, strict_and_lenient
from coterie.benchmarks.item import BenchmarkItem, ItemReply, ItemVerdict, choice_verdict
from coterie.config import ConfigError
from coterie.config.json_text import JsonError, parse_json
from coterie.sandbox.schemas import problem
from coterie.tasks.answers import MARK
from coterie.tasks.own import plain_number, read_reward, rewarded

ScorerName = Literal["exact", "number", "contains", "regex", "choice", "json", "python"]
_LONGEST = 20_000  # characters of a reply that a pattern is searched in


class Scorer(ABC):
    """One way to judge. `marked`: whether the question asks for a line `Answer: ...`."""

    def __init__(self, form: str = "", ignore_case: bool = False, tolerance: float = 0.0) -> None:
        self.marked = MARK in form
        self.ignore_case, self.tolerance = ignore_case, tolerance

    @abstractmethod
    def answer(self, given: Any, choices: Sequence[str]) -> Any:
        """An answer as it stands in a file, in the form that `judge` reads.

        Errors: `ConfigError` that completes a sentence: "the answer ...".
        """

    @abstractmethod
    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        """The verdict on a reply. Never raises."""

    def oracle(self, item: BenchmarkItem) -> ItemReply | None:
        """A right reply, where one is known."""
        return None

    def _whole(self, item: BenchmarkItem, reply: ItemReply, equal: Any) -> ItemVerdict:
        """The verdict by the line `Answer: ...` or by the whole reply."""
        if self.marked:
            return strict_and_lenient(item, reply.text, equal)
        text = reply.text.strip()
        right = bool(text) and equal(text)
        lenient = right or any(map(equal, anywhere(reply.text)))
        return ItemVerdict(float(right), text[:200] or None, float(lenient), unparsed=not text)

    def _said(self, answer: str) -> ItemReply:
        return ItemReply(text=f"{MARK} {answer}" if self.marked else answer)


class ExactText(Scorer):
    """One of the accepted texts; spaces at the ends do not count."""

    def answer(self, given: Any, choices: Sequence[str]) -> list[str]:
        """The accepted texts."""
        return accepted(given)

    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        """Whether the answer is one of them."""
        wanted = {self._plain(text) for text in item.answer}
        return self._whole(item, reply, lambda found: self._plain(found) in wanted)

    def _plain(self, text: str) -> str:
        text = text.strip()
        return text.casefold() if self.ignore_case else text

    def oracle(self, item: BenchmarkItem) -> ItemReply | None:
        """The first of them."""
        return self._said(item.answer[0])


class ExactNumber(Scorer):
    """The same number up to `tolerance`; commas between thousands do not count."""

    def answer(self, given: Any, choices: Sequence[str]) -> str:
        """The number as text."""
        if isinstance(given, str):
            given = given.rpartition("####")[2].strip() if "####" in given else given.strip()
        text = str(given)
        if isinstance(given, bool) or plain_number(text) is None:
            raise ConfigError(f"is {given!r:.40}; the scorer 'number' wants a number")
        return text

    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        """Whether the answer is that number."""
        wanted = plain_number(item.answer) or 0.0
        return self._whole(item, reply, lambda found: self._near(found, wanted))

    def _near(self, found: str, wanted: float) -> bool:
        value = plain_number(found)
        return value is not None and abs(value - wanted) <= self.tolerance

    def oracle(self, item: BenchmarkItem) -> ItemReply | None:
        """The number."""
        return self._said(item.answer)


class ContainsText(Scorer):
    """One of the accepted texts stands somewhere in the reply."""

    def answer(self, given: Any, choices: Sequence[str]) -> list[str]:
        """The accepted texts."""
        return accepted(given)

    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        """Whether one of them is there."""
        text = reply.text.casefold() if self.ignore_case else reply.text
        for wanted in item.answer:
            if (wanted.casefold() if self.ignore_case else wanted) in text:
                return ItemVerdict(1.0, wanted)
        return ItemVerdict(0.0)

    def oracle(self, item: BenchmarkItem) -> ItemReply | None:
        """The first of them."""
        return ItemReply(text=item.answer[0])


class Pattern(Scorer):
    """A regular expression (Python's) matches somewhere in the reply. Its author answers for its speed."""

    def answer(self, given: Any, choices: Sequence[str]) -> str:
        """The pattern."""
        if not isinstance(given, str):
            raise ConfigError(f"is {given!r:.40}; the scorer 'regex' wants a pattern as text")
        try:
            re.compile(given)
        except re.error as error:
            raise ConfigError(f"is not a regular expression: {error}") from None
        if re.search(given, ""):
            raise ConfigError(f"'{given:.40}' matches an empty reply; write a pattern that does not")
        return given

    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        """Whether it matches."""
        flags = re.IGNORECASE if self.ignore_case else 0
        found = re.search(item.answer, reply.text[-_LONGEST:], flags)
        return ItemVerdict(float(found is not None), found.group()[:200] if found else None)


class LikeliestChoice(Scorer):
    """The choice with the highest log-probability. The answer in a file is its index, text or letter."""

    def answer(self, given: Any, choices: Sequence[str]) -> int:
        """The index."""
        if not choices:
            raise ConfigError("has no choices; give a list 'choices'")
        if isinstance(given, int) and not isinstance(given, bool):
            if not 0 <= given < len(choices):
                raise ConfigError(f"is the index {given}, and there are {len(choices)} choices (from 0)")
            return given
        if given in choices:
            return choices.index(given)
        if isinstance(given, str) and re.fullmatch("[A-Z]", given) and ord(given) - 65 < len(choices):
            return ord(given) - 65
        raise ConfigError(f"is {given!r:.40}, which is none of the choices")

    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        """Whether it is the answer."""
        return choice_verdict(item, reply)

    def oracle(self, item: BenchmarkItem) -> ItemReply | None:
        """All probability on the answer."""
        return likeliest(item)


class JsonValue(Scorer):
    """The reply is JSON, alone or as its one block of code. It is the answer, and fits the item's `schema`.

    The order of keys does not count. `lenient`: text may stand around the block.
    """

    def answer(self, given: Any, choices: Sequence[str]) -> Any:
        """The value."""
        return given

    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        """Whether the value is the answer."""
        return json_verdict(
            item, reply, item.facts.get("schema"), lambda value: same_json(value, item.answer)
        )

    def oracle(self, item: BenchmarkItem) -> ItemReply | None:
        """The answer as JSON."""
        return ItemReply(text=json.dumps(item.answer, ensure_ascii=False))


class UserReward(Scorer):
    """A user's function `reward(row, reply)`. `path`: the Python file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file, self._reward = path.name, read_reward(path)

    def answer(self, given: Any, choices: Sequence[str]) -> Any:
        """Whatever the reward reads."""
        return given

    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        """What the function says."""
        verdict = rewarded(self._reward, self._file, item.facts["row"], reply.text)
        score = min(1.0, verdict.parts.get("right", verdict.reward()))
        return ItemVerdict(score, failed=verdict.failed, why=verdict.why)


SCORERS: dict[str, type[Scorer]] = {
    "exact": ExactText,
    "number": ExactNumber,
    "contains": ContainsText,
    "regex": Pattern,
    "choice": LikeliestChoice,
    "json": JsonValue,
}


def accepted(given: Any) -> list[str]:
    """The texts that are right, from one or from a list of texts and numbers. Errors: `ConfigError`."""
    texts = given if isinstance(given, list) else [given]
    for text in texts:
        if isinstance(text, bool) or not isinstance(text, str | int | float) or not str(text).strip():
            raise ConfigError(f"is {text!r:.40}; give a text, or a list of texts that are right")
    return [str(text).strip() for text in texts]


def likeliest(item: BenchmarkItem) -> ItemReply:
    """The reply of a model that puts all probability on the answer."""
    sums = tuple(0.0 if place == item.answer else -10.0 for place in range(len(item.choices)))
    return ItemReply(logprobs=sums, lengths=(1,) * len(sums))


def same_json(value: Any, wanted: Any) -> bool:
    """Equal JSON values; `true` is not 1, and 1.0 is 1."""
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    if isinstance(value, int | float) and isinstance(wanted, int | float):
        return value == wanted
    if type(value) is not type(wanted):
        return False
    if isinstance(value, dict):
        return value.keys() == wanted.keys() and all(same_json(value[key], wanted[key]) for key in wanted)
    if isinstance(value, list):
        return len(value) == len(wanted) and all(map(same_json, value, wanted))
    return bool(value == wanted)


def json_verdict(
    item: BenchmarkItem, reply: ItemReply, schema: Any, right: Callable[[Any], bool]
) -> ItemVerdict:
    """The verdict on a reply that has to be JSON. `right`: whether its value is; such values fit the schema.

    The schema is only asked to say what is wrong.
    """
    text = reply.text.strip()
    strict = _parsed(text)
    if strict is not None and right(strict[0]):
        return ItemVerdict(1.0, text[:200], 1.0)
    lenient = _found_json(text)
    why = "the reply is not JSON"
    if strict is not None:
        wrong = None if schema is None else problem(strict[0], schema)
        why = f"the schema is broken at {wrong}" if wrong else "the value is another one"
    found = lenient is not None and right(lenient[0])
    return ItemVerdict(0.0, text[:200] if strict else None, float(found), unparsed=strict is None, why=why)


def _parsed(text: str) -> tuple[Any] | None:
    try:
        return (parse_json(text),)
    except JsonError:
        return None


def _found_json(text: str) -> tuple[Any] | None:
    block = re.search(r"```(?:json)?\s*\n(.*?)```", text[:100_000], re.DOTALL | re.IGNORECASE)
    if block is not None:
        return _parsed(block[1].strip())
    first = min((place for place in (text.find("{"), text.find("[")) if place >= 0), default=-1)
    last = max(text.rfind("}"), text.rfind("]"))
    return _parsed(text[first : last + 1]) if 0 <= first < last else _parsed(text.strip())
