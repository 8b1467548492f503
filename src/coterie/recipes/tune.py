"""Tuning: a `TuneConfig` wired into examples, model, loop and proof; run again, it goes on where it
stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from coterie.checkpoints.commit import RunLock, remove_directory
from coterie.config import TrainingError
from coterie.config.run import OptimiserConfig, ScheduleConfig
from coterie.config.tune import TuneConfig
from coterie.data.heldout import HeldoutDocument, retention_documents
from coterie.data.order import Order, read_batches
from coterie.data.rows import Row
from coterie.data.tuning_rows import TuneData, prepare_examples
from coterie.evaluate.bits import DocumentScore, score_documents
from coterie.machine.device import choose_device, choose_dtype
from coterie.machine.glibc import keep_freed_memory
from coterie.nn.logprobs import token_logprobs
from coterie.nn.transformer import Transformer
from coterie.plan.counts import flops_per_token
from coterie.proof.difference import difference
from coterie.proof.records import ProbeRecord
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
from coterie.train.batch import collate
from coterie.train.callbacks import Callback, Evaluate, Interrupts, JsonlLog, Progress
from coterie.train.coverage import Coverage, plan_lines, plan_table
from coterie.train.loop import Trainer
from coterie.train.objectives import objective_class
from coterie.train.optim import build_optimiser
from coterie.train.preference import right_preferences, side_masks, with_reference
from coterie.train.routing_guard import RouterGuard
from coterie.train.run_directory import check_same_run
from coterie.train.saving import SaveCheckpoint, resume
from coterie.train.schedule import multiplier


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


@dataclass(frozen=True)
class _Measured:
    """What the model does: before it is trained, and after. `preferred`: share of pairs, see
    `held_out_metrics`.
    """

    probes: ProbeRecord
    examples: list[DocumentScore]
    retention: list[DocumentScore]
    preferred: float | None


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
    out = Path(config.out)
    with RunLock(out):
        check_same_run(config, out / "config.yaml")
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        keep_freed_memory()
        tuned, data, trainer, coverage = _build(config)
        documents = retention_documents(config.retention, tuned.tokenizer)
        before = _measure(tuned, data, documents)
        plan = _say_plan(config, tuned, data)
        trainer.callbacks = _callbacks(config, tuned, data, trainer, coverage, before, resume_hint)
        path = resume(trainer, out / "checkpoints", lambda directory: read_trainable(directory, tuned.model))
        if path is not None:
            print(f"going on from {path}", file=sys.stderr)
        config.to_yaml(out / "config.yaml")
        reason = trainer.run()
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
    tuned, data, _, _ = _build(config)
    plan = _say_plan(config, tuned, data)
    return TuneResult(None, tuned.kind, "dry run", 0, 0, 0.0, {"plan": plan, "data": data.summary()})


def _build(config: TuneConfig) -> tuple[Tuned, TuneData, Trainer, Coverage]:
    # An unknown name ends the run before a model is loaded.
    needs = None if config.objective == "auto" else objective_class(config.objective).examples
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, device)
    tuned = prepare_model(config, dtype, device)
    tuned.model.to(device)
    data = prepare_examples(config, tuned.tokenizer, tuned.model.config.max_positions, needs)
    objective = objective_class(data.objective).build(config)
    rows = data.rows
    if "reference_logp" in objective.streams:
        print(f"reference: log-probabilities of {len(rows)} rows", file=sys.stderr)
        rows = with_reference(tuned.model, rows, device)
        held_out = with_reference(tuned.model, data.held_out, device) if data.held_out else []
        data = replace(data, rows=rows, held_out=held_out)
    lr = config.lr or default_lr(config, sum(p.numel() for p in tuned.model.parameters()))
    optimiser = OptimiserConfig(lr=lr, betas=(0.9, 0.99), weight_decay=config.weight_decay)
    schedule = ScheduleConfig(kind="cosine", warmup_fraction=config.warmup, final_ratio=0.1)
    order = Order(len(rows), config.seed)
    trainer = Trainer(
        tuned.model,
        lambda start: read_batches(rows, order, start, data.batch_rows),
        objective,
        build_optimiser(tuned.model, optimiser),
        lambda step: multiplier(step, data.steps, schedule),
        steps=data.steps,
        lr=lr,
        accumulate=config.accumulate,
        clip_norm=config.clip_norm,
        balance_prompts=config.balance_prompts,
        seed=config.seed,
        flops_per_token=flops_per_token(tuned.model.config, data.row_length, training=True),
        device=device,
    )
    return tuned, data, trainer, Coverage(tuned.asked)


def default_lr(config: TuneConfig, parameters: int) -> float:
    """The learning rate where none is given: smaller for larger models, for whole weights and for
    preferences.
    """
    size = 0 if parameters < 5e7 else 1 if parameters < 1e9 else 2
    whole = config.method in ("full", "esft", "router")
    lr = (5e-4, 5e-5, 1e-5)[size] if whole else (3e-3, 5e-4, 2e-4)[size]
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
    print("\n".join(lines), file=sys.stderr)
    return [asdict(entry) for entry in plan]


def _callbacks(
    config: TuneConfig,
    tuned: Tuned,
    data: TuneData,
    trainer: Trainer,
    coverage: Coverage,
    before: _Measured,
    resume_hint: str,
) -> list[Callback]:
    out, model = Path(config.out), tuned.model
    checkpoints = SaveCheckpoint(
        out / "checkpoints",
        lambda directory: write_trainable(directory, model),
        config.save_every,
        config.keep,
    )
    guards: list[Callback] = []
    if model.config.is_moe and config.guard != "off":

        def agreement() -> float:
            shares = difference(probe(model, tuned.tokenizer), before.probes).routing.values()
            return sum(shares) / len(shares)

        def restore() -> None:
            read_trainable(Path(trainer.last_checkpoint or ""), model)

        num_experts = sum(router.config.num_experts for _, router in model.routers())
        guards = [RouterGuard(config.guard, num_experts, agreement, restore)]
    judge: list[Callback] = []
    if data.held_out:
        judge = [
            Evaluate(config.eval_every, lambda _: held_out_metrics(model, data.held_out, trainer.device))
        ]
    return [
        coverage,
        *judge,
        *guards,
        checkpoints,
        JsonlLog(out / "metrics.jsonl", config.log_every),
        Progress(out.name),
        Interrupts(resume_hint),
    ]


@torch.no_grad()
def unit_scores(
    model: Transformer, rows: Sequence[Row], device: torch.device | str, wanted: bool = False
) -> list[DocumentScore]:
    """Nats and learnt tokens of each segment of the rows, in their order.

    `wanted`: only of what is to become likelier (of preferences the chosen side, of labels the wanted
    continuations).
    """
    scores = []
    for row in rows:
        batch = collate([row], device)
        logp_T = token_logprobs(model(batch.ids_T, batch.context), model.head_weight, batch.targets_T)
        weights_T = batch.weights_T
        if wanted and "pair" in batch.streams:
            own_T, _ = side_masks(batch)
            weights_T = weights_T * own_T
            if "label" in batch.streams:
                weights_T = weights_T * (batch.streams["label"] > 0)
        lengths = batch.context.lengths
        sums = [float(part.sum()) for part in (logp_T * weights_T).split(lengths)]
        counts = [round(float(part.sum())) for part in weights_T.split(lengths)]
        scores += [
            DocumentScore("examples", -total, count, count)
            for total, count in zip(sums, counts, strict=True)
            if count
        ]
    return scores


@torch.no_grad()
def held_out_metrics(model: Transformer, rows: Sequence[Row], device: torch.device | str) -> dict[str, float]:
    """`held_out_loss` (nats per learnt token), and with a reference `held_out_preferred`.

    `held_out_preferred`: the share of pairs that the model ranks rightly (`right_preferences`).
    """
    scores = unit_scores(model, rows, device)
    metrics = {"held_out_loss": sum(s.nats for s in scores) / max(1, sum(s.num_tokens for s in scores))}
    if rows and "reference_logp" in rows[0].streams:
        right, pairs = 0, 0
        for row in rows:
            batch = collate([row], device)
            logp_T = token_logprobs(model(batch.ids_T, batch.context), model.head_weight, batch.targets_T)
            found = right_preferences(logp_T, batch)
            right, pairs = right + found[0], pairs + found[1]
        metrics["held_out_preferred"] = right / pairs
    return metrics


def _measure(tuned: Tuned, data: TuneData, documents: list[HeldoutDocument]) -> _Measured:
    """The three measurements, on the model as it stands."""
    model, device = tuned.model, tuned.model.embed.weight.device
    training = model.training
    model.eval()
    longest = min(1024, model.config.max_positions)
    retention = score_documents(model, documents, tuned.tokenizer.eos_id, longest) if documents else []
    preferred = held_out_metrics(model, data.held_out, device).get("held_out_preferred")
    examples = unit_scores(model, data.held_out, device, wanted=True)
    result = _Measured(probe(model, tuned.tokenizer), examples, retention, preferred)
    model.train(training)
    return result


def _finish(
    config: TuneConfig,
    tuned: Tuned,
    data: TuneData,
    documents: list[HeldoutDocument],
    before: _Measured,
    report: dict[str, Any],
    result: TuneResult,
) -> TuneResult:
    """Judge, write, read back, compare; the report is written whatever comes of it."""
    out = Path(config.out)
    after = _measure(tuned, data, documents)
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
    print("\n".join(tuning_lines(TuningRecord.from_dict(report))), file=sys.stderr)
    return TuneResult(path, tuned.kind, result.reason, result.steps, result.tokens, result.seconds, report)
