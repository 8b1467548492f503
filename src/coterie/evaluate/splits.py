"""A score by what the training data holds of its items: clean, contaminated, unscannable (detector D1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from coterie.benchmarks.item import BenchmarkItem
from coterie.contamination.items import QueriedItem, answer_forms
from coterie.contamination.splits import split_items
from coterie.evaluate.scoring import item_means
from coterie.results.contamination import ContaminationRecord
from coterie.results.evaluation import ClassScore, DetectorFinding, ItemRecord, ScoreSplits
from coterie.results.intervals import Estimate
from coterie.stats.bootstrap import estimate, ratios
from coterie.stats.clusters import cluster_sums
from coterie.stats.single import task_score


def queried(items: Sequence[BenchmarkItem]) -> list[QueriedItem]:
    """The texts of items that a search of the training data looks up."""
    return [
        QueriedItem(item.id, item.question, answers_of(item), item.choices, item.passage) for item in items
    ]


def score_splits(
    records: Sequence[ItemRecord], found: ContaminationRecord, lower_is_better: bool = False
) -> ScoreSplits:
    """The score of each class of the items with a score; an unscannable item is in neither other class.

    Errors: `DataError` for an item that was not looked up.
    """
    means = item_means(records)
    clusters = {record.id: record.cluster for record in records}
    classes = split_items(list(means), found)
    scored = len(means) - len(classes["unscannable"])
    parts = {
        kind: _class_score([means[id] for id in ids], [clusters[id] for id in ids], lower_is_better)
        for kind, ids in classes.items()
    }
    return ScoreSplits(
        clean=parts["clean"],
        contaminated=parts["contaminated"],
        unscannable=parts["unscannable"],
        clean_minus_all=_clean_minus_all(means, clusters, set(classes["clean"])),
        coverage=scored / len(means),
    )


def split_finding(splits: ScoreSplits) -> DetectorFinding:
    """D1: a flag from 1 % contaminated items on, or where the clean score differs for certain."""
    share = splits.contaminated_share
    says = f"{share:.1%} of the items are in the training data"
    if splits.clean_counts:
        says += "; read the clean score"
    if splits.coverage < 1:
        says += f"; nothing can be said of {1 - splits.coverage:.1%}"
    return DetectorFinding(id="D1", statistic=share, flag=splits.is_flagged, says=says)


def _class_score(values: Sequence[float], clusters: Sequence[str], lower_is_better: bool) -> ClassScore:
    if not values:
        return ClassScore(items=0)
    score = task_score(values, clusters, lower_is_better=lower_is_better)
    return ClassScore(items=len(values), value=score.value, low=score.low, high=score.high)


def _clean_minus_all(
    means: Mapping[str, float], clusters: Mapping[str, str], clean: set[str]
) -> Estimate | None:
    """The mean over clean items minus that over all, with its interval over clusters."""
    if not clean:
        return None
    if len(clean) == len(means):
        return Estimate(value=0.0, low=0.0, high=0.0)
    groups = [clusters[id] for id in means]
    values, kept = np.array(list(means.values())), np.array([float(id in clean) for id in means])
    all_items = cluster_sums(values, groups), cluster_sums(np.ones(len(values)), groups)
    clean_items = cluster_sums(values * kept, groups), cluster_sums(kept, groups)
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = ratios(*clean_items, np.random.default_rng(0)) - ratios(*all_items, np.random.default_rng(0))
    drawn = drawn[np.isfinite(drawn)]  # a resample may hold no clean item
    return estimate(float((values * kept).sum() / kept.sum() - values.mean()), drawn)


def answers_of(item: BenchmarkItem) -> tuple[str, ...]:
    """Every form of the answer as text."""
    return answer_forms(item.answer, item.choices)
