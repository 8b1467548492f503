"""D2: whether a model does better on the items themselves than on new ones of the same template."""

from __future__ import annotations

from collections.abc import Sequence

from coterie.benchmarks.item import Benchmark
from coterie.evaluate.asking import ReplyOptions
from coterie.evaluate.detectors.variants import Groups, judged_items, paired
from coterie.evaluate.scoring import mean
from coterie.evaluate.subject import Subject
from coterie.results.evaluation import DetectorFinding, ItemRecord
from coterie.stats.ranks import exchangeable

TWINS = 5  # of each item


def twin_finding(
    subject: Subject,
    benchmark: Benchmark,
    options: ReplyOptions,
    records: Sequence[ItemRecord],
    items: int,
    twins: int = TWINS,
) -> DetectorFinding | None:
    """Compare the first `items` judged items with `twins` others of the same template and difficulty each.

    An item and its twins are drawn alike. To a model that does not know the item it is any of them, so the
    test is exact, whatever templates have in common. `records`: of the items themselves. None where the
    benchmark makes no twins.
    """
    drawn = {item.id: benchmark.twins(item, twins) for item in judged_items(benchmark, records, items)}
    groups = list(paired(subject, benchmark, options, records, drawn).values())
    return gap_finding(groups) if groups else None


def gap_finding(groups: Groups) -> DetectorFinding:
    """The finding of each item's score with those of its twins."""
    test = exchangeable(groups)
    gap = mean([own - mean(others) for own, others in groups])
    new = sum(len(others) for _, others in groups)
    says = f"{len(groups)} items score {100 * gap:+.1f} points against {new} new ones of their templates"
    return DetectorFinding(id="D2", statistic=gap, p=test.p, flag=False, says=says)
