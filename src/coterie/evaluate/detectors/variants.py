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

Groups = list[tuple[float, list[float]]]


def judged_items(benchmark: Benchmark, records: Sequence[ItemRecord], count: int) -> list[BenchmarkItem]:
    """The first `count` items that have a score."""
    known = item_means(records)
    return [item for item in benchmark.items() if item.id in known][:count]


def variant_scores(
    subject: Subject,
    benchmark: Benchmark,
    options: ReplyOptions,
    variants: Mapping[str, Sequence[BenchmarkItem]],
) -> dict[str, list[float]]:
    """Item id -> the scores of its variants, answered greedily; those without a score are left out.

    Variants of different items may be the same.
    """
    asked = {
        f"{id}/{number}": (id, item) for id, items in variants.items() for number, item in enumerate(items)
    }
    found: dict[str, list[float]] = {id: [] for id in variants}
    if not asked:
        return found
    drawn = FixedItems(benchmark, [replace(item, id=name) for name, (_, item) in asked.items()])
    drawn.published = True  # equal ones are kept
    greedy = replace(options, temperature=0.0, seed=None)
    for name, score in item_means(score_benchmark(subject, drawn, greedy).records).items():
        found[asked[name][0]].append(score)
    return found


def greedy_means(
    subject: Subject,
    benchmark: Benchmark,
    options: ReplyOptions,
    records: Sequence[ItemRecord],
    items: Sequence[BenchmarkItem],
) -> dict[str, float]:
    """Item id -> its score as variants get theirs: that of `records`, or of a greedy reply to it.

    Variants are answered greedily, and a mean over sampled replies would not compare with them.
    """
    if options.temperature == 0 or benchmark.mode == "choice":
        known = item_means(records)
        return {item.id: known[item.id] for item in items}
    again = variant_scores(subject, benchmark, options, {item.id: [item] for item in items})
    return {id: scores[0] for id, scores in again.items() if scores}


def text_of(item: BenchmarkItem) -> str:
    """Question and answer, one below the other."""
    return "\n".join([item.question, *answers_of(item)[:1]])
