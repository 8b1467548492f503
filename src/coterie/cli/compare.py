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
        list[str],
        typer.Argument(help="Two or more models, or two recipes for coterie train (YAML).", metavar="A B..."),
    ],
    data: Annotated[
        list[str] | None, typer.Option(help="Models: your examples, as coterie tune takes them.")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option("--tasks", help="Models: a benchmark to score; may be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Models: examples, and items of a task, at most.", min=2)] = 200,
    clients: Annotated[int, typer.Option(help="Models: replies at once when speed is measured.", min=1)] = 4,
    price: Annotated[
        float | None, typer.Option("--price-per-hour", help="Models: what this machine costs.", min=0)
    ] = None,
    budget: Annotated[
        str, typer.Option(help="Recipes: what each training may use: 10m, 5Mtok or 1e15flops.")
    ] = "10m",
    seeds: Annotated[int, typer.Option(help="Recipes: trainings of each, a seed each.", min=1)] = 3,
    out: Annotated[str, typer.Option("--out", "-o", help="Where to write.")] = "runs/compare",
    threads: Annotated[
        int | None, typer.Option(help="Processor threads (default: PyTorch's choice).", min=1)
    ] = None,
    as_json: Json = False,
) -> None:
    """Say which model is better on your examples, or which of two training recipes to adopt.

    Recipes are trained at an equal budget over seeds; run again, it goes on.
    """
    from coterie.config.errors import ConfigError

    recipes = [path.endswith((".yaml", ".yml")) for path in given]
    show_messages("run")
    page = f"report: {Path(out) / 'report.html'}"
    if all(recipes):
        from coterie.recipes.compare_recipes import compare_recipes

        found = compare_recipes(given, budget, seeds, out, threads)
        answer(found.to_dict() | {"verdict": found.verdict}, as_json, [*found.lines(), page])
        return
    if any(recipes):
        raise ConfigError("compare: give models or recipes (YAML files), not both")
    if not data:
        raise ConfigError("compare: give your examples with --data FILE; models are compared on them")
    import torch

    from coterie.recipes.compare_models import compare_models

    if threads is not None:
        torch.set_num_threads(threads)
    result = compare_models(
        given, data, task or (), limit=limit, clients=clients, price_per_hour=price, out=out
    )
    answer(result.to_dict(), as_json, [*result.lines(), page])
