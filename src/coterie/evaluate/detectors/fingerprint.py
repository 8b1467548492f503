"""D8: whether a model does worse as soon as the evaluation does not look like itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from coterie.benchmarks.item import Benchmark, BenchmarkItem
from coterie.evaluate.asking import ReplyOptions
from coterie.evaluate.detectors.prompt_band import reworded
from coterie.evaluate.detectors.variants import judged_items, paired
from coterie.evaluate.scoring import mean
from coterie.evaluate.subject import Subject
from coterie.results.evaluation import DetectorFinding, ItemRecord
from coterie.stats.ranks import exchangeable

DISGUISES = 4  # of each item


def disguise_finding(
    subject: Subject, benchmark: Benchmark, options: ReplyOptions, records: Sequence[ItemRecord], items: int
) -> DetectorFinding | None:
    """Ask the first `items` judged items without the evaluation's system message, and in other words.

    A cluster's usual score is ranked among those in each disguise, so that one template that reads badly
    counts once. A model that only knows the usual form drops as much as one that was tuned to shine in it:
    a flag says that the score needs the form, not why. None where an item has no other form.
    """
    asked = judged_items(benchmark, records, items)
    forms = {item.id: disguised(benchmark, item, options) for item in asked}
    count = min(map(len, forms.values()), default=0)
    if not count:
        return None
    drawn = {id: found[:count] for id, found in forms.items()}
    plain = replace(options, system=None)
    scores = paired(subject, benchmark, plain, records, drawn, usual=options)
    rows: dict[str, list[list[float]]] = {}
    for item in asked:
        own, others = scores.get(item.id, (0.0, []))
        if len(others) == count:
            rows.setdefault(item.cluster or item.id, []).append([own, *others])
    if not rows:
        return None
    means = [[mean(column) for column in zip(*row, strict=True)] for row in rows.values()]
    test = exchangeable([(own, others) for own, *others in means])
    drop = mean([own - mean(others) for row in rows.values() for own, *others in row])
    asked_in = f"{sum(map(len, rows.values()))} items in {test.groups} clusters"
    says = (
        f"{asked_in} score {100 * drop:+.1f} points in the usual form "
        f"against {count} others{' without the system message' if options.system else ''}"
    )
    return DetectorFinding(id="D8", statistic=drop, p=test.p, flag=False, says=says)


def disguised(benchmark: Benchmark, item: BenchmarkItem, options: ReplyOptions) -> list[BenchmarkItem]:
    """An item in `DISGUISES` other wordings; itself where only a system message can be left out."""
    wordings = list(benchmark.rewordings(item))
    chosen = wordings[:: max(1, len(wordings) // DISGUISES)][:DISGUISES]
    return [reworded(item, text) for text in chosen] or ([item] if options.system else [])
