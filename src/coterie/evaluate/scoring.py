"""One benchmark scored on one subject: a record for each reply, and what the records amount to."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from coterie.benchmarks.item import Benchmark, BenchmarkItem, ItemReply, ItemVerdict, check_items
from coterie.benchmarks.safety.battery import SAFETY
from coterie.config.errors import ConfigError
from coterie.data.progress import Ticker
from coterie.evaluate.asking import Form, ReplyOptions, prompt_digest
from coterie.evaluate.kept_records import KeptRecords, records_root
from coterie.evaluate.subject import Subject
from coterie.evidence.canonical import digest_of
from coterie.results.evaluation import (
    ExtractionFacts,
    ItemRecord,
    PromptFacts,
    SamplesFile,
    TaskResult,
    TaskScore,
)
from coterie.results.intervals import Estimate
from coterie.stats.bootstrap import macro_average
from coterie.stats.single import between_seeds, task_score

_T = TypeVar("_T")
BLOCK = 64  # replies that are asked for together and then written down
_LOWEST = -1e9  # of a log-probability in a record, which holds finite numbers only


@dataclass(frozen=True)
class ScoredTask:
    """The result of a task and the records behind it, in the order of its file."""

    result: TaskResult
    records: list[ItemRecord]


def score_benchmark(
    subject: Subject,
    benchmark: Benchmark,
    options: ReplyOptions | None = None,
    *,
    limit: int | None = None,
    seeds: Sequence[int] = (),
    folder: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ScoredTask:
    """Ask for all items and judge the replies.

    `options`: how; None: greedy, with the benchmark's `max_tokens`. `limit`: the first items only. `seeds`:
    one reply to each item for each of them, sampled at the options' temperature. `folder`: where records are
    kept as they come; the same call goes on where an earlier one was stopped, if the model says who it is.
    `progress` is called with (replies done, replies in all).
    Errors: `ConfigError` for seeds of greedy replies, and where not one item fits into the model.
    """
    options = options or ReplyOptions(max_tokens=benchmark.max_tokens)
    if seeds and options.temperature == 0 and benchmark.mode == "reply":
        raise ConfigError("seeds: greedy replies have none; give a temperature above 0 or leave seeds out")
    items = list(benchmark.items())
    if not benchmark.published:
        check_items(benchmark.name, items)
    run = _ScoringRun(subject, benchmark, options, items[:limit])
    asked = run.asked(tuple(seeds) if benchmark.mode == "reply" else ())
    kept = None if folder is None else KeptRecords(folder, file_name(benchmark.name), run.key())
    records = (
        [] if kept is None else kept.begin([(item.digest, run.prompts[item.id], s) for item, s in asked])
    )
    progress = progress or Ticker(f"{benchmark.name}: replies")
    for start in range(len(records), len(asked), BLOCK):
        block = run.block(asked[start : start + BLOCK])
        if kept is not None:
            kept.add(block)
        records += block
        progress(len(records), len(asked))
    samples = (
        SamplesFile(path="", rows=len(records), merkle_root=records_root(records))
        if kept is None
        else kept.finish(records)
    )
    return ScoredTask(run.result(records, samples), records)


class _ScoringRun:
    """One benchmark on one subject."""

    def __init__(
        self, subject: Subject, benchmark: Benchmark, options: ReplyOptions, items: list[BenchmarkItem]
    ) -> None:
        self.subject, self.benchmark, self.options, self.items = subject, benchmark, options, items
        self.form: Form = subject.form(options)
        self.too_long: dict[str, str] = {}
        if benchmark.mode != "text":  # a long text is read in parts
            self.too_long = subject.too_long(items, options, benchmark.mode == "choice")
        if len(self.too_long) == len(items):
            why = next(iter(self.too_long.values()))
            raise ConfigError(f"{benchmark.name}: no item fits into {subject.identity.name}: {why}")
        self.prompts = {item.id: prompt_digest(item, options, self.form) for item in items}
        self.groups = {item.id: item.group for item in items}
        self.extractor = digest_of({"benchmark": benchmark.name, "version": benchmark.version})

    def key(self) -> object:
        """All that a record depends on but its item; None where the model does not say who it is."""
        if self.subject.identity.weights_tensors is None:
            return None
        return {
            "identity": self.subject.identity.model_copy(update={"name": ""}).to_dict(),
            "profile": self.subject.profile.to_dict(),
            "benchmark": [self.benchmark.name, self.benchmark.version, self.benchmark.mode],
            "prompt": self.subject.facts(self.options, self.extractor).to_dict(),
            "reasoning_tokens": self.options.reasoning_tokens,
            "turns": self.options.turns,
        }

    def asked(self, seeds: Sequence[int]) -> list[tuple[BenchmarkItem, int | None]]:
        """Every reply that is wanted: all items with the first seed, then with the next one."""
        return [(item, seed) for seed in (seeds or (None,)) for item in self.items]

    def block(self, asked: Sequence[tuple[BenchmarkItem, int | None]]) -> list[ItemRecord]:
        """The records of some replies."""
        found: dict[int, tuple[ItemReply, ItemVerdict]] = {}
        fitting = [number for number, (item, _) in enumerate(asked) if item.id not in self.too_long]
        for seed in dict.fromkeys(asked[number][1] for number in fitting):
            numbers = [number for number in fitting if asked[number][1] == seed]
            items = [asked[number][0] for number in numbers]
            replies = self._replies(items, seed)
            for number, reply, verdict in zip(numbers, replies, self._judged(items, replies), strict=True):
                found[number] = reply, verdict
        for number, (item, _) in enumerate(asked):
            if item.id in self.too_long:
                found[number] = ItemReply(), _failed(self.too_long[item.id])
        return [self._record(item, seed, *found[number]) for number, (item, seed) in enumerate(asked)]

    def _replies(self, items: list[BenchmarkItem], seed: int | None) -> list[ItemReply]:
        if self.benchmark.mode == "choice":
            return self.subject.choice_logprobs(items, self.options)
        if self.benchmark.mode == "text":
            texts = [item.question for item in items]
            sums = self.subject.rolling(texts)
            return [
                ItemReply(logprobs=(total,), lengths=(len(text.encode()),))
                for total, text in zip(sums, texts, strict=True)
            ]
        options = replace(self.options, seed=seed)
        return self.subject.replies(items, options, self.benchmark.environment)

    def _judged(self, items: list[BenchmarkItem], replies: list[ItemReply]) -> list[ItemVerdict]:
        verdicts = self.benchmark.judge_all(items, replies)
        return [
            _failed(reply.failed) if reply.failed else verdict
            for reply, verdict in zip(replies, verdicts, strict=True)
        ]

    def _record(
        self, item: BenchmarkItem, seed: int | None, reply: ItemReply, verdict: ItemVerdict
    ) -> ItemRecord:
        return ItemRecord(
            task=self.benchmark.name,
            id=item.id,
            digest=item.digest,
            cluster=item.cluster or item.id,
            prompt=self.prompts[item.id],
            seed=seed,
            reply=_written(reply),
            extracted=verdict.extracted,
            score=verdict.score,
            right=verdict.right,
            lenient=verdict.lenient,
            unparsed=verdict.unparsed,
            truncated=reply.truncated,
            failed=verdict.failed,
            logprobs=[max(value, _LOWEST) for value in reply.logprobs],
            tokens=reply.tokens,
            confidence=verdict.confidence,
            why=verdict.why,
        )

    def result(self, records: list[ItemRecord], samples: SamplesFile) -> TaskResult:
        """What the records amount to. Errors: as `task_result`."""
        prompt = self.subject.facts(self.options, self.extractor)
        digest = digest_of([item.digest for item in self.items])
        found = task_result(self.benchmark, records, self.groups, prompt, digest, samples)
        return found.model_copy(update={"extras": self._extras(records)})

    def _extras(self, records: Sequence[ItemRecord]) -> dict[str, float]:
        """What the benchmark says over all verdicts, from their records."""
        by_id = {item.id: item for item in self.items}
        judged = [record for record in records if not record.failed]
        verdicts = [
            ItemVerdict(
                record.score, record.extracted, record.lenient, record.unparsed, False, record.confidence
            )
            for record in judged
        ]
        return self.benchmark.extras([by_id[record.id] for record in judged], verdicts)


def task_result(
    benchmark: Benchmark,
    records: Sequence[ItemRecord],
    groups: Mapping[str, str],
    prompt: PromptFacts,
    items: str,
    samples: SamplesFile,
) -> TaskResult:
    """The result of records. `groups`: of each item by its id. `items`: digest over those of the items.

    With several seeds an item's score is the mean over them. Errors: `ConfigError` where none has a score.
    """
    judged = [record for record in records if not record.failed]
    if not judged:
        why = next((record.why for record in records if record.why), "no reason given")
        raise ConfigError(f"{benchmark.name}: not one reply could be judged: {why}")
    means = item_means(judged)
    clusters = {record.id: record.cluster for record in judged}

    def over(ids: Sequence[str]) -> TaskScore:
        return task_score(
            [means[id] for id in ids],
            [clusters[id] for id in ids],
            benchmark.metric,
            benchmark.mode == "text",
        )

    inside = {
        name: [id for id in means if groups[id] == name] for name in _in_order(groups[id] for id in means)
    }
    seeds = _in_order(record.seed for record in judged)
    per_seed = [mean([record.score for record in judged if record.seed == seed]) for seed in seeds]
    return TaskResult(
        id=benchmark.name,
        version=benchmark.version,
        mode=benchmark.mode,
        items=items,
        n=len(means),
        cluster_key=benchmark.cluster_key,
        prompt=prompt,
        score=over(list(means)),
        groups={name: _estimate(over(ids)) for name, ids in inside.items() if name},
        between_seeds=between_seeds(per_seed),
        extraction=_extraction(benchmark, records),
        samples=samples,
    )


def item_means(records: Sequence[ItemRecord]) -> dict[str, float]:
    """Item id -> mean score over its records, in the order of their first ones; failed ones are left out."""
    scores: dict[str, list[float]] = {}
    for record in records:
        if not record.failed:
            scores.setdefault(record.id, []).append(record.score)
    return {id: mean(found) for id, found in scores.items()}


def average_of(tasks: Sequence[TaskResult], records: Mapping[str, Sequence[ItemRecord]]) -> Estimate | None:
    """The mean of the tasks' scores; None below two. What texts cost and safety tasks are left out.

    The interval is over the clusters of all tasks, not pooled from the tasks' intervals.
    """
    averaged = [task for task in tasks if not task.score.lower_is_better and task.id not in SAFETY]
    if len(averaged) < 2:
        return None
    found = []
    for task in averaged:
        means = item_means(records[task.id])
        clusters = {record.id: record.cluster for record in records[task.id]}
        found.append((list(means.values()), [clusters[id] for id in means]))
    return macro_average(found)


def mean(values: Sequence[float]) -> float:
    """The mean, rounded once."""
    return math.fsum(values) / len(values)


def _extraction(benchmark: Benchmark, records: Sequence[ItemRecord]) -> ExtractionFacts:
    judged = [record for record in records if not record.failed]
    gaps = [record.lenient - record.score for record in judged if record.lenient is not None]
    # The lenient score of weighed choices counts bytes; it says nothing about how replies are read.
    gap = mean(gaps) if gaps and benchmark.mode == "reply" else None
    return ExtractionFacts(
        unparsed=sum(record.unparsed for record in judged),
        truncated=sum(record.truncated for record in judged),
        failed=len(records) - len(judged),
        gap=gap,
    )


def _estimate(score: TaskScore) -> Estimate:
    return Estimate(value=score.value, low=score.low, high=score.high)


def _in_order(values: Iterable[_T]) -> list[_T]:
    return list(dict.fromkeys(values))


def _failed(why: str) -> ItemVerdict:
    return ItemVerdict(score=0.0, failed=True, why=why)


def _written(reply: ItemReply) -> str:
    """A reply as its record holds it: reasoning, words, and a line for each call."""
    thought = f"<think>{reply.reasoning}</think>" if reply.reasoning else ""
    calls = [f"call {call['name']}({_json(call['arguments'])})" for call in reply.calls]
    return "\n".join(part for part in (thought, *calls, reply.text) if part)


def _json(arguments: object) -> str:
    return (
        arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False, sort_keys=True)
    )


def file_name(task: str) -> str:
    """The name of a task's file of records, whatever characters the task's name has."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", task).strip("-.") or "task"
    return plain if plain == task else f"{plain}-{digest_of(task)[7:15]}"
