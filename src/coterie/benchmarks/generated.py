"""Benchmarks whose items are generated: cells of one template and one size each, filled in turn.

An item's cluster is its cell. Twins of an item are drawn from its cell too, so they have its template and its
difficulty. The items depend on name, version and settings alone.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

from pydantic import Field

from coterie.benchmarks.answers import FORM, PICK, asked, reworded, strict_and_lenient
from coterie.benchmarks.item import Benchmark, BenchmarkItem, ItemReply, ItemVerdict, choice_verdict
from coterie.benchmarks.scorers import likeliest
from coterie.config import ConfigError, Settings
from coterie.primer.base import Rng
from coterie.tasks.answers import whole_number

_TRIES = 500  # drawings in a row that give only known questions, after which a cell counts as empty


class GeneratedSettings(Settings):
    """`n`: how many items. `seed`: another seed gives other items."""

    n: int = Field(200, ge=1, le=100_000)
    seed: int = Field(0, ge=0)


@dataclass(frozen=True)
class Cell:
    """Items of one template and one size. `group`: the part of the benchmark that is scored by itself."""

    template: str
    group: str
    size: int = 0

    @property
    def key(self) -> str:
        """Its name, which is the cluster of its items."""
        return f"{self.template}/{self.group}"


@dataclass(frozen=True)
class Draft:
    """What a cell draws; an item without id, cluster and group. `question`: without how to answer it."""

    question: str
    answer: Any
    choices: tuple[str, ...] = ()
    passage: str = ""
    system: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


class GeneratedBenchmark(Benchmark):
    """Items that are drawn. `form`: how to answer, behind each question; empty where the question says it."""

    settings_type: ClassVar[type[GeneratedSettings]] = GeneratedSettings
    form: ClassVar[str] = FORM
    cluster_key = "template and size"

    def __init__(self, settings: GeneratedSettings | None = None) -> None:
        self.settings = settings or self.settings_type()

    @abstractmethod
    def cells(self) -> Sequence[Cell]:
        """The cells, in an order that never changes."""

    @abstractmethod
    def draw(self, rng: Rng, cell: Cell) -> Draft:
        """A random item of a cell."""

    def items(self) -> Sequence[BenchmarkItem]:
        """`n` items, the cells in turn. Errors: `ConfigError` where the cells have fewer."""
        return self._items

    @cached_property
    def _items(self) -> tuple[BenchmarkItem, ...]:
        return tuple(self._drawn())

    def _drawn(self) -> Iterator[BenchmarkItem]:
        cells, n = list(self.cells()), self.settings.n
        seen: set[str] = set()
        made = turn = 0
        while made < n and cells:
            cell = cells[turn % len(cells)]
            rng = Rng("benchmark", self.name, self.version, self.settings.seed, cell.key, turn)
            item = self._new(rng, cell, f"{self.name}-{made:05d}", seen)
            if item is None:
                cells.remove(cell)
                continue
            yield item
            made, turn = made + 1, turn + 1
        if made < n:
            raise ConfigError(
                f"benchmark {self.name}: has only {made} different items, not {n}; ask for n={made}"
            )

    def _new(self, rng: Rng, cell: Cell, name: str, seen: set[str]) -> BenchmarkItem | None:
        """An item that was not seen before; None where the cell has no other."""
        for _ in range(_TRIES):
            item = self._item(self.draw(rng, cell), cell, name)
            key = repr(item.turns) + repr(item.choices)
            if key not in seen:
                seen.add(key)
                return item
        return None

    def _item(self, draft: Draft, cell: Cell, name: str) -> BenchmarkItem:
        said = asked(draft.question, self.form) if self.form else draft.question
        system = [{"role": "system", "content": draft.system}] if draft.system else []
        return BenchmarkItem(
            id=name,
            turns=(*system, {"role": "user", "content": said}),
            answer=draft.answer,
            choices=draft.choices,
            cluster=cell.key,
            passage=draft.passage,
            group=cell.group,
            tools=draft.tools,
            facts=draft.facts,
            source={"license": "Apache-2.0", "source": f"coterie {self.name} {self.version}"},
        )

    def twins(self, item: BenchmarkItem, count: int) -> Sequence[BenchmarkItem]:
        """Items drawn from the item's cell that differ from it; fewer where the cell is small."""
        cell = next((cell for cell in self.cells() if cell.key == item.cluster), None)
        if cell is None:
            return ()
        rng = Rng("twins", self.name, self.version, item.digest)
        seen = {repr(item.turns) + repr(item.choices)}
        drawn = (self._new(rng, cell, f"{item.id}-twin-{number}", seen) for number in range(count))
        return [twin for twin in drawn if twin is not None]

    def rewordings(self, item: BenchmarkItem) -> Sequence[str]:
        """The question in other frames and with other words for the form of the answer."""
        return reworded(item.question, self.form) if self.form else ()

    def recipe(self) -> dict[str, Any]:
        """Name and settings."""
        return {"name": self.name, "settings": self.settings.to_dict()}


class AnswerBenchmark(GeneratedBenchmark):
    """Generated items whose answer is one line of text."""

    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        """Strict: the last line is `Answer: ...`. Lenient: the answer stands where one is usually found."""
        return strict_and_lenient(
            item, reply.text, lambda found: self.equal(item, found), f"the answer is {item.answer}"
        )

    def equal(self, item: BenchmarkItem, found: str) -> bool:
        """Whether a found answer is right. Never raises."""
        return found == item.answer

    def oracle(self, item: BenchmarkItem) -> ItemReply | None:
        """The answer in its line."""
        return ItemReply(text=f"Answer: {item.answer}")


class NumberBenchmark(AnswerBenchmark):
    """Generated items whose answer is a whole number."""

    def equal(self, item: BenchmarkItem, found: str) -> bool:
        """The same whole number."""
        return whole_number(found) == int(item.answer)

    def candidates(self, item: BenchmarkItem) -> Sequence[str]:
        """The numbers around the answer."""
        return [str(int(item.answer) + step) for step in range(-5, 6)]


class ChoiceBenchmark(GeneratedBenchmark):
    """Generated items whose choices are weighed by their log-probabilities. The answer is an index."""

    mode = "choice"
    form = PICK

    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        """Right where the answer has the highest log-probability."""
        return choice_verdict(item, reply)

    def reordered(self, item: BenchmarkItem, order: Sequence[int]) -> BenchmarkItem | None:
        """The choices below the question in another order."""
        return relisted(item, order)

    def oracle(self, item: BenchmarkItem) -> ItemReply | None:
        """All probability on the answer."""
        return likeliest(item)


def listed(question: str, choices: Sequence[str]) -> str:
    """A question with its choices below it."""
    return "\n".join([question, *(f"- {choice}" for choice in choices)])


def relisted(item: BenchmarkItem, order: Sequence[int]) -> BenchmarkItem | None:
    """An item whose choices `listed` shows, with these in another order; None where it shows none."""
    choices = tuple(item.choices[place] for place in order)
    question = item.question.replace(listed("", item.choices), listed("", choices), 1)
    if question == item.question:
        return None
    turns = (*item.turns[:-1], {**item.turns[-1], "content": question})
    return replace(item, turns=turns, choices=choices, answer=list(order).index(item.answer))
