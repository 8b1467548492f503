"""`coterie plan tune`: what tuning will cost, from config.json alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coterie.cli.options import Described, Json, parse_bytes
from coterie.cli.output import answer, note

if TYPE_CHECKING:
    from coterie.config import ModelConfig
    from coterie.plan.tuning import TunePlan, TuneSettings


def tune(
    model: Described,
    method: Annotated[str, typer.Option(help="lora, qlora, dora, full, esft or router.")] = "lora",
    rank: Annotated[int, typer.Option(help="Rank of the factors.", min=1)] = 16,
    experts: Annotated[str | None, typer.Option(help="A file of `coterie select`, for esft.")] = None,
    dtype: Annotated[
        str, typer.Option(help="Of products: auto, float32 or bfloat16, as `coterie tune` takes it.")
    ] = "auto",
    quant: Annotated[
        str | None, typer.Option(help="Frozen matrices: none, int8 or int4 [default: the method's].")
    ] = None,
    row_length: Annotated[int, typer.Option(help="Tokens of a row.", min=1)] = 1024,
    batch_rows: Annotated[int, typer.Option(help="Rows of a micro-batch.", min=1)] = 4,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Layers run again in the backward pass (less memory).")
    ] = False,
    accumulate: Annotated[int, typer.Option(help="Micro-batches of a step.", min=1)] = 1,
    memory: Annotated[
        str | None, typer.Option(help="Available memory, for example 24GB: find settings that fit.")
    ] = None,
    tokens: Annotated[
        float | None, typer.Option(help="Tokens to train on: time one layer here and estimate the whole.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show memory by phase (load, step, save, merge), time, and the settings that make tuning fit.

    With --memory, exits with 1 when no settings fit.
    """
    from coterie.checkpoints.inspect import config_of
    from coterie.config import ConfigError, ExpertSelection
    from coterie.config.methods import tuning_method
    from coterie.plan.tuning import TuneSettings, fitting, plan_tune

    if dtype not in ("auto", "float32", "bfloat16") or quant not in (None, "none", "int8", "int4"):
        raise ConfigError(
            f"plan: dtype is auto, float32 or bfloat16, quant none, int8 or int4; got {dtype} and {quant}"
        )
    config = config_of(model)
    held, computed = _bytes_held(model, method, dtype)
    if quant is None:
        quant = "int4" if tuning_method(method).quantised else "none"
    settings: dict[str, Any] = {"method": method, "rank": rank, "quant": quant, "row_length": row_length}
    settings |= {"dtype_bytes": held, "activation_bytes": computed}
    settings |= {"batch_rows": batch_rows, "accumulate": accumulate, "recompute": recompute}
    if experts is not None:
        selection = ExpertSelection.from_file(experts)
        selection.check(config)
        settings["experts"] = {layer: len(chosen) for layer, chosen in selection.experts.items()}
    asked = TuneSettings(**settings)
    limit = None if memory is None else parse_bytes(memory, "--memory")
    steps = [("as asked", plan_tune(config, asked))] if limit is None else fitting(config, asked, limit)
    last = steps[-1][1]
    seconds = None if tokens is None else _seconds(config, last.settings, tokens)
    fits = limit is None or last.peak <= limit
    plans = [{"change": words, **plan.to_dict()} for words, plan in steps]
    facts = {"limit_bytes": limit, "fits": fits, "plans": plans, "seconds": seconds}
    answer(facts, as_json, _lines(steps, limit, seconds, tokens))
    if not fits:
        raise SystemExit(1)


def _seconds(config: ModelConfig, settings: TuneSettings, tokens: float) -> float:
    """Seconds to train on `tokens` tokens on this machine, from the time of one layer."""
    from coterie.recipes.step_time import step_seconds

    note("measuring one layer for about 5 seconds")
    per_step = settings.row_length * settings.batch_rows * settings.accumulate
    return step_seconds(config, settings) * tokens / per_step


def _bytes_held(model: str, method: str, dtype: str) -> tuple[int, int]:
    """Bytes of a weight and of an activation, as `coterie tune` chooses their types on this machine.

    A model without weights here (a config, a published name, a hub id) counts as stored in bfloat16.
    """
    import torch

    from coterie.adapters.trainable import held_dtype
    from coterie.checkpoints.checkpoint import Checkpoint
    from coterie.config.methods import tuning_method
    from coterie.machine.device import choose_device, choose_dtype

    path = Path(model)
    stored = any(path.glob("*.safetensors")) if path.is_dir() else path.is_file()
    kept = Checkpoint.open(model).kept_dtype if stored else torch.bfloat16
    held = held_dtype(tuning_method(method), kept)
    return held.itemsize, choose_dtype(dtype, choose_device("auto")).itemsize


def _lines(
    steps: Sequence[tuple[str, TunePlan]], limit: float | None, seconds: float | None, tokens: float | None
) -> Iterator[str]:
    from coterie.report.words import count, duration, size

    last = steps[-1][1]
    yield f"settings     {last.settings.words()}"
    total, trained = last.parameters["total"], last.parameters["trained"]
    yield f"parameters   total {count(total)}, trained {count(trained)} ({trained / total:.2%})"
    yield "held         " + ", ".join(f"{name} {size(value)}" for name, value in last.parts.items())
    yield "phases       " + ", ".join(f"{name} {size(value)}" for name, value in last.phases.items())
    yield f"peak         {size(last.peak)}"
    if seconds is not None and tokens is not None:
        yield f"time         {duration(seconds)} for {count(tokens)} tokens"
    if limit is None:
        return
    if len(steps) == 1:
        yield f"fits         in {size(limit)} as asked"
        return
    for words, plan in steps:
        yield f"  {words:<32} {size(plan.peak)}, {'fits' if plan.peak <= limit else 'does not fit'}"
    if last.peak <= limit:
        yield f"fits         in {size(limit)} with the settings above"
    else:
        yield f"             nothing here fits into {size(limit)}; take a smaller model or more memory"
