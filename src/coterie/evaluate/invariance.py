"""Whether an item's result depends on what else is in the batch, measured over several compositions."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from coterie.benchmarks.item import Benchmark, BenchmarkItem, ItemReply
from coterie.config.errors import ConfigError
from coterie.evaluate.asking import ReplyOptions
from coterie.evaluate.harness.judged import AskedElsewhere
from coterie.evaluate.local_subject import LocalSubject
from coterie.nn.router import Router, Routing
from coterie.results.evaluation import InvarianceFacts

SHUFFLES, COPIES = 3, 3
_COMPARED = 120  # characters of a reply whose log-probability is compared; read again, they fit any model
_LONG = 8  # times that a long neighbour repeats a question, at most

# A composition: batches, each of the items that are asked together. Neighbours have ids of their batch alone.
Composition = list[list[BenchmarkItem]]


@dataclass(frozen=True)
class _Result:
    """What one composition gave for an item."""

    logprobs: tuple[float, ...]
    said: str
    score: float


def why_not(benchmark: Benchmark) -> str | None:
    """Why a task cannot be asked in several batches, in words; None where it can."""
    if isinstance(benchmark, AskedElsewhere):
        return "is asked by another program, which makes the batches; choose a task of coterie eval list"
    if benchmark.mode == "text":
        return "scores whole texts; choose a task with items"
    if any(benchmark.environment(item) for item in list(benchmark.items())[:1]):
        return "calls tools; choose a task without them"
    return None


def measure_invariance(
    subject: LocalSubject, benchmark: Benchmark, options: ReplyOptions, items: int = 20, seed: int = 0
) -> InvarianceFacts:
    """Ask the first `items` that fit in every composition, and compare with each of them asked alone.

    Compositions: all sorted by length; `SHUFFLES` shuffles; each next to a much longer neighbour; each next
    to copies of it, which choose the same experts and so load them most. Log-probabilities are those of the
    choices, or of the reply that the item got alone. `dropped_tokens`: choices of experts that were made and
    then left out.
    Errors: `ConfigError` for tasks with tools and for whole texts, and where no item fits.
    """
    reason = why_not(benchmark)
    if reason is not None:
        raise ConfigError(f"invariance: {benchmark.name} {reason}")
    options = replace(options, temperature=0.0, seed=None)
    asked = list(benchmark.items())
    too_long = subject.too_long(asked, options, benchmark.mode == "choice")
    asked = [item for item in asked if item.id not in too_long][:items]
    if not asked:
        raise ConfigError(f"invariance: no item of {benchmark.name} fits into the model")
    run = _Invariance(subject, benchmark, options)
    with _counted_drops(subject) as dropped:
        alone = run.results([[item] for item in asked])
        run.fixed = {id: found.said[:_COMPARED] for id, found in alone.items()}
        alone = run.results([[item] for item in asked]) if benchmark.mode == "reply" else alone
        others = [run.results(composition) for composition in compositions(asked, subject, options, seed)]
    changes = [
        abs(one - other)
        for found in others
        for id, reference in alone.items()
        for one, other in zip(found[id].logprobs, reference.logprobs, strict=True)
    ]
    flips = [found[id].said != alone[id].said for found in others for id in alone]
    means = [sum(one.score for one in found.values()) / len(found) for found in (alone, *others)]
    return InvarianceFacts(
        compositions=1 + len(others),
        items=len(asked),
        max_abs_dlogprob=max(changes, default=0.0),
        flip_rate=sum(flips) / len(flips),
        dropped_tokens=dropped[0],
        span=max(means) - min(means),
    )


def compositions(
    items: Sequence[BenchmarkItem], subject: LocalSubject, options: ReplyOptions, seed: int = 0
) -> Iterator[Composition]:
    """The batches of every composition but that of items alone."""
    yield [sorted(items, key=lambda item: len(item.question))]
    for number in range(SHUFFLES):
        order = list(items)
        random.Random(seed + number).shuffle(order)
        yield [order]
    yield [[item, _long(item, subject, options)] for item in items]
    yield [[item, *(replace(item, id=f"{item.id} copy {n}") for n in range(COPIES))] for item in items]


def is_invariant(facts: InvarianceFacts) -> bool:
    """Whether every composition gave the same bits and nothing was dropped."""
    return facts.max_abs_dlogprob == 0 and facts.flip_rate == 0 and facts.dropped_tokens == 0


class _Invariance:
    """Asks compositions. `fixed`: the replies whose log-probabilities are compared, by item."""

    def __init__(self, subject: LocalSubject, benchmark: Benchmark, options: ReplyOptions) -> None:
        self.subject, self.benchmark, self.options = subject, benchmark, options
        self.fixed: Mapping[str, str] = {}
        self._known = {item.id for item in benchmark.items()}

    def results(self, composition: Composition) -> dict[str, _Result]:
        """What each item that is not a neighbour got."""
        found = {}
        for batch in composition:
            for item, result in zip(batch, self._batch(batch), strict=True):
                found[item.id] = result
        return {id: result for id, result in sorted(found.items()) if id in self._known}

    def _batch(self, batch: list[BenchmarkItem]) -> list[_Result]:
        if self.benchmark.mode == "choice":
            weighed = self.subject.choice_logprobs(batch, self.options)
            return [
                self._judged(item, reply, reply.logprobs) for item, reply in zip(batch, weighed, strict=True)
            ]
        replies = self.subject.replies(batch, self.options, self.benchmark.environment)
        logprobs: list[tuple[float, ...]] = [()] * len(batch)
        if self.fixed:
            texts = [self.fixed.get(item.id.partition(" copy ")[0]) or "." for item in batch]
            fixed = [replace(item, choices=(text,)) for item, text in zip(batch, texts, strict=True)]
            logprobs = [reply.logprobs for reply in self.subject.choice_logprobs(fixed, self.options)]
        return [self._judged(*one) for one in zip(batch, replies, logprobs, strict=True)]

    def _judged(self, item: BenchmarkItem, reply: ItemReply, logprobs: tuple[float, ...]) -> _Result:
        verdict = self.benchmark.judge(item, reply)
        said = verdict.extracted or "" if self.benchmark.mode == "choice" else reply.text
        return _Result(logprobs, said, verdict.score)


def _long(item: BenchmarkItem, subject: LocalSubject, options: ReplyOptions) -> BenchmarkItem:
    """A neighbour whose question is as long as fits."""
    for times in range(_LONG, 1, -1):
        turn = {**item.turns[-1], "content": " ".join([item.question] * times)}
        made = replace(item, id=f"{item.id} long", turns=(*item.turns[:-1], turn))
        if not subject.too_long([made], options, bool(item.choices)):
            return made
    return replace(item, id=f"{item.id} long")


@contextmanager
def _counted_drops(subject: LocalSubject) -> Iterator[list[int]]:
    """Counts the chosen experts that a router then gives no weight, in one number."""
    dropped = [0]

    def count(router: object, given: object, routing: Routing) -> None:
        dropped[0] += int((routing.weights_TK == 0).sum())

    routers = [module for module in subject.model.model.modules() if isinstance(module, Router)]
    hooks = [router.register_forward_hook(count) for router in routers]
    try:
        yield dropped
    finally:
        for hook in hooks:
            hook.remove()
