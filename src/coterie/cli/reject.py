"""`coterie train reject`: rejection sampling, then tuning on what is right."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from coterie.cli.options import Json, Model
from coterie.cli.output import answer
from coterie.cli.settings_options import with_options
from coterie.config.reject import RejectOptions

if TYPE_CHECKING:
    from coterie.recipes.reject import RejectResult


@with_options(RejectOptions)
def reject(
    model: Model,
    task: Annotated[str, typer.Option(help="A built-in task, gym:NAME, or a .py or .jsonl file of yours.")],
    settings: RejectOptions,
    tuning: Annotated[
        list[str] | None,
        typer.Argument(help="Settings of coterie tune, such as method=full lr=1e-3 epochs=2."),
    ] = None,
    out: Annotated[str, typer.Option("--out", "-o", help="Directory of the run.")] = "runs/reject",
    as_json: Json = False,
) -> None:
    """Tune a model on the right ones of its replies to a task; the same command resumes.

    Replies that are cut off, repeated, or shown differently by the chat template are not learnt.
    """
    from coterie.config.base import apply_overrides
    from coterie.config.reject import RejectConfig
    from coterie.recipes.reject import run_reject

    named = {"model": model, "task": task, "out": out, "tune": apply_overrides({}, tuning or [])}
    given = named | settings.to_dict()
    command = shlex.join(["coterie", *sys.argv[1:]])
    result = run_reject(RejectConfig.from_dict(given, "reject"), command)
    answer({"path": str(result.path), "record": result.record.to_dict()}, as_json, _lines(result))


def _lines(result: RejectResult) -> Iterator[str]:
    record = result.record
    yield record.accepted.words()
    for level in record.accepted.levels:
        yield f"level {level.level:2}  {level.share:6.1%} of replies right, {level.rows} rows"
    if record.base is not None:
        yield f"base      {record.base.value:.1%} right of {record.base.problems} held-out problems"
    yield f"held out  {record.change.words()}"
    yield f"tokens    {record.mean_tokens[0]:.0f} -> {record.mean_tokens[1]:.0f} a reply"
    yield f"{result.kind:8}  {result.path}"
