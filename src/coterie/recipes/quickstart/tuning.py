"""The quickstart's last chapter: its mixture of experts tuned on the starter conversations, merged, and asked
again.
"""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path
from typing import Any

from coterie.adapters.merge import merge_checkpoint
from coterie.config import CoterieError
from coterie.config.tune import TuneConfig
from coterie.infer.model import LanguageModel, load
from coterie.recipes.tune import run_tune

_log = logging.getLogger("coterie")

_EPOCHS_PER_MINUTE = 1.0
_MOST_EPOCHS = 8.0
_QUESTIONS = (
    "What is your name?",
    "What does a router do?",
    "What is the opposite of open?",
    "Who will win the match tomorrow?",
)


def tune_chapter(out: Path, minutes: float, seed: int, threads: int | None) -> dict[str, Any]:
    """Tune `out/moe/model` with LoRA on attention and experts, merge, compare; `TunedResults` of the
    report.
    """
    started = time.monotonic()
    base, folder, merged = out / "moe" / "model", out / "tuned", out / "tuned" / "merged"
    config = TuneConfig.from_dict(
        {
            "model": str(base),
            "data": ["starter"],
            "out": str(folder),
            "eval": 0.15,
            "epochs": min(_MOST_EPOCHS, _EPOCHS_PER_MINUTE * minutes),
            "seed": seed,
            "threads": threads,
        },
        "quickstart",
    )
    _log.info(f"tuning its experts: coterie tune {base} starter -o {folder}")
    result = run_tune(config, resume_hint="the same command")
    if result.path is None:
        raise CoterieError(f"{folder}: tuning was stopped; run the same command again to go on")
    shutil.rmtree(merged, ignore_errors=True)
    merge = merge_checkpoint(base, result.path, merged)
    _log.info(f"merged: {merged}")
    before, after = _answers(load(base)), _answers(load(merged))
    return {
        "path": str(merged),
        "trained": [
            {"group": entry["group"], "how": entry["treatment"], "trainable": entry["trainable"]}
            for entry in result.report["plan"]
            if entry["trainable"]
        ],
        "experts": _experts(result.report),
        "held_out": _change(result.report["held_out"]),
        "retention": _change(result.report["retention"]),
        "gravity": merge.gravity,
        "answers": [
            {"question": q, "before": b, "after": a}
            for q, b, a in zip(_QUESTIONS, before, after, strict=True)
        ],
        "seconds": time.monotonic() - started,
    }


def _answers(model: LanguageModel) -> list[str]:
    prompts = [[{"role": "user", "content": question}] for question in _QUESTIONS]
    return [reply.text for reply in model.generate_many(prompts, temperature=0, max_tokens=48)]


def _change(found: dict[str, Any]) -> dict[str, Any]:
    change = {name: found["change"][name] for name in ("value", "low", "high", "documents")}
    return {"before": found["before"], "after": found["after"], "change": change}


def _experts(report: dict[str, Any]) -> str:
    entry = next((entry for entry in report["coverage"] if entry["group"] == "experts"), None)
    return f"{entry['experts_reached']} of {entry['experts']}" if entry else "none"
