"""What a quickstart was asked for and has decided, and how it resumes a stopped run."""

from __future__ import annotations

import logging
import math
import shutil
from pathlib import Path
from typing import Any

from coterie.config import ConfigError, Settings, TrainingError
from coterie.config.files import read_json
from coterie.recipes.quickstart.lr_sweep import Sweep

_log = logging.getLogger("coterie")

TWINS = ("moe", "dense")
ROW_LENGTH = 256
BATCH_ROWS = 8
MIN_STEPS = 10


class Plan(Settings):
    """What was asked for and decided; kept as `plan.json`, so that a stopped run resumes with the same.

    `start`: a dense model to start from instead of fresh twins. `tokens`: to train each twin on.
    `seconds_before`: spent on preparing text and on the sweeps.
    """

    minutes: float
    data: str | None
    seed: int
    threads: int | None
    start: str | None = None
    sweeps: dict[str, Sweep] | None = None
    tokens: int | None = None
    seconds_before: float = 0.0

    def asked(self) -> dict[str, Any]:
        """The part that a user gives."""
        return {name: getattr(self, name) for name in ("minutes", "data", "seed", "threads", "start")}


def take_up(plan: Plan, out: Path) -> Plan:
    """The plan to follow in `out`: that of a stopped run with the same settings, else `plan`.

    A finished run in `out` is removed, except for its prepared text.
    Errors: `ConfigError` when `out` holds a stopped run with other settings, or models of unknown origin.
    """
    path = out / "plan.json"
    if not path.is_file():
        if any((out / name).exists() for name in TWINS):
            raise ConfigError(
                f"{out}: holds trained models but no plan.json; choose another --out, or remove it"
            )
        return plan
    before = Plan.from_dict(read_json(path), str(path))
    if (out / "results.json").is_file():
        _log.info(f"{out} holds a finished run; starting anew with the text that it prepared")
        for name in (*TWINS, "tuned", "reasoning", "upcycled", "evidence", "release"):
            shutil.rmtree(out / name, ignore_errors=True)
        for file in ("results.json", "report.html", "plan.json"):
            (out / file).unlink(missing_ok=True)
        return plan
    if before.asked() != plan.asked():
        raise ConfigError(
            f"{out}: holds a stopped run with other settings; choose another --out, or remove it"
        )
    _log.info(f"resuming the run in {out}")
    return before


def check_budget(tokens: int, step_tokens: int, plan: Plan, per_minute: float) -> None:
    """Refuse too short a training. `per_minute`: tokens that each further minute trains on.

    Errors: `TrainingError` when `tokens` are fewer than ten steps take.
    """
    missing = MIN_STEPS * step_tokens - tokens
    if missing > 0:
        raise TrainingError(
            f"only {max(tokens, 0):,} tokens fit into what is left of {plan.minutes:g} minutes, and "
            f"{MIN_STEPS} steps take {MIN_STEPS * step_tokens:,}; give about "
            f"--minutes {math.ceil(plan.minutes + missing / per_minute)}"
        )
