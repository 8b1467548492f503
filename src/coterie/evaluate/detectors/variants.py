"""What detectors share: the scores of an item's variants, and its text as training data may hold it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from coterie.benchmarks.files import FixedItems
from coterie.benchmarks.item import Benchmark, BenchmarkItem
from coterie.evaluate.asking import ReplyOptions
from coterie.evaluate.scoring import item_means, score_benchmark
from coterie.evaluate.splits import answers_of
from coterie.evaluate.subject import Subject
from coterie.results.evaluation import ItemRecord

Groups = Sequence[tuple[float, Sequence[float]]]


def judged_items(benchmark: Benchmark, records: Sequence[ItemRecord], count: int) -> list[BenchmarkItem]:
    """The first `count` items that have a score."""
    known = item_means(records)
    return [item for item in benchmark.items() if item.id in known][:count]


def paired(
    subject: Subject,
    benchmark: Benchmark,
    options: ReplyOptions,
    records: Sequence[ItemRecord],
    variants: Mapping[str, Sequence[BenchmarkItem]],
    usual: ReplyOptions | None = None,
) -> dict[str, tuple[float, list[float]]]:
    """Item id -> its score and those of its variants, all by greedy replies, without those that have none.

    `records`: of the items; where their replies were sampled, which would not compare with greedy ones,
    items are asked again. `usual`: the options of the items themselves, where variants are asked otherwise.
    Items without a score on both sides are left out. Variants of different items may be the same.
    """
    own = {id: score for id, score in item_means(records).items() if variants.get(id)}
    asked = {f"{id}/{n}": (id, item) for id in own for n, item in enumerate(variants[id])}
    if not asked:
        return {}
    if (usual or options).temperature > 0 and benchmark.mode == "reply":
        items = [item for item in benchmark.items() if item.id in own]
        own = _greedy(subject, benchmark, usual or options, items)
    found: dict[str, list[float]] = {id: [] for id in own}
    scores = _greedy(
        subject, benchmark, options, [replace(item, id=name) for name, (_, item) in asked.items()]
    )
    for name, score in scores.items():
        found.get(asked[name][0], []).append(score)
    return {id: (own[id], others) for id, others in found.items() if others}


def _greedy(
    subject: Subject, benchmark: Benchmark, options: ReplyOptions, items: Sequence[BenchmarkItem]
) -> dict[str, float]:
    drawn = FixedItems(benchmark, items)
    drawn.published = True  # equal ones are kept
    return item_means(score_benchmark(subject, drawn, replace(options, temperature=0.0, seed=None)).records)


def text_of(item: BenchmarkItem) -> str:
    """Question and answer, one below the other."""
    return "\n".join([item.question, *answers_of(item)[:1]])
