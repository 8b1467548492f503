"""What a tuning run gained and lost, for people and for machines."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coterie.evaluate.bits import DocumentScore
from coterie.evaluate.stats import difference_intervals

_MEASURES = {"held_out": "bits per token of held-out examples", "retention": "bits per byte of other text"}


def change(before: Sequence[DocumentScore], after: Sequence[DocumentScore]) -> dict[str, Any]:
    """Bits per byte (of examples: per token) before and after, and their paired difference with its interval."""
    sums = [sum(s.nats for s in scores) / sum(s.num_bytes for s in scores) for scores in (before, after)]
    bits = [value / math.log(2) for value in sums]
    return {"before": bits[0], "after": bits[1], "change": difference_intervals(after, before)}


def report_lines(report: dict[str, Any]) -> list[str]:
    """What was gained and what was lost, for people."""
    lines = []
    for name, words in (
        ("held_out", "bits per token of held-out examples"),
        ("retention", "bits per byte of other text"),
    ):
        if name in report:
            found, moved = report[name], report[name]["change"]
            better = "better" if moved["high"] < 0 else "worse" if moved["low"] > 0 else "no clear change"
            lines.append(
                f"{words}: {found['before']:.3f} -> {found['after']:.3f} "
                f"({moved['value']:+.3f}, 95% {moved['low']:+.3f} to {moved['high']:+.3f}: {better})"
            )
    for entry in report["coverage"]:
        experts = "" if entry["experts"] is None else f", {entry['experts_reached']}/{entry['experts']} experts"
        lines.append(f"trained {entry['group']}: {entry['reached']}/{entry['layers']} layers got gradients{experts}")
    proof = report["proof"]
    lines.append(
        f"read back from disk: gravity {proof['gravity']:.3f} (1 is the tuned model, 0 the base), "
        f"largest difference {proof['reloaded_max']:.1e} nats"
    )
    return [*lines, f"written: {report['path']}"]


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
