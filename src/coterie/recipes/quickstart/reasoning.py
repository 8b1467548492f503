"""The quickstart's chapter on reasoning: a short cold start, then rewards, and held-out problems.

The cold start teaches the mixture of experts to work problems through, and then, on conversations that mostly
answer at once, not to: what is left for the rewards is to find out that working pays.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.config.errors import StoppedError, TrainingError
from coterie.config.files import write_text
from coterie.config.reinforce import ReinforceConfig
from coterie.config.tune import TuneConfig
from coterie.recipes.reinforce import run_reinforce
from coterie.recipes.tune import run_tune
from coterie.results.quickstart import ReasoningResults
from coterie.tasks import load_task
from coterie.tasks.rows import conversations
from coterie.train.callbacks import STOPPED, read_records

_log = logging.getLogger("coterie")

TASK, LEVEL = "parity", 5
_ROW_LENGTH, _BATCH_ROWS = 256, 4
_STEP_TOKENS = _ROW_LENGTH * _BATCH_ROWS
_HELD_OUT, _SHOWN = 57, 4  # as many as the split has
_LEAST_STEPS = 4


@dataclass(frozen=True)
class ColdStart:
    """One part of the cold start. `worked`: share of its replies that show their work.

    `time_share`: of the chapter's time. `most_steps`: enough for a small mixture.
    """

    name: str
    worked: float
    lr: float
    time_share: float
    most_steps: int
    examples: int


PARTS = (
    ColdStart("lessons", 1.0, 2e-3, 0.50, 600, 3000),
    ColdStart("habit", 0.2, 3e-4, 0.07, 60, 1000),
)
_REWARD_SHARE = 0.3  # of the chapter's time
_REWARD_TOKENS = 12_000  # whose training takes about as long as one step of learning from rewards
_MOST_REWARD_STEPS = 20
_REWARDS: Mapping[str, Any] = {
    "levels": str(LEVEL),
    "method": "full",
    "lr": 2e-4,
    "prompts": 16,
    "group": 8,
    "max_tokens": 32,
    "least_groups": 1,
    "eval_problems": _HELD_OUT,
    "eval_every": 0,
    "save_every": 0,
    "pass_at": {"problems": 0},
}


def reason_chapter(
    out: Path, seconds: float, tokens_per_second: float, seed: int, threads: int | None
) -> ReasoningResults:
    """Teach `out/moe/model` to work through parities and let rewards do the rest, in about `seconds`.

    `tokens_per_second`: the speed of its pretraining, by which steps are planned.
    Errors: `CoterieError` subclasses, one line each. A model without a signal to learn from is a result.
    """
    started = time.monotonic()
    model, folder = out / "moe" / "model", out / "reasoning"
    taught = 0
    for part in PARTS:
        steps = max(_LEAST_STEPS, int(part.time_share * seconds * tokens_per_second / _STEP_TOKENS))
        model, tokens = _taught(model, folder, part, min(part.most_steps, steps), seed, threads)
        taught += tokens
    steps = int(_REWARD_SHARE * seconds * tokens_per_second / _REWARD_TOKENS)
    settings = {"steps": min(_MOST_REWARD_STEPS, max(_LEAST_STEPS, steps)), "seed": seed, "threads": threads}
    rewarded = folder / "rewarded"
    config = ReinforceConfig.from_dict(
        {"model": str(model), "task": TASK, "out": str(rewarded)} | dict(_REWARDS) | settings, "quickstart"
    )
    _log.info(f"learning from rewards: coterie train reinforce {model} --task {TASK} -o {rewarded}")
    common = {"task": TASK, "says": load_task(TASK).says, "cold_start_tokens": taught}
    try:
        result = run_reinforce(config)
    except TrainingError as error:
        _log.warning("%s", error)
        return ReasoningResults(
            **common, path=str(model), refused=str(error), seconds=time.monotonic() - started
        )
    if result.path is None or result.record is None:
        raise StoppedError(
            f"{rewarded}: reinforcement was stopped; run the same command again to resume it",
            STOPPED[result.reason],
        )
    record = result.record
    return ReasoningResults(
        **common,
        path=str(result.path),
        steps=record.steps,
        change=record.change,
        mean_tokens=record.mean_tokens,
        curve=[r["right"] for r in read_records(rewarded / "metrics.jsonl") if r["kind"] == "rollout"],
        samples=record.samples[:_SHOWN],
        seconds=time.monotonic() - started,
    )


def _taught(
    model: Path, folder: Path, part: ColdStart, steps: int, seed: int, threads: int | None
) -> tuple[Path, int]:
    """The model after one part of the cold start, and the tokens that it read."""
    data = folder / f"{part.name}.jsonl"
    data.parent.mkdir(parents=True, exist_ok=True)
    rows = conversations(load_task(TASK), [LEVEL], part.examples, seed, worked_share=part.worked)
    write_text(data, "".join(json.dumps(row) + "\n" for row in rows))
    config = TuneConfig.from_dict(
        {
            "model": str(model),
            "data": [str(data)],
            "out": str(folder / part.name),
            "method": "full",
            "optimiser": {"lr": part.lr, "expert_lr": 2.0},
            "schedule": {"kind": "wsd", "decay_fraction": 0.25},
            "steps": steps,
            "batch_rows": _BATCH_ROWS,
            "row_length": _ROW_LENGTH,
            "eval": 0.0,
            "retention": "none",
            "seed": seed,
            "threads": threads,
        },
        "quickstart",
    )
    _log.info(f"cold start, {part.name}: coterie tune {model} {data} -o {config.out}")
    result = run_tune(config)
    if result.path is None:
        raise StoppedError(
            f"{config.out}: tuning was stopped; run the same command again to resume it",
            STOPPED[result.reason],
        )
    return result.path, result.tokens
