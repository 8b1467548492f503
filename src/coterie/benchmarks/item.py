"""A test item, the verdict on a reply to it, and the base of all benchmarks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from coterie.config import ConfigError
from coterie.evidence.canonical import digest_of
from coterie.results.evaluation import ScoringMode
from coterie.sandbox.tools import Tool

Turn = Mapping[str, Any]  # a message in the OpenAI form


@dataclass(frozen=True)
class BenchmarkItem:
    """One item. The model sees `turns`, `choices` where they are shown, and `tools`; nothing else.

    `id`: unique in its benchmark. `turns`: the messages, the last of them the user's. `answer`: what the
    checker wants, of JSON types. `choices`: the answers that are weighed by their log-probabilities.
    `cluster`: items of one template or passage share it; default: the id. `passage`: text that the question
    is about, which also stands in `turns`. `group`: a part of the benchmark with a score to itself. `facts`:
    what else the checker knows.
    """

    id: str
    turns: tuple[Turn, ...]
    answer: Any
    choices: tuple[str, ...] = ()
    cluster: str = ""
    passage: str = ""
    group: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    source: Mapping[str, str] = field(default_factory=dict)  # license, source, first_published

    @cached_property
    def digest(self) -> str:
        """Digest over all that the model sees and the checker wants."""
        return digest_of(
            {
                "id": self.id,
                "turns": [dict(turn) for turn in self.turns],
                "answer": self.answer,
                "choices": list(self.choices),
                "tools": [dict(tool) for tool in self.tools],
                "facts": dict(self.facts),
            }
        )

    @property
    def question(self) -> str:
        """The text of the user's last message."""
        content = self.turns[-1].get("content", "")
        return content if isinstance(content, str) else ""


@dataclass(frozen=True)
class ItemReply:
    """What a model answered.

    `text`: without its reasoning and without calls. `calls`: the tool calls in order, `name` and `arguments`
    (an object, or text where it is not JSON). `truncated`: it ended at its limit. `logprobs`: of each choice,
    summed over its tokens; `lengths`: bytes of each choice; `greedy`: whether greedy decoding writes it, if
    that was looked at. `turns`: all messages after the prompt, where tools were called. `failed`: why there
    is no reply to judge, such as a tool that did not work.
    """

    text: str = ""
    reasoning: str = ""
    calls: tuple[Mapping[str, Any], ...] = ()
    truncated: bool = False
    tokens: int = 0
    logprobs: tuple[float, ...] = ()
    lengths: tuple[int, ...] = ()
    greedy: tuple[bool, ...] = ()
    turns: tuple[Turn, ...] = ()
    failed: str = ""


@dataclass(frozen=True)
class ItemVerdict:
    """What a reply earns. The fields are those of `ItemRecord`, which says what they mean.

    `lower_is_better`: the score is a cost, such as bits per byte, so that nothing is right or wrong.
    """

    score: float
    extracted: str | None = None
    lenient: float | None = None
    unparsed: bool = False
    failed: bool = False
    confidence: float | None = None
    why: str = ""
    lower_is_better: bool = False

    @property
    def right(self) -> bool:
        """Whether it earns all there is."""
        return not self.failed and not self.lower_is_better and self.score >= 1.0


