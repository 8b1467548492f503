"""What a tuning run gained and lost, as one self-contained HTML page and as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from coterie.config.files import write_text
from coterie.report.svg import INK, MOE, axes, inline, smoothed, styled
from coterie.report.templates import render_template
from coterie.report.words import duration, size
from coterie.results.intervals import FEWEST, Few, Interval, Score
from coterie.results.tuning import TuningChange, TuningRecord, verdict

_MEASURES = (
    ("held_out", "bits per token of held-out examples"),
    ("held_out_text", "bits per byte of held-out text"),
    ("retention", "bits per byte of other text"),
)


def write_tuning_page(
    record: TuningRecord, path: str | Path, title: str, losses: Sequence[tuple[int, float]]
) -> None:
    """Write the page of a run's `report.json` to `path`, whole or not at all. `losses`: (step, loss)."""
    write_text(path, render_tuning(record, title, losses))


def render_tuning(record: TuningRecord, title: str, losses: Sequence[tuple[int, float]]) -> str:
    """The page as text."""
    return render_template(
        "tuning.html.jinja",
        title=title,
        data=record.data,
        lines=tuning_lines(record),
        curve=Markup(loss_curve(losses)) if len(losses) > 1 else None,
        changes=[row for text, found in _measured(record) for row in change_rows(text, found)],
        plan=record.plan,
        reach={entry.group: entry for entry in record.coverage},
        skipped=record.skipped,
        samples=record.samples,
        facts=[*_facts(record)],
        settings=[*dotted(record.config)],
    )


def _facts(record: TuningRecord) -> Iterator[tuple[str, str]]:
    """(name, value) of the run's circumstances."""
    yield from ((name, f"{number:,}") for name, number in record.counts.items())
    if record.seconds is not None:
        yield "time in steps", duration(record.seconds)
    if record.peak_memory_bytes is not None:
        yield "peak memory of the process", size(record.peak_memory_bytes)
    yield "ended", record.ended
    yield from record.versions.items()


def dotted(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, value) of each setting."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{before}{name}.")
        else:
            yield before + name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _measured(record: TuningRecord) -> list[tuple[str, TuningChange]]:
    """What was measured, with its description."""
    found = [(text, getattr(record, name)) for name, text in _MEASURES]
    return [(text, change) for text, change in found if change is not None]


def tuning_lines(record: TuningRecord) -> list[str]:
    """The findings as sentences: gains, losses, what was trained, and how the written result compares."""
    lines = []
    for text, found in _measured(record):
        lines.append(f"{text}: {found.before:.3f} -> {found.after:.3f} ({_moved(found)})")
    if record.preferred is not None:
        lines.append(
            f"held-out pairs in which the better side gained more than the other: {record.preferred:.0%}"
        )
    for entry in record.coverage:
        experts = "" if entry.experts is None else f", {entry.experts_reached}/{entry.experts} experts"
        lines.append(f"trained {entry.group}: {entry.reached}/{entry.layers} tensors got gradients{experts}")
    lines += [f"warning: {line}" for line in record.warnings]
    if record.proof is not None:
        lines.append(
            f"reloaded from disk: gravity {record.proof.gravity:.3f} (1: the tuned model; 0: the base), "
            f"largest difference {record.proof.reloaded_max:.1e} nats"
        )
    if record.failed is not None:
        lines.append(f"no result: {record.failed}")
    return [*lines, *([f"written: {record.path}"] if record.path is not None else [])]


@styled
def loss_curve(losses: Sequence[tuple[int, float]]) -> str:
    """The loss of each step, and its running mean over a twentieth of the steps."""
    figure, ax = axes(6.4, 3.0)
    smoothed(ax, losses, MOE)
    ax.axhline(0, color=INK, linewidth=0.6)
    ax.set(xlabel="step", title="Loss")
    return inline(figure, "loss", "Loss by step.")


def _moved(found: TuningChange) -> str:
    moved = found.change
    if isinstance(moved, Few):
        return f"{moved.value:+.3f}; {moved.documents} texts are too few for an interval or a verdict"
    return f"{moved.value:+.3f}, 95% {moved.low:+.3f} to {moved.high:+.3f}: {found.verdict}"


def change_rows(text: str, found: TuningChange) -> list[dict[str, Any]]:
    """The rows of a table: one row for all texts, and one for each kind of text if there are several."""
    whole = found.change
    slices = whole.per_slice if isinstance(whole, Score) and len(whole.per_slice) > 1 else {}
    moved: dict[str, Interval | Few] = {text: whole} | {
        name: each for name, each in slices.items() if (each.documents or FEWEST) >= FEWEST
    }
    return [
        {
            "measure": name,
            "verdict": verdict(each),
            "value": each.value,
            "low": getattr(each, "low", None),
            "high": getattr(each, "high", None),
            "documents": each.documents,
        }
        for name, each in moved.items()
    ]
