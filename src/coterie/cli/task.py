"""`coterie task`: tasks whose answers a program can check, for reinforcement, tuning and evaluation."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from coterie.cli.options import Json
from coterie.cli.output import answer

if TYPE_CHECKING:
    from coterie.tasks.check import TaskReport

TaskName = Annotated[str, typer.Argument(help="A built-in task, gym:NAME, or a .py or .jsonl file of yours.")]
Levels = Annotated[
    str | None, typer.Option(help="Levels, such as 3 or 0-4 [default: all that are trained on].")
]
TaskSeed = Annotated[int, typer.Option(help="Other seed, other problems.", min=0)]


def tasks(as_json: Json = False) -> None:
    """List the built-in tasks."""
    from coterie.tasks import TASKS

    facts = {name: {"version": family.version, "says": family.says} for name, family in TASKS.items()}
    width = max(map(len, TASKS)) + 2
    answer({"tasks": facts}, as_json, (f"{name:{width}}{family.says}" for name, family in TASKS.items()))


def check(
    task: TaskName,
    count: Annotated[int, typer.Option(help="Problems to try.", min=20)] = 200,
    as_json: Json = False,
) -> None:
    """Try a task's checker: right replies earn 1, replies that know nothing earn nothing.

    Nothing is trained on a task that fails. Exits with 1 then.
    """
    from coterie.tasks import load_task
    from coterie.tasks.check import check_task

    report = check_task(load_task(task), count)
    answer(report.to_dict(), as_json, _lines(report))
    if not report.passed:
        raise typer.Exit(1)


def _lines(report: TaskReport) -> Iterator[str]:
    yield f"task {report.task}, version {report.version}, {report.problems} problems"
    for finding in report.findings:
        yield f"{'ok  ' if finding.passed else 'FAIL'}  {finding.what:46} {finding.result}"
    if report.passed:
        yield "the check passes"
    else:
        count = f"{len(report.faults)} of {len(report.findings)}"
        yield f"the check FAILS: {count}; nothing is trained on this task"


def show(
    task: TaskName,
    count: Annotated[int, typer.Option(help="Problems to show.", min=1)] = 3,
    levels: Levels = None,
    seed: TaskSeed = 0,
    as_json: Json = False,
) -> None:
    """Show problems with their worked replies."""
    from coterie.tasks import load_task
    from coterie.tasks.levels import read_levels

    family = load_task(task)
    chosen = read_levels(levels, family.levels)
    problems = [family.problem(chosen[i % len(chosen)], i, "train", seed) for i in range(count)]
    facts = [
        {"id": one.id, "level": one.level, "prompt": one.prompt, "reply": family.worked(one)}
        for one in problems
    ]
    lines = (f"{one['id']}\n  {one['prompt']}\n  {_indented(str(one['reply']))}" for one in facts)
    answer({"problems": facts}, as_json, lines, ensure_ascii=False)


def rows(
    task: TaskName,
    count: Annotated[int, typer.Option(help="Rows to write.", min=1)],
    levels: Levels = None,
    seed: TaskSeed = 0,
    worked: Annotated[
        float | None,
        typer.Option(help="Share of rows with their steps [default: the task's].", min=0, max=1),
    ] = None,
    steps: Annotated[
        str, typer.Option(help="Where steps stand: think (as reasoning) or text (in the reply).")
    ] = "think",
    instruction: Annotated[bool, typer.Option(help="Say in a system message how to answer.")] = False,
    text: Annotated[bool, typer.Option("--text", help="Plain text for pretraining instead.")] = False,
) -> None:
    """Write rows for tuning, or text for pretraining, as JSONL on standard output."""
    from coterie.config.errors import ConfigError
    from coterie.tasks import load_task
    from coterie.tasks.levels import read_levels
    from coterie.tasks.rows import conversations, documents

    family = load_task(task)
    chosen = read_levels(levels, family.levels)
    if steps not in ("think", "text"):
        raise ConfigError(f"--steps {steps}: choose think or text")
    if text:
        found = ({"text": one} for one in documents(family, chosen, count, seed))
        sys.stdout.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
        return
    made = conversations(
        family,
        chosen,
        count,
        seed,
        worked_share=worked,
        steps="think" if steps == "think" else "text",
        instruction=instruction,
    )
    sys.stdout.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in made)


def _indented(text: str) -> str:
    return text.replace("\n", "\n  ")
