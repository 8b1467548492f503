"""The parts of a tuning run: model, examples, objective, trainer, and what watches over the training."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coterie.adapters.trainable import Tuned, continued, prepare_model
from coterie.adapters.tuned import read_trainable
from coterie.config.effects import Facts
from coterie.config.tune import TuneConfig
from coterie.contamination.index import ContaminationIndex, Stage
from coterie.data.indexed import index_examples
from coterie.data.tuning_rows import TuneData, prepare_examples
from coterie.evaluate.tuning import held_out_metrics
from coterie.machine.device import choose_device, choose_dtype
from coterie.machine.processes import Processes
from coterie.proof.difference import difference
from coterie.proof.records import ProbeRecord, probe
from coterie.recipes.method_trainer import step_options
from coterie.recipes.run import build_trainer
from coterie.recipes.tune_facts import run_inputs, stated_settings
from coterie.results.tuning import GroupPlan
from coterie.train.callbacks import Callback, Evaluate
from coterie.train.coverage import Coverage, plan_lines, plan_table
from coterie.train.loop import Trainer
from coterie.train.objectives import default_lr, objective_class
from coterie.train.preference import with_reference
from coterie.train.routing_guard import RouterGuard
from coterie.train.running import RunningTraining

_log = logging.getLogger("coterie")


@dataclass(frozen=True)
class TuneRun:
    """The parts of one run.

    `stage`: what its index calls it. `coverage`: checks what gradients reach. `stated`: the settings with
    every choice made. `inputs`: what is read, in words -> a hash of its content.
    """

    config: TuneConfig
    tuned: Tuned
    data: TuneData
    trainer: Trainer
    coverage: Coverage
    stated: dict[str, Any]
    inputs: dict[str, str]
    stage: Stage = "tune"

    def index(self) -> ContaminationIndex:
        """What the examples that are trained on hold (`coterie.contamination`)."""
        return index_examples(self.data.examples, self.data.rows, self.tuned.tokenizer, self.stage)


def build_run(config: TuneConfig, processes: Processes, stage: Stage = "tune") -> TuneRun:
    """Load the model and the examples, and build the trainer, without callbacks.

    Errors: `ConfigError`, `DataError`, `CheckpointError`.
    """
    config = continued(config)
    # An unknown name ends the run before a model is loaded.
    needs = None if config.objective == "auto" else objective_class(config.objective).examples
    device = processes.place(choose_device(config.device))
    tuned = prepare_model(config, choose_dtype(config.dtype, device), device)
    model = tuned.model.to(device)
    data = prepare_examples(config, tuned.tokenizer, model.config.max_positions, needs)
    config.check_facts(Facts(moe=model.config.is_moe, objective=data.objective))
    objective = objective_class(data.objective).build(config)
    numbers = sum(parameter.numel() for parameter in model.parameters())
    optimiser = config.optimiser.resolved(default_lr(config.method, data.objective, numbers))
    if "reference_logp" in objective.streams:
        _log.info("reference: log-probabilities of %d rows", len(data.rows))
        rows, held_out = (with_reference(model, some) for some in (data.rows, data.held_out))
        data = replace(data, rows=rows, held_out=held_out)
    trainer = build_trainer(
        model,
        data.rows,
        objective,
        optimiser,
        config.schedule,
        steps=data.steps,
        batch_rows=data.batch_rows,
        processes=processes,
        recompute=config.recompute,
        device=device,
        **step_options(config),
    )
    stated = stated_settings(config, tuned, data, optimiser)
    inputs = run_inputs(config, tuned, data)
    return TuneRun(config, tuned, data, trainer, Coverage(tuned.asked), stated, inputs, stage)


def log_plan(run: TuneRun) -> list[GroupPlan]:
    """Log what the run will do to each group of parameters, and return it."""
    config, tuned, data = run.config, run.tuned, run.data
    ranks = tuned.ranks(config.rank)
    per_step = data.num_tokens * min(1.0, data.batch_rows * config.accumulate / len(data.rows))
    plan = plan_table(tuned.model, tuned.treatments, ranks, per_step)
    lines = [f"tune {config.model}: {config.method}, {data.objective}; {data.summary()}", *plan_lines(plan)]
    adapter = tuned.model.adapter
    if adapter is not None and tuned.model.config.is_moe and adapter.train["experts"] == "lora":
        lines.append(
            f"rank rule: {adapter.rank_rule} ({adapter.rank} asked, {ranks['experts']} for each expert)"
        )
    for line in lines:
        _log.info("%s", line)
    return plan


def watchers(run: TuneRun, before: ProbeRecord) -> list[Callback]:
    """The check of gradients, the evaluation on held-out examples, and the guard on routing.

    `before`: the answers before tuning, with which the guard compares the choice of experts.
    """
    model, config, trainer = run.tuned.model, run.config, run.trainer
    callbacks: list[Callback] = [run.coverage]
    if run.data.held_out:

        def evaluate(_: RunningTraining) -> dict[str, float]:
            return held_out_metrics(model, run.data.held_out, trainer.device)

        callbacks.append(Evaluate(config.eval_every, evaluate))
    if model.config.is_moe and config.guard != "off":

        def agreement() -> float:
            shares = difference(probe(model, run.tuned.tokenizer), before).routing.values()
            return sum(shares) / len(shares)

        def restore() -> None:
            read_trainable(Path(trainer.last_checkpoint or ""), model)

        num_experts = sum(router.config.num_experts for _, router in model.routers())
        callbacks.append(RouterGuard(config.guard, num_experts, agreement, restore))
    return callbacks
