"""Which of a report's findings are flags: tests are corrected together before one becomes a warning."""

from __future__ import annotations

from collections.abc import Sequence

from coterie.results.evaluation import Ruling, TaskResult
from coterie.stats.paired import holm

ALPHA = 0.01  # of one false flag among all tests of a report
_REFUSED = ("D7",)  # what no caveat mends: a copy of the file of items was learnt


def corrected(tasks: Sequence[TaskResult]) -> list[TaskResult]:
    """The results with Holm's correction over all findings that have a p value, and the flags of these.

    Findings without one keep their flags: they are rules, not tests.
    """
    values = iter(holm([one.p for task in tasks for one in task.detectors if one.p is not None]))
    results = []
    for task in tasks:
        detectors = []
        for finding in task.detectors:
            if finding.p is not None:
                p = next(values)
                finding = finding.model_copy(update={"p_holm": p, "flag": p < ALPHA})
            detectors.append(finding)
        results.append(task.model_copy(update={"detectors": detectors}))
    return results


def flags_of(tasks: Sequence[TaskResult]) -> list[str]:
    """Every flag as `TASK:DETECTOR`."""
    return [f"{task.id}:{found.id}" for task in tasks for found in task.detectors if found.flag]


def ruling(tasks: Sequence[TaskResult]) -> Ruling:
    """What the flags amount to."""
    flagged = {found.id for task in tasks for found in task.detectors if found.flag}
    return "REFUSE" if flagged & set(_REFUSED) else "WARN" if flagged else "PASS"
