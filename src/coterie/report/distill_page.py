"""A distillation as one self-contained HTML page: the verdict, both curves, gains by kind of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from coterie.config.files import write_text
from coterie.report.svg import DENSE, MOE, axes, inline, smoothed, styled
from coterie.report.templates import render_template
from coterie.report.tuning_page import change_rows, dotted
from coterie.report.words import duration, size
from coterie.results.distill import DistillRecord

Curve = Sequence[tuple[int, float]]
CAPTION = (
    "Bits (lower is better): the distilled student minus the one that learnt by cross-entropy alone, paired "
    "by text, with its 95 % interval."
)


def write_distill_page(record: DistillRecord, path: str | Path, curves: Mapping[str, Curve]) -> None:
    """Write the page of a run's `distill.json` to `path`, whole or not at all.

    `curves`: (step, cross-entropy in nats) of the students `distilled` and `control`.
    """
    write_text(path, render_distill(record, curves))


def render_distill(record: DistillRecord, curves: Mapping[str, Curve]) -> str:
    """The page as text."""
    return render_template(
        "tuning.html.jinja",
        title=f"Distilling {record.teacher} into {record.student}",
        data=record.data,
        lines=record.lines(),
        caption=CAPTION,
        curve=Markup(entropy_curves(curves)) if any(len(curve) > 1 for curve in curves.values()) else None,
        plan=[],
        reach={},
        skipped=[],
        samples=[],
        changes=[] if record.control is None else change_rows(record.measure, record.control),
        facts=[*_facts(record)],
        settings=[*dotted(record.config)],
    )


@styled
def entropy_curves(curves: Mapping[str, Curve]) -> str:
    """The running mean of each student's cross-entropy over a twentieth of the steps."""
    figure, ax = axes(6.4, 3.0)
    for (name, curve), colour in zip(curves.items(), (MOE, DENSE), strict=False):
        smoothed(ax, curve, colour, faint=False, label=name)
    ax.set(xlabel="step", title="Cross-entropy, nats a token")
    ax.legend(frameon=False)
    return inline(figure, "cross-entropy", "Cross-entropy of both students by step.")


def _facts(record: DistillRecord) -> Iterator[tuple[str, str]]:
    """(name, value) of the run's circumstances."""
    yield "steps", f"{record.steps:,}"
    yield "tokens of each student", f"{record.tokens:,}"
    yield "time in steps, distilled", duration(record.seconds)
    if record.control_seconds is not None:
        yield "time in steps, control", duration(record.control_seconds)
    if record.targets is not None:
        yield "kept of each token", record.targets.words
        yield (
            "the teacher's answers",
            f"{record.targets.rows:,} rows, {record.targets.asked:,} asked for by this run",
        )
        yield "their size", size(record.targets.num_bytes)
        yield "time of asking", duration(record.targets.seconds)
    yield from record.versions.items()
