"""`coterie plan tune`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from coterie.config import ConfigError, ExpertSelection, ModelConfig
from coterie.plan.tuning import TunePlan, TuneSettings, fitting, plan_tune
from coterie.report.words import count, duration, size

_UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def tune(
    path: str,
    settings: dict[str, Any],
    experts: str | None,
    limit: str | None,
    tokens: float | None,
    as_json: bool,
) -> None:
    """Print the plan; with `limit`, the settings that make it fit, and exit with 1 when none do."""
    config = _config(path)
    if experts is not None:
        selection = ExpertSelection.from_file(experts)
        selection.check(config)
        settings["experts"] = {layer: len(chosen) for layer, chosen in selection.experts.items()}
    asked = TuneSettings(**settings)
    num_bytes = None if limit is None else parse_bytes(limit)
    steps = (
        [("as asked", plan_tune(config, asked))] if num_bytes is None else fitting(config, asked, num_bytes)
    )
    last = steps[-1][1]
    seconds = None
    if tokens is not None:
        from coterie.recipes.step_time import step_seconds

        print("measuring one layer for about 5 seconds", file=sys.stderr)
        per_step = last.settings.row_length * last.settings.batch_rows * last.settings.accumulate
        seconds = step_seconds(config, last.settings) * tokens / per_step
    fits = num_bytes is None or last.peak <= num_bytes
    if as_json:
        plans = [{"change": words, **plan.to_dict()} for words, plan in steps]
        print(json.dumps({"limit_bytes": num_bytes, "fits": fits, "plans": plans, "seconds": seconds}))
    else:
        _print(steps, num_bytes, seconds, tokens)
    if not fits:
        raise SystemExit(1)


def _config(path: str) -> ModelConfig:
    """The config of a directory, a hub id or a published name."""
    from coterie.checkpoints.directory import locate, read_config
    from coterie.families import config_from_hf
    from coterie.plan.published import named_published

    if "/" not in path and not Path(path).exists():
        published = named_published(path)
        assert published.config is not None
        return config_from_hf(published.config, published.name)
    return read_config(locate(path, weights=False))


def _print(
    steps: list[tuple[str, TunePlan]], num_bytes: float | None, seconds: float | None, tokens: float | None
) -> None:
    last = steps[-1][1]
    print(f"settings     {last.settings.words()}")
    total, trained = last.parameters["total"], last.parameters["trained"]
    print(f"parameters   total {count(total)}, trained {count(trained)} ({trained / total:.2%})")
    print("held         " + ", ".join(f"{name} {size(value)}" for name, value in last.parts.items()))
    print("phases       " + ", ".join(f"{name} {size(value)}" for name, value in last.phases.items()))
    print(f"peak         {size(last.peak)}")
    if seconds is not None and tokens is not None:
        print(f"time         {duration(seconds)} for {count(tokens)} tokens")
    if num_bytes is None:
        return
    if len(steps) == 1:
        print(f"fits         in {size(num_bytes)} as asked")
        return
    for words, plan in steps:
        verdict = "fits" if plan.peak <= num_bytes else "does not fit"
        print(f"  {words:<32} {size(plan.peak)}, {verdict}")
    if last.peak <= num_bytes:
        print(f"fits         in {size(num_bytes)} with the settings above")
    else:
        print(f"             nothing here fits into {size(num_bytes)}; take a smaller model or more memory")


def parse_bytes(text: str) -> int:
    """`24GB`, `800 MB`, `1.5G` in bytes (decimal). Errors: `ConfigError`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?\s*", text, re.IGNORECASE)
    if match is None:
        raise ConfigError(f"--memory {text}: give a size such as 24GB or 800MB")
    return int(float(match[1]) * _UNITS[match[2].upper()])
