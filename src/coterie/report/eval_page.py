"""The page of an evaluation: what is wrong with its scores, the scores, and every reply behind them.

Items' questions are not on the page: a published page must not put test items into training data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup

from coterie.config.files import write_text
from coterie.report.interval_rows import interval_rows
from coterie.report.rollouts import compressed
from coterie.report.safety_text import (
    CHANGE_COLUMNS,
    MEASURE_COLUMNS,
    change_cells,
    change_words,
    measure_cells,
    memorised_words,
    rule_words,
)
from coterie.report.templates import render_template
from coterie.results.evaluation import EvalReport, ItemRecord, TaskResult
from coterie.results.safety import SafetyFacts

_BUDGET = 6_000_000  # characters of packed replies in a page
_LONGEST = 2000  # characters of a reply on the page
_VERDICTS = {
    "PASS": "Nothing is flagged.",
    "WARN": "Read the flags before the scores.",
    "REFUSE": "These scores must not be published as they are.",
}


@dataclass(frozen=True)
class _Flag:
    task: str
    id: str
    says: str


def write_eval_page(
    report: EvalReport, records: Mapping[str, Sequence[ItemRecord]], path: str | Path
) -> None:
    """Write the page to `path`, whole or not at all."""
    write_text(path, render_evaluation(report, records))


def render_evaluation(report: EvalReport, records: Mapping[str, Sequence[ItemRecord]]) -> str:
    """The page as text. `records`: of each task."""
    packed, left = [], _BUDGET
    for task in report.tasks:
        data = compressed([_shown(record) for record in records.get(task.id, ())])
        left -= len(data)
        if left >= 0:
            packed.append({"task": task.id, "data": data})
    script = (resources.files("coterie.report") / "eval.js").read_text(encoding="utf-8")
    return render_template(
        "eval.html.jinja",
        title=f"Evaluation of {report.subject.name}",
        report=report,
        verdict=_VERDICTS[report.verdict],
        flags=_flags(report),
        unbound=report.subject.weights_tensors is None,
        chart=Markup(_chart(report.tasks)),
        packed=packed,
        missing=len(packed) < len(report.tasks),
        score=score_words,
        detectors=[(task, found) for task in report.tasks for found in task.detectors],
        safety=None if report.safety is None else _safety(report.safety),
        identity=_facts(report.subject.to_dict()),
        profile=_facts(report.exec_profile.to_dict()),
        waived={waiver.flag: waiver for waiver in report.waivers},
        script=Markup(script),
    )


def score_words(task: TaskResult) -> str:
    """The score with its interval, for a line of text."""
    found = task.score
    if found.lower_is_better:
        return f"{found.value:.4f} ({found.low:.4f} to {found.high:.4f})"
    return f"{100 * found.value:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f})"


def _flags(report: EvalReport) -> list[_Flag]:
    """The flags with what they say, those of detectors by their words."""
    said = {f"{task.id}:{found.id}": found.says for task in report.tasks for found in task.detectors}
    flags = []
    for flag in report.flags:
        task, _, name = flag.rpartition(":")
        flags.append(_Flag(task, name, said.get(flag, "")))
    return flags


def _safety(facts: SafetyFacts) -> dict[str, Any]:
    """The safety section: tables with what stands above them, and sentences."""
    measures = [measure_cells(measure) for measure in facts.measures]
    changes = [change_cells(row) for row in facts.changes]
    tables = ((MEASURE_COLUMNS, measures, ""), (CHANGE_COLUMNS, changes, change_words(facts)))
    return {
        "tables": [table for table in tables if table[1]],
        "words": [
            *([] if facts.rules is None else [rule_words(facts.rules)]),
            *([] if facts.memorised is None else [memorised_words(facts.memorised)]),
        ],
        "not_measured": facts.not_measured,
    }


def _shown(record: ItemRecord) -> dict[str, Any]:
    """The fields of a record that the page shows."""
    kept = record.to_dict()
    reply = kept["reply"]
    kept["reply"] = reply if len(reply) <= _LONGEST else f"{reply[:_LONGEST]} ..."
    for name in ("task", "prompt"):
        del kept[name]
    return kept


def _facts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values for a table, without those that are not known."""
    rows = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key}: {held}" for key, held in sorted(value.items()))
        if isinstance(value, list):
            value = ", ".join(map(str, value))
        if value not in (None, "", 0):
            rows.append((name.replace("_", " "), str(value)))
    return rows


def _chart(tasks: Sequence[TaskResult]) -> str:
    """Scores between 0 and 1 with their intervals, one row a task."""
    shown = {task.id: task for task in tasks if not task.score.lower_is_better}
    if not shown:
        return ""
    flagged = [id for id, task in shown.items() if any(found.flag for found in task.detectors)]
    scores = {id: task.score for id, task in shown.items()}
    label = "score, % (95 % interval; open where something is flagged)"
    return interval_rows(scores, label, "scores", "Scores of the tasks with their intervals.", flagged)
