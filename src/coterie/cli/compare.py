"""`coterie compare`: which of several models, or of two training recipes, is better for you."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coterie.cli.messages import show_messages
from coterie.cli.options import Json
from coterie.cli.output import answer


def compare(
    given: Annotated[
        list[str], typer.Argument(help="Two recipes for coterie train (YAML files).", metavar="A B")
    ],
    budget: Annotated[str, typer.Option(help="What each training may use: 10m, 5Mtok or 1e15flops.")] = "10m",
    seeds: Annotated[int, typer.Option(help="Trainings of each recipe, a seed each.", min=1)] = 3,
    out: Annotated[str, typer.Option("--out", "-o", help="Where to write.")] = "runs/compare",
    threads: Annotated[
        int | None, typer.Option(help="Processor threads (default: PyTorch's choice).", min=1)
    ] = None,
    as_json: Json = False,
) -> None:
    """Train two recipes at an equal budget over seeds, and say which to adopt; run again, it goes on."""
    from coterie.recipes.compare_recipes import compare_recipes

    show_messages("run")
    found = compare_recipes(given, budget, seeds, out, threads)
    lines = [*found.lines(), f"report: {Path(out) / 'report.html'}"]
    answer(found.to_dict() | {"verdict": found.verdict}, as_json, lines)
