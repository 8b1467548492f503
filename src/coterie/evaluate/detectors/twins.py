"""D2: whether a model does better on the items themselves than on new ones of the same template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import stats

from coterie.benchmarks.files import FixedItems
from coterie.benchmarks.item import Benchmark
from coterie.evaluate.asking import ReplyOptions
from coterie.evaluate.scoring import item_means, score_benchmark
from coterie.evaluate.subject import Subject
from coterie.results.evaluation import DetectorFinding, ItemRecord

ALPHA = 0.01


def twin_finding(
    subject: Subject,
    benchmark: Benchmark,
    options: ReplyOptions,
    records: Sequence[ItemRecord],
    twins: int = 5,
    items: int = 50,
) -> DetectorFinding | None:
    """Compare the first `items` judged items with `twins` others of the same template and difficulty each.

    The test is one-sided, over templates: items of one template are one observation. `records`: of the items
    themselves; with several seeds their means count. Twins are answered greedily. None where the benchmark
    makes no twins, and for fewer than two templates.
    """
    means = item_means(records)
    asked = [item for item in benchmark.items() if item.id in means][:items]
    others = {item.id: list(benchmark.twins(item, twins)) for item in asked}
    fresh = [
        replace(twin, id=f"{id}/{number}")
        for id, found in others.items()
        for number, twin in enumerate(found)
    ]
    templates = {item.cluster or item.id for item in asked if others[item.id]}
    if len(templates) < 2:
        return None
    greedy = replace(options, temperature=0.0, seed=None)
    drawn = FixedItems(benchmark, fresh)
    drawn.published = True  # two items of a template may have the same twin
    scored = item_means(score_benchmark(subject, drawn, greedy).records)
    gaps: dict[str, list[float]] = {}
    for item in asked:
        of_twins = [scored[f"{item.id}/{number}"] for number in range(len(others[item.id]))
                    if f"{item.id}/{number}" in scored]  # fmt: skip
        if of_twins:
            gaps.setdefault(item.cluster or item.id, []).append(means[item.id] - float(np.mean(of_twins)))
    if len(gaps) < 2:
        return None
    return gap_finding([float(np.mean(found)) for found in gaps.values()], sum(map(len, gaps.values())))


def gap_finding(gaps: Sequence[float], items: int) -> DetectorFinding:
    """The finding of each template's gap, items minus twins. `items`: how many they are of."""
    gap, p = float(np.mean(gaps)), one_sided(gaps)
    says = (
        f"{items} items score {100 * gap:+.1f} points against new ones of their {len(gaps)} templates "
        f"(one-sided p {p:.2g})"
    )
    return DetectorFinding(id="D2", statistic=gap, p=p, flag=p < ALPHA, says=says)


def one_sided(values: Sequence[float]) -> float:
    """The probability of so large a mean if the true one is 0 (Student's t); 1 where no value is above 0."""
    array = np.asarray(values, dtype=float)
    error = float(array.std(ddof=1)) / len(array) ** 0.5
    if error == 0:
        return 0.5 ** len(array) if array[0] > 0 else 1.0
    return float(stats.t.sf(array.mean() / error, len(array) - 1))
