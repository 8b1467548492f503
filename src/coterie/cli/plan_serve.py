"""`coterie plan serve`: what of a model fits into memory, and how fast it answers here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from coterie.cli.options import Described, ExpertProfile, Json, parse_bytes
from coterie.cli.output import answer, note

if TYPE_CHECKING:
    from coterie.config import ModelConfig
    from coterie.plan.serving import ServePlan


def serve(
    model: Described,
    memory: Annotated[
        str | None, typer.Option(help="Available memory, for example 8GB (default: this machine's).")
    ] = None,
    quant: Annotated[
        str | None, typer.Option(help="none, int8 or int4 (default: the best that fits).")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of what is not quantised: bfloat16 or float32.")] = "bfloat16",
    context: Annotated[int, typer.Option(help="Tokens of a conversation.", min=1)] = 4096,
    sequences: Annotated[int, typer.Option(help="Conversations at once.", min=1)] = 1,
    expert_profile: ExpertProfile = None,
    speed: Annotated[bool, typer.Option(help="Measure a few layers here and tell the speed.")] = True,
    as_json: Json = False,
) -> None:
    """Show what of a model fits into memory in each form, with experts on disk if need be, and at what speed.

    Exits with 1 when nothing fits.
    """
    from coterie.checkpoints.inspect import config_of
    from coterie.config import ConfigError
    from coterie.machine.system import weight_memory
    from coterie.plan.serving import PROGRAM, forms_of, plan_serve, token_seconds

    if dtype not in ("float32", "bfloat16") or quant not in (None, "none", "int8", "int4"):
        raise ConfigError(
            f"plan: dtype is float32 or bfloat16, quant none, int8 or int4; got {dtype} and {quant}"
        )
    config = config_of(model)
    limit = weight_memory() if memory is None else parse_bytes(memory, "--memory")
    uses = None
    if expert_profile is not None:
        from coterie.evaluate.routing.profile import Profile

        uses = Profile.from_file(expert_profile).counts
    plans = [plan_serve(config, limit, form, context, sequences, dtype, uses) for form in forms_of(quant)]
    best = next((plan for plan in plans if plan.fits == "memory"), plans[-1])
    seconds = None
    if speed and best.fits != "no":
        step, read = _measured(model, config, best, dtype)
        seconds = token_seconds(config, best, step, read)
    facts = {"memory": limit, "program": PROGRAM, "plans": [plan.to_dict() for plan in plans]}
    facts |= {"chosen": best.form, "tokens_per_second": None if seconds is None else 1 / seconds}
    answer(facts, as_json, _lines(plans, best, limit, seconds))
    if best.fits == "no":
        raise SystemExit(1)


def _measured(model: str, config: ModelConfig, plan: ServePlan, dtype: str) -> tuple[float, float]:
    """Seconds of a step with all experts in memory, and of reading one expert."""
    from pathlib import Path

    from coterie.checkpoints.checkpoint import Checkpoint
    from coterie.checkpoints.tensor_writer import as_dtype
    from coterie.config import Precision
    from coterie.plan.serving import expert_bytes
    from coterie.recipes.serve_speed import disk_seconds, read_seconds, step_seconds

    note("measuring some layers and the disk for about 20 seconds")
    precision, kind = Precision.parse(plan.form), as_dtype(dtype)
    step = step_seconds(config, kind, precision)
    if plan.fits != "disk":
        return step, 0.0
    path = Path(model)
    if path.is_file() or (path.is_dir() and any(path.glob("*.safetensors"))):
        return step, read_seconds(Checkpoint.open(model), kind, precision)
    return step, disk_seconds(expert_bytes(config, plan))


def _lines(plans: list[ServePlan], best: ServePlan, limit: int, seconds: float | None) -> Iterator[str]:
    from coterie.plan.serving import PROGRAM
    from coterie.report.words import size

    yield f"memory   {size(limit)}, of which {size(PROGRAM)} are for the program"
    for plan in plans:
        where = {
            "memory": "fits",
            "no": f"does not fit: {size(-plan.room)} are missing before any expert is in memory",
            "disk": f"experts on disk: {size(max(0, plan.room))} of them in memory, {plan.hits:.0%} of uses",
        }[plan.fits]
        yield (
            f"{plan.form:<8} experts {size(plan.experts)}, other weights {size(plan.always)}, "
            f"cache {size(plan.cache)}: {where}"
        )
    if seconds is not None:
        yield f"speed    {1 / seconds:,.1f} tokens per second in {best.form}, one conversation, measured here"
