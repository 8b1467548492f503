"""The check that a benchmark must pass: right replies earn 1, and replies that know nothing next to nothing.

The attacks are those on tasks (`tasks.battery`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice

from coterie.benchmarks import BENCHMARKS, load_benchmark
from coterie.benchmarks.item import Benchmark, BenchmarkItem, ItemReply, check_items
from coterie.tasks.answers import final_answer
from coterie.tasks.battery import COUNT, Checked, Paid, TaskFinding, attacked, earns, error_line
from coterie.tasks.check import TaskReport

_TWINS, _WORDINGS = 5, 8

# Of an item, its right reply and that of another item.
_Attack = Callable[[BenchmarkItem, ItemReply, ItemReply], ItemReply]
_WEIGHTS: dict[str, _Attack] = {
    "the same log-probability for all": lambda item, right, other: replace(
        right, logprobs=(-1.0,) * len(item.choices)
    ),
    "log-probabilities that are no numbers": lambda item, right, other: replace(
        right, logprobs=(float("nan"),) * len(item.choices)
    ),
    "no log-probabilities": lambda item, right, other: replace(right, logprobs=(), lengths=()),
}
_CALLS: dict[str, _Attack] = {
    "no call": lambda item, right, other: replace(right, calls=(), turns=()),
    "the calls of another item": lambda item, right, other: other,
    "every call twice": lambda item, right, other: replace(right, calls=right.calls * 2),
    "the right calls and another's": lambda item, right, other: replace(
        right, calls=right.calls + other.calls
    ),
    "calls without arguments": lambda item, right, other: replace(
        right, calls=tuple({**call, "arguments": {}} for call in right.calls)
    ),
    "calls whose arguments are broken": lambda item, right, other: replace(
        right, calls=tuple({**call, "arguments": "{"} for call in right.calls)
    ),
    "calls without a name": lambda item, right, other: replace(right, calls=({}, *right.calls)),
}


def check_benchmark(benchmark: Benchmark, count: int = COUNT) -> TaskReport:
    """Try a benchmark with its first `count` items. Nothing that it does is raised."""
    try:
        items = list(islice(benchmark.items(), count))
        if not benchmark.published:
            check_items(benchmark.name, items)
        findings = tuple(_findings(benchmark, items))
    except Exception as error:
        findings = (TaskFinding("items", False, error_line(error)),)
        items = []
    return TaskReport(benchmark.name, benchmark.version, len(items), findings)


def _findings(benchmark: Benchmark, items: Sequence[BenchmarkItem]) -> Iterator[TaskFinding]:
    yield _again(benchmark, items)
    yield _variants(benchmark, items[:20])
    right = {item.id: reply for item in items if (reply := benchmark.oracle(item)) is not None}
    known = [item for item in items if item.id in right]
    if not known:
        return
    yield earns("a right reply", 1.0, partial(_paid, benchmark, known, [right[one.id] for one in known]))
    others = [*known[1:], known[0]]
    called = [(one, other) for one, other in zip(known, others, strict=True) if right[one.id].calls]
    weighed = [(one, other) for one, other in zip(known, others, strict=True) if benchmark.mode == "choice"]
    for pairs, attacks in ((weighed, _WEIGHTS), (called, _CALLS)):
        for what, attack in attacks.items():
            replies = [attack(one, right[one.id], right[other.id]) for one, other in pairs]
            if pairs:
                pay = partial(_paid, benchmark, [one for one, _ in pairs], replies)
                yield earns(what, 0.0, pay, benchmark.guessable)
    if benchmark.mode == "reply":
        yield from attacked(_Items(benchmark, right), known)


def _paid(benchmark: Benchmark, items: Sequence[BenchmarkItem], replies: Sequence[ItemReply]) -> list[Paid]:
    verdicts = benchmark.judge_all(items, replies)
    return [Paid(verdict.score, verdict.why, verdict.failed) for verdict in verdicts]


def _again(benchmark: Benchmark, items: Sequence[BenchmarkItem]) -> TaskFinding:
    """Whether the same settings give the same items once more."""
    recipe = benchmark.recipe()
    known = recipe["name"] in BENCHMARKS  # else its items are in a file
    again = (load_benchmark(recipe["name"], **recipe["settings"]) if known else benchmark).items()
    same = [one.digest for one in islice(again, len(items))] == [one.digest for one in items]
    return TaskFinding("the same items come again", same, f"{len(items)} items")


def _variants(benchmark: Benchmark, items: Sequence[BenchmarkItem]) -> TaskFinding:
    """Twins are other items of the same cluster; wordings are many, and differ."""
    wrong: list[str] = []
    for item in items:
        twins = benchmark.twins(item, _TWINS)
        asked = {repr(one.turns) for one in (item, *twins)}
        if len(asked) != len(twins) + 1 or any(
            (twin.cluster, twin.group) != (item.cluster, item.group) for twin in twins
        ):
            wrong.append(f"twins of {item.id} are the same, or of another cluster")
        wordings = benchmark.rewordings(item)
        if wordings and len({item.question, *wordings}) <= max(_WORDINGS, len(wordings)):
            wrong.append(f"wordings of {item.id} are the same, or fewer than {_WORDINGS}")
    return TaskFinding("twins and wordings", not wrong, wrong[0] if wrong else f"{len(items)} items")


class _Items(Checked[BenchmarkItem]):
    """A benchmark as the battery sees it. `right`: the id of an item -> its right reply."""

    def __init__(self, benchmark: Benchmark, right: Mapping[str, ItemReply]) -> None:
        self._benchmark, self._right, self.worst = benchmark, right, benchmark.guessable
        self.exclusive = benchmark.exclusive

    def prompt(self, problem: BenchmarkItem) -> str:
        return problem.question

    def answer(self, problem: BenchmarkItem) -> str:
        return self.answer_of(problem.id)

    def answer_of(self, name: str) -> str:
        """What the right reply to the item of this id ends with."""
        text = self._right[name].text
        return final_answer(text) or text

    def oracle(self, problem: BenchmarkItem) -> str:
        return self._right[problem.id].text

    def candidates(self, problem: BenchmarkItem) -> Sequence[str]:
        listed = self._benchmark.candidates(problem)
        return listed or [self.answer_of(name) for name in list(self._right)[:4] if name != problem.id]

    def pay(self, problems: Sequence[BenchmarkItem], replies: Sequence[str]) -> list[Paid]:
        return _paid(self._benchmark, problems, [ItemReply(text=reply) for reply in replies])
