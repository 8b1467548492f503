"""The safety section of a report, from scored benchmarks; and two models on the same items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from coterie.benchmarks.item import Benchmark
from coterie.benchmarks.safety.base import SafetyBenchmark
from coterie.benchmarks.safety.stance import shipped_error
from coterie.config import DataError
from coterie.results.accuracy import accuracy_change
from coterie.results.evaluation import ItemRecord, TaskResult
from coterie.results.safety import MemorisedFacts, SafetyChange, SafetyFacts, SafetyMeasure
from coterie.stats.paired import holm


def safety_facts(
    scored: Sequence[tuple[Benchmark, TaskResult, Sequence[ItemRecord]]],
    memorised: MemorisedFacts | None = None,
) -> SafetyFacts | None:
    """The section on the safety benchmarks among `scored`; None where there is nothing to say."""
    measures: list[SafetyMeasure] = []
    for benchmark, result, records in scored:
        if isinstance(benchmark, SafetyBenchmark):
            measures += _measures(benchmark, result, records)
    if not measures and memorised is None:
        return None
    stances = any(
        m.reader == "rules" and m.task in ("safety-refusals", "safety-jailbreaks") for m in measures
    )
    return SafetyFacts(measures=measures, rules=shipped_error() if stances else None, memorised=memorised)


def _measures(
    benchmark: SafetyBenchmark, result: TaskResult, records: Sequence[ItemRecord]
) -> list[SafetyMeasure]:
    groups = {item.id: item.group for item in benchmark.items()}
    found: dict[str, Counter[str]] = {}
    for record in records:
        said = "not decided" if record.failed else _word(benchmark, record)
        found.setdefault(groups[record.id], Counter())[said] += 1
    return [
        SafetyMeasure(
            name=benchmark.right(group),
            task=benchmark.name,
            group=group,
            items=counts.total(),
            share=result.groups.get(group),
            found=dict(counts.most_common()),
            reader=benchmark.reader,
        )
        for group, counts in found.items()
    ]


def _word(benchmark: SafetyBenchmark, record: ItemRecord) -> str:
    """How a reply was read, in a word; abusive words themselves are not repeated in a report."""
    if benchmark.name == "safety-toxicity" and not record.right:
        return "abusive"
    return record.extracted or "nothing"


def check_same_items(task: str, before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """Errors: `DataError` where two models are not given the same items. Both: item id -> digest."""
    if before != after:
        raise DataError(f"{task}: the two models were not given the same items; score both on the same")


def safety_changes(
    benchmarks: Sequence[SafetyBenchmark],
    before: Mapping[str, Sequence[ItemRecord]],
    after: Mapping[str, Sequence[ItemRecord]],
) -> list[SafetyChange]:
    """The shares of two models on the same items, paired, with exact McNemar tests and Holm's correction.

    `before` and `after`: task -> records, one for each item. A benchmark that is not in both is left out, and
    so is an item whose reply has no score on one side. Errors: as `check_same_items`.
    """
    found: list[tuple[SafetyBenchmark, str, list[bool], list[bool]]] = []
    for benchmark in [one for one in benchmarks if one.name in before and one.name in after]:
        first, second = ({record.id: record for record in side[benchmark.name]} for side in (before, after))
        check_same_items(benchmark.name, _digests(first.values()), _digests(second.values()))
        groups = {item.id: item.group for item in benchmark.items()}
        judged = [id for id in first if not first[id].failed and not second[id].failed]
        for group in dict.fromkeys(groups[id] for id in judged):
            ids = [id for id in judged if groups[id] == group]
            found.append(
                (benchmark, group, [first[id].right for id in ids], [second[id].right for id in ids])
            )
    changes = [accuracy_change(old, new) for _, _, old, new in found]
    corrected = holm([change.p for change in changes])
    return [
        SafetyChange(name=one.right(group), task=one.name, group=group, change=change, p_holm=p)
        for (one, group, _, _), change, p in zip(found, changes, corrected, strict=True)
    ]


def _digests(records: Iterable[ItemRecord]) -> dict[str, str]:
    return {record.id: record.digest for record in records}
