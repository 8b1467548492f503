"""The quickstart's chapter on tuning: its mixture of experts on conversations, merged, and asked."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path

from coterie.adapters.merge import merge_checkpoint
from coterie.config.errors import StoppedError
from coterie.config.tune import TuneConfig
from coterie.infer.model import LanguageModel, load
from coterie.recipes.tune import run_tune
from coterie.results.intervals import Interval, Score
from coterie.results.quickstart import AnswerPair, Change, Trained, TunedResults
from coterie.results.tuning import TuningChange, TuningRecord
from coterie.train.callbacks import STOPPED

_log = logging.getLogger("coterie")

_EPOCHS_PER_MINUTE = 1.0
_MOST_EPOCHS = 8.0
_QUESTIONS = (
    "What is your name?",
    "What does a router do?",
    "What is the opposite of open?",
    "Who will win the match tomorrow?",
)


def tune_chapter(out: Path, minutes: float, seed: int, threads: int | None) -> TunedResults:
    """Tune `out/moe/model` with LoRA on attention and experts, merge, and compare.

    Errors: `CoterieError` subclasses, one line each.
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
    result = run_tune(config)
    if result.path is None or result.report is None:
        raise StoppedError(
            f"{folder}: tuning was stopped; run the same command again to resume it", STOPPED[result.reason]
        )
    shutil.rmtree(merged, ignore_errors=True)
    merge = merge_checkpoint(base, result.path, merged)
    _log.info(f"merged: {merged}")
    answers = zip(_QUESTIONS, _answers(load(base)), _answers(load(merged)), strict=True)
    return TunedResults(
        path=str(merged),
        trained=[
            Trained(group=entry.group, how=entry.treatment, trainable=entry.trainable)
            for entry in result.report.plan
            if entry.trainable
        ],
        experts=_experts(result.report),
        held_out=_change(result.report.held_out),
        retention=_change(result.report.retention),
        gravity=merge.gravity,
        answers=[AnswerPair(question=q, before=before, after=after) for q, before, after in answers],
        seconds=time.monotonic() - started,
    )


def _answers(model: LanguageModel) -> list[str]:
    prompts = [[{"role": "user", "content": question}] for question in _QUESTIONS]
    return [reply.text for reply in model.generate_many(prompts, temperature=0, max_tokens=48)]


def _change(found: TuningChange | None) -> Change:
    """The change without its parts by kind of text."""
    assert found is not None  # the settings above ask for both measurements
    moved = found.change
    assert isinstance(moved, Score)  # of the shipped conversations, more than enough are held out
    whole = Interval(value=moved.value, low=moved.low, high=moved.high, documents=moved.documents)
    return Change(before=found.before, after=found.after, change=whole)


def _experts(report: TuningRecord) -> str:
    entry = next((entry for entry in report.coverage if entry.group == "experts"), None)
    return f"{entry.experts_reached} of {entry.experts}" if entry else "none"
