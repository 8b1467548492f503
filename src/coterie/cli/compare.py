"""`coterie compare`: which of several models, or of two training recipes, is better for you."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coterie.cli.messages import show_messages
from coterie.cli.options import Json
from coterie.cli.output import answer

MODELS, RECIPES = "Comparing models", "Comparing recipes"
Given = Annotated[
    list[str],
    typer.Argument(
        help="Two or more models (directory, GGUF file, hub id, address, or ADDRESS#MODEL of a server), or "
        "two recipes for coterie train (YAML).",
        metavar="A B...",
    ),
]
Data = Annotated[
    list[str] | None,
    typer.Option(help="Your examples, as coterie tune takes them.", rich_help_panel=MODELS),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option("--tasks", help="A task to score (coterie eval list).", rich_help_panel=MODELS),
]
Limit = Annotated[
    int, typer.Option(help="Examples, and items of a task, at most.", min=2, rich_help_panel=MODELS)
]
Clients = Annotated[
    int, typer.Option(help="Replies at once when speed is measured.", min=1, rich_help_panel=MODELS)
]
Price = Annotated[
    float | None,
    typer.Option("--price-per-hour", help="What this machine costs.", min=0, rich_help_panel=MODELS),
]
KeyFile = Annotated[
    str | None, typer.Option(help="A file with the key of the servers.", rich_help_panel=MODELS)
]
AllowCode = Annotated[
    bool,
    typer.Option("--allow-code", help="Run the programs that replies hold.", rich_help_panel=MODELS),
]
Tune = Annotated[
    list[str] | None,
    typer.Option(
        help="Other examples: what the same tuning on them gains each model.", rich_help_panel=MODELS
    ),
]
TuneSteps = Annotated[
    int | None,
    typer.Option(help="Steps of that tuning (default: three passes).", min=1, rich_help_panel=MODELS),
]
Budget = Annotated[
    str,
    typer.Option(help="What each training may use: 10m, 5Mtok or 1e15flops.", rich_help_panel=RECIPES),
]
Seeds = Annotated[int, typer.Option(help="Trainings of each, a seed each.", min=1, rich_help_panel=RECIPES)]
Threads = Annotated[int | None, typer.Option(help="Processor threads (default: PyTorch's choice).", min=1)]


def compare(
    given: Given,
    data: Data = None,
    task: Tasks = None,
    limit: Limit = 200,
    clients: Clients = 4,
    price: Price = None,
    key_file: KeyFile = None,
    allow_code: AllowCode = False,
    tune: Tune = None,
    tune_steps: TuneSteps = None,
    budget: Budget = "10m",
    seeds: Seeds = 3,
    out: Annotated[str, typer.Option("--out", "-o", help="Where to write.")] = "runs/compare",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Say which model is better on your examples, or which of two training recipes to adopt.

    Recipes are trained at an equal budget over seeds. Run again, it goes on.
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
        given, data, task or (), limit=limit, clients=clients, price_per_hour=price, key_file=key_file,
        allow_code=allow_code, tune=tune or (), tune_steps=tune_steps, out=out,
    )  # fmt: skip
    answer(result.to_dict() | {"verdict": result.verdict()}, as_json, [*result.lines(), page])
