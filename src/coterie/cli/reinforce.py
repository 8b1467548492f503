"""`coterie train reinforce`: learn from rewards that a program gives."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coterie.cli.options import Json, Model
from coterie.cli.output import answer_run

if TYPE_CHECKING:
    from coterie.recipes.reinforce import ReinforceResult


def reinforce(
    model: Model,
    task: Annotated[str, typer.Option(help="A built-in task, gym:NAME, or a .py or .jsonl file of yours.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Further settings, such as policy.clip=ppo lr=1e-4 updates=2.")
    ] = None,
    levels: Annotated[str | None, typer.Option(help="Levels, such as 3 or 0-4 [default: 0 to 9].")] = None,
    pool: Annotated[
        str | None, typer.Option(help="Train on the problems of this file of coterie pool.")
    ] = None,
    out: Annotated[str | None, typer.Option("--out", "-o", help="Directory of the run.")] = None,
    method: Annotated[str | None, typer.Option(help="lora, qlora, dora, full, esft or router.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.", min=1)] = None,
    prompts: Annotated[int | None, typer.Option(help="Problems of a step.", min=1)] = None,
    group: Annotated[int | None, typer.Option(help="Replies to each problem.", min=2)] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest reply, in tokens.", min=1)] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate (default: by method and size).")] = None,
    instruction: Annotated[bool, typer.Option(help="Say in a system message how to answer.")] = False,
    gate: Annotated[bool, typer.Option(help="Refuse to start without a signal to learn from.")] = True,
    seed: Annotated[int | None, typer.Option(help="Same seed, same run.", min=0)] = None,
    as_json: Json = False,
) -> None:
    """Train a model on a task by rewards of what it writes; the same command resumes.

    The task's checker is tried first, then whether the model gets a signal from it. Every reply is kept.
    """
    from coterie.config.base import apply_overrides
    from coterie.config.reinforce import ReinforceConfig
    from coterie.recipes.reinforce import run_reinforce

    given: dict[str, Any] = {
        "model": model,
        "task": task,
        "levels": levels,
        "pool": pool,
        "out": out,
        "method": method,
        "steps": steps,
        "prompts": prompts,
        "group": group,
        "max_tokens": max_tokens,
        "lr": lr,
        "instruction": instruction or None,
        "gate": None if gate else False,
        "seed": seed,
    }
    settings = apply_overrides(
        {key: value for key, value in given.items() if value is not None}, overrides or []
    )
    config = ReinforceConfig.from_dict(settings, "reinforce")
    result = run_reinforce(config, f"run {shlex.join(['coterie', *sys.argv[1:]])} again")
    answer_run(result, as_json, _lines(result, config.out))


def _lines(result: ReinforceResult, out: str) -> Iterator[str]:
    from coterie.report.reinforce_words import pass_at_words

    record = result.record
    if record is None or result.path is None:
        yield f"stopped ({result.reason}) after {result.steps} steps; coterie report {out} draws them"
        return
    for name, change in (("held out", record.change), ("one level above", record.beyond)):
        if change is not None:
            yield f"{name:16} {change.words()}"
    if record.pass_at is not None:
        yield pass_at_words(record.pass_at)
    yield f"tokens a reply   {record.mean_tokens[0]:.0f} -> {record.mean_tokens[1]:.0f}"
    yield f"{result.kind:16} {result.path}"
    yield f"report           {result.page}"
