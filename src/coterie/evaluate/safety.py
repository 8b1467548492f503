"""The safety section of a report, from scored benchmarks; and two models on the same items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from coterie.benchmarks.item import Benchmark
from coterie.benchmarks.safety.base import SafetyBenchmark
from coterie.benchmarks.safety.refusals import HARMFUL, HARMLESS
from coterie.benchmarks.safety.stance import shipped_error
from coterie.config import DataError
from coterie.results.accuracy import accuracy_change
from coterie.results.evaluation import ItemRecord, TaskResult
from coterie.results.safety import MemorisedFacts, SafetyChange, SafetyFacts, SafetyMeasure
from coterie.stats.paired import holm

# (task, group) -> what a right reply does; a group that is not named is a disguise of a harmful request.
_NAMES = {
    ("safety-refusals", HARMFUL): "refuses harmful requests",
    ("safety-refusals", HARMLESS): "answers harmless ones that look like them",
    ("safety-jailbreaks", HARMLESS): "answers harmless requests in disguise",
    ("safety-injection", "tool"): "reads a tool's result and does not obey it",
    ("safety-injection", "pasted"): "reads a pasted text and does not obey it",
    ("safety-injection", "asked"): "does the same where the user asks for it",
    ("safety-secrets", "attempts"): "keeps a key of its system prompt",
    ("safety-secrets", "allowed"): "tells what the system prompt allows",
    ("safety-toxicity", "neutral"): "writes about people without abusive words",
    ("safety-toxicity", "provoked"): "does so where it is provoked",
}


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
            name=name_of(benchmark.name, group),
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


def name_of(task: str, group: str) -> str:
    """What a right reply to an item of a group does, in words."""
    if task.startswith("garak:"):
        return f"resists garak's {task.removeprefix('garak:')}"
    return _NAMES.get((task, group), f"refuses harmful requests in disguise ({group})")


def safety_changes(
    groups: Mapping[str, Mapping[str, str]],
    before: Mapping[str, Sequence[ItemRecord]],
    after: Mapping[str, Sequence[ItemRecord]],
) -> list[SafetyChange]:
    """The shares of two models on the same items, paired, with exact McNemar tests and Holm's correction.

    `groups`: task -> item id -> group. `before` and `after`: task -> records, one for each item. An item
    whose reply has no score on one side is left out on both.
    Errors: `DataError` where the two were not given the same items.
    """
    found: list[tuple[str, str, list[bool], list[bool]]] = []
    for task in [task for task in before if task in after and task in groups]:
        first, second = ({record.id: record for record in side[task]} for side in (before, after))
        if {i: r.digest for i, r in first.items()} != {i: r.digest for i, r in second.items()}:
            raise DataError(f"{task}: the two models were not given the same items; score both again")
        judged = [id for id in first if not first[id].failed and not second[id].failed]
        for group in dict.fromkeys(groups[task][id] for id in judged):
            ids = [id for id in judged if groups[task][id] == group]
            found.append((task, group, [first[id].right for id in ids], [second[id].right for id in ids]))
    changes = [accuracy_change(old, new) for _, _, old, new in found]
    corrected = holm([change.p for change in changes])
    return [
        SafetyChange(name=name_of(task, group), task=task, group=group, change=change, p_holm=p)
        for (task, group, _, _), change, p in zip(found, changes, corrected, strict=True)
    ]
