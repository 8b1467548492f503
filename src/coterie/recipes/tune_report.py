"""The report of a tuning run, for people and for machines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from coterie.config.files import write_json
from coterie.config.temporaries import remove_tree
from coterie.report.tuning_page import write_tuning_page
from coterie.results.tuning import TuningRecord
from coterie.train.callbacks import read_records


def with_report(
    record: TuningRecord, path: Path, title: str, write: Callable[[], Mapping[str, Any]]
) -> TuningRecord:
    """Write a result to `path` with `write`, which returns further fields of the record, and then the report.

    The report is written whatever happens. After an error no result remains.
    """
    try:
        record = record.model_copy(update={**write(), "path": str(path)})
    except Exception as error:
        record = record.model_copy(update={"failed": str(error)})
        if path.exists():
            remove_tree(path)
        raise
    finally:
        write_report(path.parent, record, title)
    return record


def write_report(out: Path, record: TuningRecord, title: str) -> None:
    """Write `report.json` and `report.html` in the run's directory `out`, each whole or not at all."""
    write_json(out / "report.json", record.to_dict())
    metrics = out / "metrics.jsonl"
    records = read_records(metrics) if metrics.is_file() else []
    losses = [(record["step"], record["loss"]) for record in records if isinstance(record.get("loss"), float)]
    write_tuning_page(record, out / "report.html", title, losses)
