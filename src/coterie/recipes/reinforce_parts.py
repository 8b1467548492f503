"""The parts of a reinforcement run: model, sampler, source of rows, trainer, held-out problems."""

from __future__ import annotations

import copy
import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from coterie.adapters.trainable import Tuned, continued, prepare_model
from coterie.adapters.tuned import read_trainable, write_trainable
from coterie.checkpoints.fingerprint import weights_fingerprint
from coterie.config.effects import Facts
from coterie.config.errors import TrainingError
from coterie.config.files import file_sha256
from coterie.config.reinforce import ReinforceConfig
from coterie.config.temporaries import remove_tree
from coterie.machine.device import choose_device, choose_dtype
from coterie.machine.facts import versions
from coterie.machine.processes import Processes
from coterie.nn.transformer import Transformer
from coterie.plan.counts import count_parameters
from coterie.recipes.method_trainer import method_shell, method_trainer, stated_method
from coterie.recipes.reinforce_measure import measure, pass_at_change
from coterie.recipes.run import Run
from coterie.reinforce.collapse import COLLAPSED, CollapseGuard
from coterie.reinforce.readiness import readiness
from coterie.reinforce.rollouts import Sampler
from coterie.reinforce.source import RolloutSource
from coterie.results.accuracy import Accuracy, AccuracyChange, accuracy, accuracy_change
from coterie.results.reinforce import (
    HeldOutMeasured,
    HeldOutReply,
    PolicySize,
    Readiness,
    ReinforceRecord,
    ReinforceStart,
    choose_samples,
)
from coterie.tasks.problem import EXTRA, TaskFamily, TaskProblem
from coterie.train.callbacks import Evaluate, read_records
from coterie.train.keep_best import KeepBest
from coterie.train.loop import Trainer
from coterie.train.policy_gradient import PolicyGradient
from coterie.train.running import RunningTraining

_log = logging.getLogger("coterie")
_GATE_PROBLEMS, _GATE_GROUP = 64, 8
_WRONG = "val_wrong"  # the share by which the best evaluation is found


