"""`coterie pipeline`: several recipes one after the other, from one file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coterie.cli.options import Json
from coterie.cli.output import answer

if TYPE_CHECKING:
    from coterie.results.pipeline import PipelineRecord

File = Annotated[str, typer.Argument(help="A YAML file (see recipes/nano.yaml and docs/reason.md).")]
Changes = Annotated[
    list[str] | None, typer.Argument(help="key=value, for example scale=0.05 or out=runs/small.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check all settings, show the stages, and stop.")]


def run(file: File, overrides: Changes = None, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Run the stages of a file, one after the other; done ones are skipped, and a stopped one goes on.

    The settings of all stages are checked before the first starts.
    """
    from coterie.config.base import apply_overrides, read_yaml

    _follow(file, apply_overrides(read_yaml(file), overrides or []), dry_run, as_json)


def r1(file: File, overrides: Changes = None, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Climb DeepSeek-R1's ladder: cold start, rewards, rejection sampling for the base, rewards again.

    The file names the model and the task; `stages` changes settings of single stages by their names: worked,
    cold-start, reinforce, reject, again.
    """
    from coterie.config.base import apply_overrides, read_yaml
    from coterie.config.pipeline import r1_settings

    _follow(file, r1_settings(apply_overrides(read_yaml(file), overrides or []), file), dry_run, as_json)


def _follow(file: str, settings: Mapping[str, Any], dry_run: bool, as_json: bool) -> None:
    from coterie.config.pipeline import PipelineConfig
    from coterie.recipes.pipeline import planned, run_pipeline

    config = PipelineConfig.from_dict(settings, file)
    if dry_run:
        stages = planned(config)
        facts = {stage.name: {"kind": stage.kind, "makes": str(stage.product)} for stage in stages}
        lines = (f"{stage.name:16} {stage.kind:10} {stage.product}" for stage in stages)
        answer({"stages": facts}, as_json, lines)
        return
    record = run_pipeline(config)
    answer(record.to_dict(), as_json, _lines(record, config.out))


def _lines(record: PipelineRecord, out: str) -> Iterator[str]:
    yield from (stage.words() for stage in record.stages)
    yield f"report: {out}/report.html"
