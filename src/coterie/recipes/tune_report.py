"""The report of a tuning run, for people and for machines."""

from __future__ import annotations

from pathlib import Path

from coterie.config.files import write_json
from coterie.report.tuning_page import write_tuning_page
from coterie.results.tuning import TuningRecord
from coterie.train.callbacks import read_records


def write_report(out: Path, record: TuningRecord, title: str) -> None:
    """Write `report.json` and `report.html` in the run's directory `out`, each whole or not at all."""
    write_json(out / "report.json", record.to_dict())
    metrics = out / "metrics.jsonl"
    records = read_records(metrics) if metrics.is_file() else []
    losses = [(record["step"], record["loss"]) for record in records if record["kind"] == "train"]
    write_tuning_page(record, out / "report.html", title, losses)