@dataclass
class ReinforceParts:
    """The parts of one run."""

    config: ReinforceConfig
    family: TaskFamily
    levels: Sequence[int]
    tuned: Tuned
    sampler: Sampler
    source: RolloutSource
    trainer: Trainer
    stated: dict[str, Any]
    inputs: dict[str, str]
    watched: list[TaskProblem]
    held_out: list[TaskProblem]
    beyond: list[TaskProblem]
    best: KeepBest
    guards: list[CollapseGuard]

    @classmethod
    def build(
        cls, config: ReinforceConfig, family: TaskFamily, levels: Sequence[int], processes: Processes
    ) -> ReinforceParts:
        """Load the model and put the run together. Errors: `CoterieError` subclasses."""
        if processes.world > 1:
            raise TrainingError("reinforcement runs in one process; start it without torchrun")
        config = continued(config)
        device = choose_device(config.device)
        tuned = prepare_model(config, choose_dtype(config.dtype, device), device)
        model = tuned.model.to(device)
        sampler = Sampler(
            model,
            tuned.tokenizer,
            family,
            config.max_tokens,
            config.instruction,
            config.reward_weights,
            config.max_turns,
            config.max_context,
        )
        facts = Facts(moe=model.config.is_moe, tools=sampler.has_tools)
        config.check_facts(facts)
        reference = copy.deepcopy(model).eval() if config.policy.kl_weight > 0 else None
        objective = PolicyGradient(config.policy, config.max_tokens)
        source = RolloutSource(config, sampler, levels, Path(config.out, "rollouts"), reference, objective)
        trainer = method_trainer(
            config,
            tuned,
            source.batches,
            objective,
            name="reinforce",
            steps=config.steps,
            strength=lambda: source.strength,
            share_prompts=source.shares_prompts,
        )
        stated = stated_method(config, trainer, tuned, facts)
        count = config.eval_problems
        return cls(
            config,
            family,
            levels,
            tuned,
            sampler,
            source,
            trainer,
            stated,
            _inputs(tuned, family) | _pool_input(config),
            list(family.problems(levels, count, "val", config.seed, fewer=True)),
            list(family.problems(levels, count, "test", config.seed, fewer=True)),
            list(family.problems([EXTRA], count, "test", config.seed)) if EXTRA in family.levels else [],
            *_watchers(config, model),
        )

    def ready(self) -> Readiness:
        """What the model does with the task now. Errors: `TrainingError` where there is nothing to learn."""
        seed = self.config.seed + 1
        problems = [
            self.source.problem(self.levels[at % len(self.levels)], at, seed) for at in range(_GATE_PROBLEMS)
        ]
        found = readiness(self.sampler.groups(problems, _GATE_GROUP, (self.config.seed, -1)))
        _log.info("%s", found.words())
        reason, warning = found.reason_against(), found.warning()
        if reason is not None and self.config.gate:
            raise TrainingError(f"task {self.family.name}: {reason} (gate=false trains nevertheless)")
        for line in filter(None, (reason, warning)):
            _log.warning("task %s: %s", self.family.name, line)
        return found

    def measured(self) -> HeldOutMeasured:
        """What the model does now on problems that it is not trained on."""
        config = self.config
        return measure(self.sampler, self.held_out, self.beyond, config.pass_at, config.seed)

    def watch(self) -> Accuracy:
        """Accuracy now on the problems that are answered again and again."""
        return accuracy([group.num_right > 0 for group in self.sampler.greedy(self.watched)])

    def start(self) -> ReinforceStart:
        """What is known before the first step, as `start.json` holds it.

        Errors: `TrainingError` where there is nothing to learn.
        """
        model = self.tuned.model
        counts = count_parameters(model.config)
        return ReinforceStart(
            config=self.stated,
            inputs=self.inputs,
            task=self.family.name,
            task_version=self.family.version,
            size=PolicySize(
                moe=model.config.is_moe,
                parameters=counts.total,
                active=counts.active_core,
                trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
            ),
            readiness=self.ready(),
            watched=self.watch(),
            measured=self.measured(),
            versions=versions(),
        )

    def shell(self) -> Run:
        """What the run shell needs."""

        def evaluate(_: RunningTraining) -> dict[str, float]:
            found = self.watch()
            _log.info(
                "held out: %.1f %% right (%.1f to %.1f)",
                *(100 * v for v in (found.value, found.low, found.high)),
            )
            share, low, high = found.value, found.low, found.high
            return {"val_right": share, "val_low": low, "val_high": high, _WRONG: 1 - share}

        callbacks = [self.source, *self.guards, Evaluate(self.config.eval_every, evaluate), self.best]
        return method_shell(self.trainer, self.tuned, callbacks, self.inputs, self.stated)

    def settle(self, reason: str) -> list[str]:
        """After a collapse, take the weights of the best evaluation; returns what to warn of."""
        warnings = [line for guard in self.guards for line in guard.alarms[:1]]
        if reason == COLLAPSED:
            last = self.trainer.step_count
            step = self.best.restore(self.trainer)
            why = "the best held-out accuracy" if step < last else "no evaluation before it was better"
            warnings.append(f"the run collapsed; its result has the weights of step {step}: {why}")
            _log.warning("%s", warnings[-1])
        elif self.trainer.processes.is_main and self.best.directory.is_dir():
            remove_tree(self.best.directory)
        return warnings

    def record(
        self, start: ReinforceStart, after: HeldOutMeasured, reason: str, warnings: list[str]
    ) -> ReinforceRecord:
        """What the run did, without its proof."""
        before, trainer = start.measured, self.trainer
        rollouts = [
            record
            for record in read_records(Path(self.config.out, "metrics.jsonl"))
            if record["kind"] == "rollout"
        ]
        return ReinforceRecord(
            **{
                name: getattr(start, name) for name in ("config", "task", "task_version", "size", "readiness")
            },
            change=_change(before.held_out, after.held_out),
            beyond=_change(before.beyond, after.beyond) if self.beyond else None,
            pass_at=pass_at_change(before.pass_at, after.pass_at),
            mean_tokens=(before.mean_tokens, after.mean_tokens),
            answered={
                then.problem: (then.right, now.right)
                for then, now in zip(before.held_out, after.held_out, strict=True)
            },
            samples=choose_samples(before, after),
            experts={
                layer: (before.experts[layer], after.experts[layer])
                for layer in sorted(before.experts.keys() & after.experts.keys())
            },
            ended=reason,
            warnings=warnings,
            steps=trainer.step_count,
            tokens_sampled=self.source.tokens_sampled,
            tokens_trained=trainer.tokens,
            sampling_flops=math.fsum(record["sampling_flops"] for record in rollouts),
            training_flops=math.fsum(record["training_flops"] for record in rollouts),
            seconds=trainer.seconds,
            versions=versions(),
        )


def _watchers(config: ReinforceConfig, model: Transformer) -> tuple[KeepBest, list[CollapseGuard]]:
    best = KeepBest(
        Path(config.out, "best"),
        _WRONG,
        lambda directory: write_trainable(directory, model),
        lambda directory: read_trainable(directory, model),
    )
    if config.guard == "off":
        return best, []
    return best, [CollapseGuard(config.guard, model.compute_dtype == torch.float32)]


def _inputs(tuned: Tuned, family: TaskFamily) -> dict[str, str]:
    return {
        "tokenizer": tuned.tokenizer.sha256,
        "chat template": hashlib.sha256((tuned.tokenizer.chat_template or "").encode()).hexdigest(),
        "base (the weights of the model)": weights_fingerprint(tuned.base),
        f"task {family.name}": str(family.version),
    }


def _pool_input(config: ReinforceConfig) -> dict[str, str]:
    return {} if config.pool is None else {"pool of problems": file_sha256(Path(config.pool))}


def _change(before: Sequence[HeldOutReply], after: Sequence[HeldOutReply]) -> AccuracyChange:
    return accuracy_change([reply.right for reply in before], [reply.right for reply in after])
