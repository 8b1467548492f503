"""Tuning: a `TuneConfig` wired into examples, model, loop and proof; run again, it goes on where it
stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from coterie.checkpoints.commit import remove_directory
from coterie.config import TrainingError
from coterie.config.methods import tuning_method
from coterie.config.tune import TuneConfig
from coterie.data.heldout import HeldoutDocument, retention_documents
from coterie.data.tuning_rows import TuneData, prepare_examples
from coterie.machine.device import choose_device, choose_dtype
from coterie.machine.processes import Processes
from coterie.proof.difference import difference
from coterie.recipes.run import Run, build_trainer, execute, open_run
from coterie.recipes.tune_measure import Measured, held_out_metrics, measure
from coterie.recipes.tune_model import (
    Tuned,
    prepare_model,
    probe,
    prove,
    read_trainable,
    reloader,
    save_result,
    write_trainable,
)
from coterie.recipes.tune_report import change, write_report
from coterie.report.tuning_page import tuning_lines
from coterie.results.tuning import TuningRecord
from coterie.train.callbacks import Callback, Evaluate
from coterie.train.coverage import Coverage, plan_lines, plan_table
from coterie.train.loop import Trainer
from coterie.train.objectives import objective_class
from coterie.train.preference import with_reference
from coterie.train.routing_guard import RouterGuard

_log = logging.getLogger("coterie")


@dataclass(frozen=True)
class TuneResult:
    """How a run ended. `path`: the adapter, patch or model (None for a run that was stopped, or a dry
    run).
    """

    path: Path | None
    kind: str
    reason: str
    steps: int
    tokens: int
    seconds: float
    report: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self) | {"path": str(self.path) if self.path else None}


def tune(model: str, data: str | Sequence[str], **settings: Any) -> TuneResult:
    """`coterie tune` from Python: the fields of `TuneConfig` by name. Errors: `CoterieError`, one line."""
    sources = [data] if isinstance(data, str) else list(data)
    return run_tune(TuneConfig.from_dict({"model": str(model), "data": sources} | settings, "tune"))


def run_tune(config: TuneConfig, resume_hint: str = "the same command", dry_run: bool = False) -> TuneResult:
    """Run (or take up) the tuning that `config` describes.

    Writes `config.out`: `config.yaml`, `metrics.jsonl`, `checkpoints/step-NNNNNN`, `report.json`, and the
    result as `adapter` (PEFT's form), `patch` or `model`, whichever the method makes. `dry_run`: says what
    would happen, and writes nothing. Errors: `CoterieError` subclasses, one line each; nothing is left that
    could be taken for a result.
    """
    if dry_run:
        return _plan_only(config)
    with open_run(config) as processes:
        tuned, data, trainer, coverage = _build(config, processes)
        documents = retention_documents(config.retention, tuned.tokenizer)
        before = measure(tuned, data, documents)
        plan = _say_plan(config, tuned, data)
        run = Run(
            trainer,
            write=lambda directory: write_trainable(directory, tuned.model),
            read=lambda directory: read_trainable(directory, tuned.model),
            callbacks=_watchers(config, tuned, data, trainer, coverage, before),
        )
        reason = execute(config, run, resume_hint)
        place = (trainer.step_count, trainer.tokens, trainer.seconds)
        if reason == "interrupted":
            return TuneResult(None, tuned.kind, reason, *place)
        coverage.require_frozen(tuned.model)
        report: dict[str, Any] = {
            "config": config.to_dict(),
            "data": data.summary(),
            "skipped": data.skipped,
            "plan": plan,
            "coverage": [asdict(entry) for entry in coverage.found or []],
            "ended": reason,
            "warnings": [
                line for c in trainer.callbacks if isinstance(c, RouterGuard) for line in c.warnings
            ],
        }
        return _finish(
            config, tuned, data, documents, before, report, TuneResult(None, tuned.kind, reason, *place)
        )


def _plan_only(config: TuneConfig) -> TuneResult:
    tuned, data, _, _ = _build(config, Processes())
    plan = _say_plan(config, tuned, data)
    return TuneResult(None, tuned.kind, "dry run", 0, 0, 0.0, {"plan": plan, "data": data.summary()})


def _build(config: TuneConfig, processes: Processes) -> tuple[Tuned, TuneData, Trainer, Coverage]:
    # An unknown name ends the run before a model is loaded.
    needs = None if config.objective == "auto" else objective_class(config.objective).examples
    device = processes.place(choose_device(config.device))
    tuned = prepare_model(config, choose_dtype(config.dtype, device), device)
    tuned.model.to(device)
    data = prepare_examples(config, tuned.tokenizer, tuned.model.config.max_positions, needs)
    objective = objective_class(data.objective).build(config)
    if "reference_logp" in objective.streams:
        _log.info("reference: log-probabilities of %d rows", len(data.rows))
        rows, held_out = (with_reference(tuned.model, some, device) for some in (data.rows, data.held_out))
        data = replace(data, rows=rows, held_out=held_out)
    trainer = build_trainer(
        tuned.model,
        data.rows,
        objective,
        config.optimiser.resolved(default_lr(config, sum(p.numel() for p in tuned.model.parameters()))),
        config.schedule,
        steps=data.steps,
        batch_rows=data.batch_rows,
        seed=config.seed,
        processes=processes,
        accumulate=config.accumulate,
        clip_norm=config.clip_norm,
        balance_prompts=config.balance_prompts,
        device=device,
    )
    return tuned, data, trainer, Coverage(tuned.asked)


def default_lr(config: TuneConfig, parameters: int) -> float:
    """The learning rate where none is given: smaller for larger models, for whole weights and for
    preferences.
    """
    size = 0 if parameters < 5e7 else 1 if parameters < 1e9 else 2
    lr = tuning_method(config.method).learning_rates[size]
    return lr * (1.0 if config.objective == "auto" else objective_class(config.objective).lr_factor)


def _say_plan(config: TuneConfig, tuned: Tuned, data: TuneData) -> list[dict[str, Any]]:
    ranks = dict.fromkeys(tuned.treatments, config.rank)
    adapter = tuned.model.adapter
    moe = next((block.ffn for block in tuned.model.config.blocks if block.ffn.kind == "moe"), None)
    if adapter is not None:
        ranks = dict.fromkeys(tuned.treatments, adapter.rank)
        if moe is not None:
            ranks["experts"] = adapter.expert_rank(moe.router.num_experts, moe.router.top_k)
    per_step = data.num_tokens * min(1.0, data.batch_rows * config.accumulate / len(data.rows))
    plan = plan_table(tuned.model, tuned.treatments, ranks, per_step)
    lines = [f"tune {config.model}: {config.method}, {data.objective}; {data.summary()}", *plan_lines(plan)]
    if adapter is not None and moe is not None and adapter.train["experts"] == "lora":
        lines.append(
            f"rank rule: {adapter.rank_rule} ({adapter.rank} asked, {ranks['experts']} for each expert)"
        )
    for line in lines:
        _log.info("%s", line)
    return [asdict(entry) for entry in plan]


def _watchers(
    config: TuneConfig,
    tuned: Tuned,
    data: TuneData,
    trainer: Trainer,
    coverage: Coverage,
    before: Measured,
) -> list[Callback]:
    """The check of gradients, the evaluation on held-out examples, and the guard on routing."""
    model = tuned.model
    guards: list[Callback] = []
    if model.config.is_moe and config.guard != "off":

        def agreement() -> float:
            shares = difference(probe(model, tuned.tokenizer), before.probes).routing.values()
            return sum(shares) / len(shares)

        def restore() -> None:
            read_trainable(Path(trainer.last_checkpoint or ""), model)

        num_experts = sum(router.config.num_experts for _, router in model.routers())
        guards = [RouterGuard(config.guard, num_experts, agreement, restore)]
    if not data.held_out:
        return [coverage, *guards]
    evaluate = Evaluate(config.eval_every, lambda _: held_out_metrics(model, data.held_out, trainer.device))
    return [coverage, evaluate, *guards]


def _finish(
    config: TuneConfig,
    tuned: Tuned,
    data: TuneData,
    documents: list[HeldoutDocument],
    before: Measured,
    report: dict[str, Any],
    result: TuneResult,
) -> TuneResult:
    """Judge, write, read back, compare; the report is written whatever comes of it."""
    out = Path(config.out)
    after = measure(tuned, data, documents)
    if after.examples:
        report["held_out"] = change(before.examples, after.examples)
        report["preferred"] = after.preferred
    if after.retention:
        report["retention"] = change(before.retention, after.retention)
    try:
        lost = report.get("retention", {}).get("change", {}).get("value", 0.0)
        if config.max_forgetting is not None and lost > config.max_forgetting:
            raise TrainingError(
                f"{config.retention}: {lost:+.3f} bits per byte after tuning, and max_forgetting is "
                f"{config.max_forgetting}; no result was written (report.json says more)"
            )
        path = save_result(tuned, out, {"metrics": {"steps": result.steps, "tokens": result.tokens}})
        reloaded = probe(reloader(config, tuned, path)(), tuned.tokenizer)
        report["proof"] = prove(before.probes, after.probes, reloaded, path)
    except Exception as error:
        report["failed"] = str(error)
        if (out / tuned.kind).exists():
            remove_directory(out / tuned.kind)
        raise
    else:
        report["path"] = str(path)
    finally:
        write_report(out, report, f"Tuning {config.model}")
    for line in tuning_lines(TuningRecord.from_dict(report)):
        _log.info("%s", line)
    return TuneResult(path, tuned.kind, result.reason, result.steps, result.tokens, result.seconds, report)
