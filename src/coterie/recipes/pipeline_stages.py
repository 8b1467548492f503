"""The recipes that a pipeline's stages may be: their settings, what they make, and how they run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.adapters.apply import is_variant
from coterie.config import Settings
from coterie.config.distill import DistillConfig
from coterie.config.errors import StoppedError
from coterie.config.files import write_text
from coterie.config.methods import tuning_method
from coterie.config.pipeline import RowsConfig
from coterie.config.pool import PoolConfig
from coterie.config.reinforce import ReinforceConfig
from coterie.config.reject import RejectConfig
from coterie.config.run import TrainConfig
from coterie.config.tune import TuneConfig
from coterie.recipes.distill import run_distill
from coterie.recipes.pool import make_pool
from coterie.recipes.pretrain import pretrain
from coterie.recipes.reinforce import run_reinforce
from coterie.recipes.reject import run_reject
from coterie.recipes.tune import run_tune
from coterie.tasks import load_task
from coterie.tasks.levels import read_levels
from coterie.tasks.rows import Steps, conversations, documents
from coterie.train.callbacks import STOPPED

HINT = "the same command"


@dataclass(frozen=True)
class StageCost:
    """What a stage took. `context`: tokens over which attention is counted."""

    trained: int = 0
    sampled: int = 0
    context: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class StageKind:
    """One recipe. `product`: where its result will be, known before it runs.

    `makes_model`: whether that is a model. `scaled`: settings that are budgets. `run`: does it, or goes on
    with it, and raises `StoppedError` where a signal stopped it.
    """

    settings: type[Settings]
    product: Callable[[Any], Path]
    run: Callable[[Any], StageCost]
    scaled: tuple[str, ...]
    makes_model: bool = True


def _trained_by_method(config: Any, folder: str = "") -> Path:
    """Where tuning and reinforcement write; an adapter that is trained further stays one."""
    model = Path(config.model)
    adapter = model.name == "adapter" or is_variant(model)
    kind = "adapter" if adapter else tuning_method(config.method).result
    return Path(config.out, folder, kind)


def _rows(config: RowsConfig) -> StageCost:
    family = load_task(config.task)
    levels = read_levels(config.levels, family.levels)
    if config.text:
        found: Any = ({"text": one} for one in documents(family, levels, config.count, config.seed))
    else:
        steps: Steps = "think" if config.steps == "think" else "text"
        found = conversations(
            family,
            levels,
            config.count,
            config.seed,
            worked_share=config.worked,
            steps=steps,
            instruction=config.instruction,
        )
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
    path = _rows_file(config)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return StageCost()


def _rows_file(config: RowsConfig) -> Path:
    return Path(config.out, "rows.jsonl")


def _pretrain(config: TrainConfig) -> StageCost:
    result = pretrain(config, HINT)
    _finished(result.reason)
    return StageCost(result.tokens, context=config.data.row_length, seconds=result.seconds)


def _tune(config: TuneConfig) -> StageCost:
    result = run_tune(config, HINT)
    _finished(result.reason)
    return StageCost(result.tokens, context=config.row_length or 256, seconds=result.seconds)


def _reinforce(config: ReinforceConfig) -> StageCost:
    result = run_reinforce(config, HINT)
    _finished(result.reason)
    record = result.record
    assert record is not None
    return StageCost(record.tokens_trained, record.tokens_sampled, 2 * config.max_tokens, record.seconds)


def _reject(config: RejectConfig) -> StageCost:
    record = run_reject(config, HINT).record
    return StageCost(record.tokens_trained, record.tokens_sampled, 2 * config.max_tokens, record.seconds)


def _pool(config: PoolConfig) -> StageCost:
    header = make_pool(config)
    return StageCost(sampled=header.tokens, context=2 * config.max_tokens)


def _distill(config: DistillConfig) -> StageCost:
    result = run_distill(config, HINT)
    _finished(result.reason)
    record = result.record
    assert record is not None
    return StageCost(record.tokens, context=config.row_length or 256, seconds=record.seconds)


def _finished(reason: str) -> None:
    if reason in STOPPED:
        raise StoppedError("the pipeline was stopped; the same command goes on", STOPPED[reason])


KINDS: Mapping[str, StageKind] = {
    "rows": StageKind(RowsConfig, _rows_file, _rows, ("count",), makes_model=False),
    "pool": StageKind(PoolConfig, lambda config: Path(config.out), _pool, ("problems",), makes_model=False),
    "pretrain": StageKind(
        TrainConfig, lambda config: Path(config.out, "model"), _pretrain, ("tokens", "steps")
    ),
    "tune": StageKind(TuneConfig, _trained_by_method, _tune, ("steps",)),
    "reinforce": StageKind(ReinforceConfig, _trained_by_method, _reinforce, ("steps",)),
    "distill": StageKind(
        DistillConfig, lambda config: Path(config.out, "model"), _distill, ("tokens", "steps")
    ),
    "reject": StageKind(
        RejectConfig,
        lambda config: _trained_by_method(config.tuning()),
        _reject,
        ("problems", "tune.steps"),
    ),
}
