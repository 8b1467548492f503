"""What a tuning run gained and lost, for people and for machines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coterie.config.files import write_json
from coterie.evaluate.bits import DocumentScore
from coterie.evaluate.stats import difference_intervals
from coterie.report.tuning_page import write_tuning_page
from coterie.results.tuning import TuningRecord
from coterie.train.callbacks import read_records


def change(before: Sequence[DocumentScore], after: Sequence[DocumentScore]) -> dict[str, Any]:
    """Bits per byte (of examples: per token) before and after, and their difference: `TuningChange`."""
    sums = [sum(s.nats for s in scores) / sum(s.num_bytes for s in scores) for scores in (before, after)]
    bits = [value / math.log(2) for value in sums]
    return {"before": bits[0], "after": bits[1], "change": difference_intervals(after, before).to_dict()}


def write_report(out: Path, report: dict[str, Any], title: str) -> None:
    """`report.json` and `report.html` in the run's directory `out`, each whole or not at all."""
    record = TuningRecord.from_dict(report, "tuning report")
    write_json(out / "report.json", record.model_dump(mode="json", exclude_unset=True))
    metrics = out / "metrics.jsonl"
    records = read_records(metrics) if metrics.is_file() else []
    losses = [(record["step"], record["loss"]) for record in records if record["kind"] == "train"]
    write_tuning_page(record, out / "report.html", title, losses)
