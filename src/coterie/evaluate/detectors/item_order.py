"""D4: whether a model prefers the order in which a test set was published (Oren et al. 2023, 2310.17623)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from coterie.benchmarks.item import Benchmark, BenchmarkItem
from coterie.evaluate.detectors.variants import judged_items, text_of
from coterie.evaluate.subject import Subject
from coterie.primer.base import Rng
from coterie.results.evaluation import DetectorFinding, ItemRecord
from coterie.stats.ranks import exchangeable

LEAST = 3  # items of a shard


def order_finding(
    subject: Subject, benchmark: Benchmark, records: Sequence[ItemRecord], orders: int, shards: int
) -> DetectorFinding | None:
    """Rank the log-probability of each shard's text, items as published, among `orders` shuffled ones.

    Items change places within their group only, such as MMLU's subject: a group that stands together is no
    sign of training. The test is exact if the order within groups means nothing. Its power is low: shown
    for models from 1.4 billion parameters on and copies that were read many times, and it needs the same
    order and nearly the same text. None where fewer than `LEAST` items make up a shard.
    """
    items = judged_items(benchmark, records, len(records))
    size = max(LEAST, -(-len(items) // shards))
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    parts = [part for part in parts if len({item.group for item in part}) < len(part)]
    if not parts:
        return None
    texts = [[joined(part), *(joined(one) for one in shuffles(part, orders))] for part in parts]
    found = iter(subject.rolling([text for part in texts for text in part]))
    test = exchangeable([(next(found), [next(found) for _ in part[1:]]) for part in texts])
    says = (
        f"{test.groups} shards of up to {size} items: the published order is more likely than "
        f"{test.place:.0%} of {orders} others of each; this misses most copies"
    )
    return DetectorFinding(id="D4", statistic=test.place, p=test.p, flag=False, says=says)


def joined(items: Sequence[BenchmarkItem]) -> str:
    """The items as one text."""
    return "\n\n".join(map(text_of, items))


def shuffles(items: Sequence[BenchmarkItem], count: int) -> Iterator[list[BenchmarkItem]]:
    """`count` orders, drawn at random, in which items stand where one of their group stood."""
    random = Rng("order of items", *(item.digest for item in items))
    places: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        places.setdefault(item.group, []).append(place)
    for _ in range(count):
        other = list(items)
        for group in places.values():
            for place, taken in zip(group, random.shuffled(group), strict=True):
                other[place] = items[taken]
        yield other
