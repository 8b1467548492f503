"""The files that a reinforcement run leaves about itself, and the pages drawn from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coterie.config.errors import ConfigError
from coterie.config.files import read_json
from coterie.reinforce.kept import kept_steps
from coterie.report.reinforce_comparison import comparison_lines, write_comparison
from coterie.report.reinforce_page import DrawnRun, write_reinforce_page
from coterie.report.rollouts import keep_rollouts
from coterie.results.reinforce import ReinforceRecord, ReinforceStart
from coterie.train.callbacks import read_records

START, RECORD, PAGE, ROLLOUTS = "start.json", "reinforce.json", "report.html", "rollouts"
_REPAIR = "delete the run's directory and run again"


def is_reinforce_run(out: str | Path) -> bool:
    """Whether a directory holds a reinforcement run that has begun."""
    return Path(out, START).is_file()


def read_start(out: str | Path) -> ReinforceStart:
    """What a run knew before its first step. Errors: `ConfigError`, one line."""
    return ReinforceStart.from_dict(read_json(Path(out, START), _REPAIR), str(Path(out, START)))


def read_run(out: str | Path) -> DrawnRun:
    """A run as it is now, ended or not. Errors: `CoterieError` subclasses, one line each."""
    out = Path(out)
    if not is_reinforce_run(out):
        raise ConfigError(f"{out}: holds no reinforcement run that has begun; give the directory of one")
    record = out / RECORD
    metrics = out / "metrics.jsonl"
    return DrawnRun(
        name=out.resolve().name,
        start=read_start(out),
        record=ReinforceRecord.from_dict(read_json(record, _REPAIR), str(record))
        if record.is_file()
        else None,
        metrics=read_records(metrics) if metrics.is_file() else [],
        kept=keep_rollouts(kept_steps(out / ROLLOUTS, "remove it to draw the others")),
    )


def draw_run(out: str | Path) -> Path:
    """Write `report.html` of a run, also of one that still runs; returns its path."""
    path = Path(out, PAGE)
    write_reinforce_page(read_run(out), path)
    return path


def compare_runs(directories: Sequence[str], path: str | Path) -> tuple[Path, list[str]]:
    """Write one page about several runs; returns its path and what it says.

    Errors: as `read_run`; `ConfigError` for a run that is given twice.
    """
    names = _names(directories)
    runs = {name: read_run(directory) for name, directory in zip(names, directories, strict=True)}
    write_comparison(runs, path)
    return Path(path), comparison_lines(runs)


def _names(directories: Sequence[str]) -> list[str]:
    """Short names of runs: their directories', or their whole paths where two share one.

    Errors: `ConfigError` for a run that is given twice.
    """
    short = [Path(directory).resolve().name for directory in directories]
    names = short if len(set(short)) == len(short) else [str(Path(directory)) for directory in directories]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(f"{twice[0]}: is given twice; give each run once")
    return names
