"""Verbs that make a model one's own. Imports nothing heavy: `--help` stays fast."""

from __future__ import annotations

from typing import Annotated

import typer

from coterie.cli.options import Json

Train = "What happens to each group: attention=lora,experts=lora,shared=lora,router=freeze,... (lora, full, freeze)."
Data = "Files, directories, hf://owner/name, 'starter', 'tools' or '-'; and settings as key=value."


def tune(
    model: Annotated[
        str, typer.Argument(help="A checkpoint directory, a hub id, or an adapter to train further.")
    ],
    data: Annotated[list[str], typer.Argument(help=Data)],
    out: Annotated[str | None, typer.Option("--out", "-o", help="Where to write.")] = None,
    method: Annotated[str | None, typer.Option(help="lora, qlora, dora, full, esft or router.")] = None,
    train: Annotated[str | None, typer.Option(help=Train)] = None,
    experts: Annotated[
        str | None, typer.Option(help="Train these experts alone (a file of coterie select).")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(help="sft, pretrain, dpo, ipo, dpo-norm, orpo or kto; by the data when left out."),
    ] = None,
    router: Annotated[
        str | None, typer.Option(help="Routers: freeze, full, lora, bias or dense-grad.")
    ] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of the factors.", min=1)] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the examples.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps instead of epochs.", min=1)] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate; by method and size when left out.")] = None,
    evaluation: Annotated[
        str | None, typer.Option("--eval", help="Held-out share of the data, or a file.")
    ] = None,
    max_forgetting: Annotated[
        float | None,
        typer.Option(help="Most bits per byte that other text may lose; more ends without a result."),
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="A YAML file of settings; options stand over it.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be trained, and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Tune a model, dense or mixture of experts, on your examples; run it again to go on where it stopped.

    Says what is trained, stops when a group that was asked for gets no gradient, and proves the written
    result.
    """
    from coterie.cli.tune import run

    given = {
        "model": model,
        "out": out,
        "method": method,
        "experts": experts,
        "objective": objective,
        "router": router,
        "rank": rank,
        "epochs": epochs,
        "steps": steps,
        "lr": lr,
        "eval": evaluation,
        "max_forgetting": max_forgetting,
    }
    run(
        data,
        {key: value for key, value in given.items() if value is not None},
        train,
        config,
        dry_run,
        as_json,
    )


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command line."""
    app.command(short_help="Tune a model on your examples, experts included; proves the result.")(tune)
