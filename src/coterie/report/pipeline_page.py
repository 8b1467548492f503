"""The page of a pipeline: what each stage brought and cost, as a table and as a ladder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from coterie.config.files import write_text
from coterie.report.svg import MOE, SOFT, axes, inline, styled
from coterie.report.templates import render_template
from coterie.report.words import count, duration
from coterie.results.pipeline import PipelineRecord, StageRecord


def write_pipeline_page(record: PipelineRecord, path: str | Path, title: str) -> None:
    """Write the page to `path`, whole or not at all."""
    write_text(path, render_pipeline(record, title))


def render_pipeline(record: PipelineRecord, title: str) -> str:
    """The page as text."""
    models = [stage for stage in record.stages if stage.accuracy is not None]
    return render_template(
        "pipeline.html.jinja",
        title=title,
        record=record,
        lines=pipeline_lines(record),
        ladder=Markup(ladder(models)) if models else None,
        count=count,
        duration=duration,
        total_flops=sum(stage.flops for stage in record.stages),
        total_seconds=sum(stage.seconds for stage in record.stages),
    )


def pipeline_lines(record: PipelineRecord) -> list[str]:
    """The findings as sentences: a line for each stage that made a model."""
    lines = []
    for stage in record.stages:
        if stage.accuracy is not None:
            change = stage.change
            moved = (
                "" if change is None else f"; {change.gained} gained, {change.lost} lost, p = {change.p:.2g}"
            )
            lines.append(stage.words() + moved)
    return lines


@styled
def ladder(models: Sequence[StageRecord]) -> str:
    """Held-out accuracy after each stage, with its 95 % interval."""
    figure, ax = axes(6.4, 0.9 + 0.42 * len(models))
    for row, stage in enumerate(models):
        found = stage.accuracy
        assert found is not None
        ax.plot([100 * found.low, 100 * found.high], [row, row], color=SOFT, linewidth=1.2)
        ax.plot([100 * found.value], [row], "o", color=MOE, markersize=6)
    ax.set_yticks(range(len(models)), [stage.name for stage in models])
    ax.set(xlim=(0, 100), xlabel="held-out problems answered rightly, %")
    ax.invert_yaxis()
    return inline(figure, "ladder", "Held-out accuracy after each stage.")