class Benchmark(ABC):
    """Items of one kind and their checker.

    `version` changes with any change of an item or of a verdict. `cluster_key`: what a cluster is, in words.
    `executes`: whether judging runs the code of a reply, which a user must allow. `rewordings`: of an item's
    last message, texts that mean the same (for the prompt band). `guessable`: the mean score that a reply may
    earn which knows nothing of its item (`benchmarks.check`). `exclusive`: a right reply with another one
    next to it earns nothing. `published`: its items are as others published them, so that equal ones are
    kept; they share a cluster. `canary`: of the file that the items come from; it is not one of them.
    """

    name: str
    says: str
    version: str = "1"
    mode: ScoringMode = "reply"
    metric: str = "accuracy"
    cluster_key: str = "item"
    executes: bool = False
    published: bool = False
    guessable: float = 0.05
    exclusive: bool = True
    max_tokens: int = 256
    canary: BenchmarkItem | None = None

    @abstractmethod
    def items(self) -> Sequence[BenchmarkItem]:
        """All items, in an order that never changes. Errors: `ConfigError` for an unusable file."""

    @abstractmethod
    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        """The verdict on a reply. Never raises: `failed` says that the checker did not work."""

    def judge_all(self, items: Sequence[BenchmarkItem], replies: Sequence[ItemReply]) -> list[ItemVerdict]:
        """Verdicts on many replies; for checkers that work on several at once."""
        return [self.judge(item, reply) for item, reply in zip(items, replies, strict=True)]

    def environment(self, item: BenchmarkItem) -> Sequence[Tool]:
        """The working tools of an item, made anew for each reply; none where calls are only compared."""
        return ()

    def rewordings(self, item: BenchmarkItem) -> Sequence[str]:
        """Other wordings of the last message that mean the same; empty where there are none."""
        return ()

    def twins(self, item: BenchmarkItem, count: int) -> Sequence[BenchmarkItem]:
        """New items of the same template and difficulty (detector D2); empty where there are none."""
        return ()

    def reordered(self, item: BenchmarkItem, order: Sequence[int]) -> BenchmarkItem | None:
        """The item with its choices in another order (detector D3); None where the model is shown no order.

        `order`: for each place the number of the choice that comes there.
        """
        return None

    def oracle(self, item: BenchmarkItem) -> ItemReply | None:
        """A right reply; None where none is known."""
        return None

    def candidates(self, item: BenchmarkItem) -> Sequence[str]:
        """Answers that a guesser would list, for the check of the benchmark (`benchmarks.check`)."""
        return ()

    def extras(self, items: Sequence[BenchmarkItem], verdicts: Sequence[ItemVerdict]) -> dict[str, float]:
        """Further numbers over all replies by name, such as the calibration error; mostly none."""
        return {}

    def recipe(self) -> dict[str, Any]:
        """What `load_benchmark` takes to give this benchmark again: `name`, and its `settings`."""
        return {"name": self.name, "settings": {}}


def choice_verdict(item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
    """Right where the choice with the highest log-probability is the answer (its index).

    `lenient`: the same with log-probabilities per byte. Ties are decided against the model.
    """
    sums = reply.logprobs
    if len(sums) != len(item.choices) or len(reply.lengths) != len(sums):
        return ItemVerdict(0.0, unparsed=True, why="the choices were not weighed")
    per_byte = [value / max(1, length) for value, length in zip(sums, reply.lengths, strict=True)]
    first = _only_best(sums)
    return ItemVerdict(
        score=float(first == item.answer),
        extracted=item.choices[first] if first is not None else None,
        lenient=float(_only_best(per_byte) == item.answer),
        unparsed=first is None,
    )


def check_items(name: str, items: Sequence[BenchmarkItem]) -> None:
    """Raise `ConfigError` for no item, a repeated id, the same item twice, or one without an answer."""
    if not items:
        raise ConfigError(f"benchmark {name}: holds no item")
    ids: dict[str, str] = {}
    questions: dict[str, str] = {}
    for item in items:
        if item.id in ids:
            raise ConfigError(f"benchmark {name}: two items have the id '{item.id}'; give each its own")
        ids[item.id] = item.digest
        if item.answer is None or item.answer == "":
            raise ConfigError(f"benchmark {name}: item '{item.id}' has no answer; give one or leave it out")
        seen = digest_of([[dict(turn) for turn in item.turns], list(item.choices)])
        if seen in questions:
            raise ConfigError(
                f"benchmark {name}: items '{questions[seen]}' and '{item.id}' ask the same; keep one of them"
            )
        questions[seen] = item.id


def _only_best(values: Sequence[float]) -> int | None:
    if any(value != value for value in values):
        return None
    best = max(values)
    return values.index(best) if list(values).count(best) == 1 else None
