"""What a tuning run gained and lost, as one self-contained HTML page and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from coterie.config.files import write_text
from coterie.report.svg import INK, MOE, SOFT, axes, inline, styled
from coterie.report.templates import render_template

Record = Mapping[str, Any]
_MEASURES = {"held_out": "bits per token of held-out examples", "retention": "bits per byte of other text"}


def write_tuning_page(
    record: Record, path: str | Path, title: str, losses: Sequence[tuple[int, float]]
) -> None:
    """Write the page of a run's `report.json` to `path`, whole or not at all. `losses`: (step, loss)."""
    write_text(path, render_tuning(record, title, losses))


def render_tuning(record: Record, title: str, losses: Sequence[tuple[int, float]]) -> str:
    """The page as text."""
    return render_template(
        "tuning.html.jinja",
        title=title,
        data=record["data"],
        lines=tuning_lines(record),
        curve=Markup(loss_curve(losses)) if len(losses) > 1 else None,
        changes=[row for name in _MEASURES if name in record for row in _changes(name, record[name])],
        plan=record["plan"],
        reach={entry["group"]: entry for entry in record["coverage"]},
        skipped=record["skipped"],
    )


def tuning_lines(record: Record) -> list[str]:
    """The findings as sentences: gains, losses, what was trained, and how the written result compares."""
    lines = []
    for name, words in _MEASURES.items():
        if name in record:
            found, moved = record[name], record[name]["change"]
            lines.append(
                f"{words}: {found['before']:.3f} -> {found['after']:.3f} "
                f"({moved['value']:+.3f}, 95% {moved['low']:+.3f} to {moved['high']:+.3f}: {_verdict(moved)})"
            )
    if record.get("preferred") is not None:
        lines.append(
            f"held-out pairs in which the better side gained more than the other: {record['preferred']:.0%}"
        )
    for entry in record["coverage"]:
        experts = (
            "" if entry["experts"] is None else f", {entry['experts_reached']}/{entry['experts']} experts"
        )
        lines.append(
            f"trained {entry['group']}: {entry['reached']}/{entry['layers']} tensors got gradients{experts}"
        )
    lines += [f"warning: {line}" for line in record["warnings"]]
    proof = record.get("proof")
    if proof is not None:
        lines.append(
            f"reloaded from disk: gravity {proof['gravity']:.3f} (1: the tuned model; 0: the base), "
            f"largest difference {proof['reloaded_max']:.1e} nats"
        )
    if "failed" in record:
        lines.append(f"no result: {record['failed']}")
    return [*lines, *([f"written: {record['path']}"] if "path" in record else [])]


@styled
def loss_curve(losses: Sequence[tuple[int, float]]) -> str:
    """The loss of each step, and its running mean over a twentieth of the steps."""
    figure, ax = axes(6.4, 3.0)
    steps, values = zip(*losses, strict=True)
    span = max(1, len(values) // 20)
    parts = [values[max(0, at + 1 - span) : at + 1] for at in range(len(values))]
    ax.plot(steps, values, color=SOFT, linewidth=0.8, alpha=0.6)
    ax.plot(steps, [sum(part) / len(part) for part in parts], color=MOE)
    ax.axhline(0, color=INK, linewidth=0.6)
    ax.set(xlabel="step", title="Loss")
    return inline(figure, "loss", "Loss by step.")


def _verdict(moved: Record) -> str:
    return "better" if moved["high"] < 0 else "worse" if moved["low"] > 0 else "no clear change"


def _changes(name: str, found: Record) -> list[dict[str, Any]]:
    """One row for all texts, and one for each kind of text if there are several."""
    slices = found["change"].get("per_slice", {})
    moved = {_MEASURES[name]: found["change"]} | (slices if len(slices) > 1 else {})
    return [{"measure": text, "verdict": _verdict(each), **each} for text, each in moved.items()]
