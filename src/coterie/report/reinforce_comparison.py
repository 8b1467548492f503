"""One page about several reinforcement runs: a mixture and its dense twin, or a run and its controls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from markupsafe import Markup

from coterie.config.files import write_text
from coterie.report.reinforce_page import DrawnRun
from coterie.report.reinforce_plots import AXIS_WORDS, AccuracyPoint, accuracy_curves
from coterie.report.reinforce_words import SURE, p_words, percent, range_words
from coterie.report.templates import render_template
from coterie.report.words import count
from coterie.results.accuracy import AccuracyChange, accuracy_change

_PAIRS = 6  # runs whose every pair is compared; of more, each with the first


def write_comparison(runs: Mapping[str, DrawnRun], path: str | Path) -> None:
    """Write the page to `path`, whole or not at all. `runs`: by the names they are to have."""
    write_text(path, render_comparison(runs))


def render_comparison(runs: Mapping[str, DrawnRun]) -> str:
    """The page as text."""
    points = {name: run.points for name, run in runs.items()}
    return render_template(
        "reinforce_comparison.html.jinja",
        tasks=sorted({run.start.task for run in runs.values()}),
        lines=comparison_lines(runs),
        figures=[Markup(accuracy_curves(points, against)) for against in AXIS_WORDS],
        rows=[_row(name, run) for name, run in runs.items()],
        budget=count(_budget(points)),
    )


def comparison_lines(runs: Mapping[str, DrawnRun]) -> list[str]:
    """What may be concluded, sentence by sentence: at the end in pairs, and after equal operations."""
    return [*_apart(runs), *_ends(runs), *_equal_operations(runs), *_limits(runs)]


def _apart(runs: Mapping[str, DrawnRun]) -> Iterator[str]:
    tasks = sorted({f"{run.start.task} (version {run.start.task_version})" for run in runs.values()})
    if len(tasks) > 1:
        yield f"The runs were asked different tasks, so their shares do not compare: {', '.join(tasks)}."


def _ends(runs: Mapping[str, DrawnRun]) -> Iterator[str]:
    """Two runs each, on the held-out problems that both answered at the end."""
    pairs = [*combinations(runs, 2)]
    first = next(iter(runs))
    for one, other in pairs if len(runs) <= _PAIRS else [pair for pair in pairs if pair[0] == first]:
        records = runs[one].record, runs[other].record
        if records[0] is None or records[1] is None:
            continue
        answers = [record.answered for record in records if record is not None]
        both = [problem for problem in answers[0] if problem in answers[1]]
        if not both:
            yield f"{one} and {other} were not asked the same held-out problems."
            continue
        found = accuracy_change(*([answered[problem][1] for problem in both] for answered in answers))
        figures = (
            f"{percent(found.before.value)} against {percent(found.after.value)} of the same "
            f"{len(both)} held-out problems at the end; right in one alone {found.lost} against "
            f"{found.gained}, exact McNemar {p_words(found.p)}"
        )
        if found.p >= SURE:
            yield f"No difference between {one} and {other} is shown: {figures}."
        else:
            better = one if found.lost > found.gained else other
            yield f"{better} is better ({one} against {other}): {figures}."


def _equal_operations(runs: Mapping[str, DrawnRun]) -> Iterator[str]:
    points = {name: run.points for name, run in runs.items()}
    budget = _budget(points)
    if not budget:
        return
    there = {name: _within(its, budget) for name, its in points.items()}
    figures = ", ".join(
        f"{name} {percent(point.found.value)} ({range_words(point.found)}) after {count(point.flops)}"
        for name, point in there.items()
    )
    best = max(there, key=lambda name: there[name].found.value)
    apart = all(there[best].found.low > point.found.high for name, point in there.items() if name != best)
    said = f"{best} is ahead" if apart else "no run is ahead beyond the intervals"
    yield f"Within the same {count(budget)} operations, sampling included, {said}: {figures}."


def _limits(runs: Mapping[str, DrawnRun]) -> Iterator[str]:
    running = [name for name, run in runs.items() if run.record is None]
    if running:
        yield f"Not ended yet: {', '.join(running)}."
    yield "The intervals cover the choice of problems, not the seeds of the runs."


def _budget(points: Mapping[str, Sequence[AccuracyPoint]]) -> float:
    """The operations of the run that took the fewest until its last evaluation."""
    return min(its[-1].flops for its in points.values())


def _within(points: Sequence[AccuracyPoint], budget: float) -> AccuracyPoint:
    """The last evaluation within a budget."""
    return [point for point in points if point.flops <= budget][-1]


def _row(name: str, run: DrawnRun) -> dict[str, str]:
    start, record, points = run.start, run.record, run.points
    size, last = start.size, points[-1]
    change = None if record is None else record.change
    return {
        "name": name,
        "kind": "mixture" if size.moe else "dense",
        "parameters": count(size.parameters),
        "active": count(size.active),
        "steps": f"{run.steps:,}",
        "tokens": count(last.tokens),
        "operations": count(sum(run.flops)),
        "before": percent(start.watched.value),
        "after": f"{percent(last.found.value)} ({range_words(last.found)})",
        "test": "not ended" if change is None else _test_words(change),
        "pairs": "" if change is None else f"+{change.gained} −{change.lost}, {p_words(change.p)}",
    }


def _test_words(change: AccuracyChange) -> str:
    """`16.7 % → 80 % (62.7 to 90.5 %)`."""
    return f"{percent(change.before.value)} → {percent(change.after.value)} ({range_words(change.after)})"
