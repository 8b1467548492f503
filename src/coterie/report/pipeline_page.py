"""The page of a pipeline: what each stage brought and cost, as a table and as a ladder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from coterie.config.files import write_text
from coterie.report.interval_rows import interval_rows
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


def ladder(models: Sequence[StageRecord]) -> str:
    """Held-out accuracy after each stage, with its 95 % interval."""
    rows = {stage.name: stage.accuracy for stage in models if stage.accuracy is not None}
    label = "held-out problems answered rightly, %"
    return interval_rows(rows, label, "ladder", "Held-out accuracy after each stage.")
