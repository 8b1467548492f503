"""`coterie plan ...`: what something will cost, before it is done. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated

import typer

from coterie.cli.options import Json, Model

plan_app = typer.Typer(
    help="What something will cost, from config.json alone.", no_args_is_help=True, rich_markup_mode=None
)


@plan_app.command("tune", short_help="Memory and time of tuning, and what makes it fit.")
def plan_tune(
    model: Model,
    method: Annotated[str, typer.Option(help="lora, qlora, dora, full, esft or router.")] = "lora",
    rank: Annotated[int, typer.Option(help="Of the factors.", min=1)] = 16,
    experts: Annotated[str | None, typer.Option(help="A file of `coterie select`, for esft.")] = None,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    quant: Annotated[str, typer.Option(help="none, int8 or int4: the frozen matrices.")] = "none",
    row_length: Annotated[int, typer.Option(help="Tokens of a row.", min=1)] = 1024,
    batch_rows: Annotated[int, typer.Option(help="Rows of a micro-batch.", min=1)] = 4,
    accumulate: Annotated[int, typer.Option(help="Micro-batches of a step.", min=1)] = 1,
    memory: Annotated[
        str | None, typer.Option(help="What there is, for example 24GB: find settings that fit.")
    ] = None,
    tokens: Annotated[
        float | None, typer.Option(help="Tokens to train on: measure this machine for the time.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Memory by phase (load, step, save, merge), time, and the settings that make tuning fit."""
    from coterie.cli.plan import tune as run
    from coterie.config import ConfigError

    if dtype not in ("float32", "bfloat16") or quant not in ("none", "int8", "int4"):
        raise ConfigError(
            f"plan: dtype is float32 or bfloat16, quant none, int8 or int4; got {dtype} and {quant}"
        )
    settings = {"method": method, "rank": rank, "dtype_bytes": 4 if dtype == "float32" else 2, "quant": quant}
    settings |= {"row_length": row_length, "batch_rows": batch_rows, "accumulate": accumulate}
    run(model, settings, experts, memory, tokens, as_json)


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command line."""
    app.add_typer(plan_app, name="plan")
