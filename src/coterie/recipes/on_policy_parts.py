"""The parts of a distillation on policy: teacher, prompts, and the arms that learn, student and control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from coterie.adapters.trainable import Tuned, prepare_model
from coterie.config.effects import Facts
from coterie.config.errors import ConfigError
from coterie.config.on_policy import OnPolicyConfig
from coterie.config.tune import TuneConfig
from coterie.data.tuning_rows import prepare_examples
from coterie.evaluate.bits import DocumentScore
from coterie.machine.device import choose_device, choose_dtype
from coterie.recipes.distill_teacher import LocalTeacher, require_same_ids
from coterie.recipes.method_trainer import method_shell, method_trainer, stated_method
from coterie.recipes.run import Run
from coterie.recipes.tune_facts import base_inputs
from coterie.reinforce.on_policy import ReplySource, Writer, reply_row
from coterie.reinforce.prompts import Prompts, example_prompts, task_prompts
from coterie.reinforce.rollouts import Sampler
from coterie.tasks import load_task
from coterie.tasks.check import require_passed
from coterie.tasks.levels import read_levels
from coterie.tasks.problem import TaskFamily, TaskProblem
from coterie.text.tokenizer import Tokenizer
from coterie.train.callbacks import Evaluate
from coterie.train.distil import Distillation
from coterie.train.loop import Trainer
from coterie.train.objective import CrossEntropy, Objective
from coterie.train.on_policy import TeacherReward, reply_divergences
from coterie.train.running import RunningTraining

REPLIES = "replies"
SHOWN = 4
"""Held-out prompts whose replies the record shows."""


@dataclass(frozen=True)
class HeldOutReplies:
    """A model on held-out prompts: distances of its replies, whether greedy ones are right, some of those."""

    scores: list[DocumentScore]
    right: list[bool]
    shown: list[str]


@dataclass(frozen=True)
class Arm:
    """A student with what trains it. `stated`: its settings with every choice made."""

    tuned: Tuned
    writer: Writer
    source: ReplySource
    trainer: Trainer
    stated: dict[str, Any]


@dataclass(frozen=True)
class Lesson:
    """What both arms share. `problems`: held out, of a task. `cap`: of the student's scores."""

    config: OnPolicyConfig
    device: torch.device
    teacher: LocalTeacher
    family: TaskFamily | None
    problems: Sequence[TaskProblem]
    prompts: Prompts
    cap: float | None

    @classmethod
    def build(cls, config: OnPolicyConfig, student: Tuned) -> Lesson:
        """Load the teacher and find prompts. Errors: `CoterieError` subclasses."""
        device = choose_device(config.device)
        teacher = LocalTeacher.load(config.teacher, config.dtype, device)
        names = f"student {config.model}", f"teacher {config.teacher}"
        require_same_ids(student.tokenizer, teacher.tokenizer, names)
        scored, written = (model.config.vocab_size for model in (teacher.model, student.model))
        if scored < written and config.loss == "policy":
            raise ConfigError(
                f"loss=policy: the teacher judges {scored:,} tokens and the student can write {written:,}; "
                "use loss=divergence"
            )
        cap = student.model.logit_cap
        longest = min(student.model.config.max_positions, teacher.max_positions) - config.max_tokens
        if config.task is None:
            return cls(
                config, device, teacher, None, [], _of_examples(config, student.tokenizer, longest), cap
            )
        family = load_task(config.task)
        levels = read_levels(config.levels, family.levels)
        require_passed(family)
        problems = list(family.problems(levels, config.eval_prompts, "test", config.seed, fewer=True))
        sampler = Sampler(student.model, student.tokenizer, family, config.max_tokens, config.instruction)
        prompts = task_prompts(family, levels, config.seed, problems, sampler.prompt_ids)
        return cls(config, device, teacher, family, problems, prompts, cap)

    @property
    def meter(self) -> Distillation:
        """Measures KL(student || teacher)."""
        return self.divergence(1.0)

    def divergence(self, beta: float) -> Distillation:
        """The loss that compares whole distributions."""
        return Distillation(self.teacher.model, self.cap, beta=beta)

    def arm(self, tuned: Tuned, out: str, budgets: Sequence[int] | None = None) -> Arm:
        """A student that learns. `budgets`: tokens of each step that the control learns of the teacher's."""
        config = self.config
        writer = Writer(tuned.model, tuned.tokenizer, config.max_tokens)
        source = ReplySource(
            config,
            self.prompts,
            writer,
            Writer(self.teacher.model, tuned.tokenizer, config.max_tokens),
            own=config.own if budgets is None else 0.0,
            folder=Path(out, REPLIES),
            budgets=budgets,
        )
        objective = self._objective() if budgets is None else CrossEntropy()
        trainer = method_trainer(config, tuned, source.batches, objective, name="distil", steps=config.steps)
        stated = stated_method(config, trainer, tuned) | {"out": out}
        return Arm(tuned, writer, source, trainer, stated)

    def _objective(self) -> Objective:
        config = self.config
        if config.loss == "policy":
            return TeacherReward(self.teacher.model, config.max_tokens)
        return self.divergence(config.beta)

    def shell(self, arm: Arm) -> Run:
        """What the run shell needs of an arm."""

        def evaluate(_: RunningTraining) -> dict[str, float]:
            found = self._distances(arm.writer)
            return {"reverse_kl": sum(found) / len(found)}

        callbacks = [arm.source, Evaluate(self.config.eval_every, evaluate)]
        inputs = base_inputs(arm.tuned) | {
            "teacher": self.teacher.identity,
            "set of prompts": self.prompts.digest,
        }
        return method_shell(arm.trainer, arm.tuned, callbacks, inputs, arm.stated)

    def measure(self, writer: Writer) -> HeldOutReplies:
        """The model of `writer` on the held-out prompts."""
        distances = self._distances(writer)
        right: list[bool] = []
        if self.family is not None:
            config = self.config
            sampler = Sampler(
                writer.model, writer.tokenizer, self.family, config.max_tokens, config.instruction
            )
            right = [group.num_right > 0 for group in sampler.greedy(self.problems)]
        shown = writer.replies(self.prompts.held_out[:SHOWN], (self.config.seed, -3), greedy=True)
        # One unit each, so that every prompt counts alike.
        scores = [DocumentScore("prompts", distance, 1, 1) for distance in distances]
        return HeldOutReplies(scores, right, [reply.text for reply in shown])

    def _distances(self, writer: Writer) -> list[float]:
        held_out = self.prompts.held_out[: self.config.eval_prompts]
        replies = writer.replies(held_out, (self.config.seed, -2))
        rows = [reply_row(prompt, reply) for prompt, reply in zip(held_out, replies, strict=True)]
        return reply_divergences(writer.model, self.meter, rows)


def load_student(config: OnPolicyConfig) -> Tuned:
    """A student at the start, with what is to be trained of it. Errors: `CoterieError` subclasses."""
    device = choose_device(config.device)
    tuned = prepare_model(config, choose_dtype(config.dtype, device), device)
    tuned.model.to(device)
    config.check_facts(Facts(moe=tuned.model.config.is_moe))
    return tuned


def _of_examples(config: OnPolicyConfig, tokenizer: Tokenizer, longest: int) -> Prompts:
    settings = TuneConfig.from_dict(
        {"model": config.model, "data": config.examples, "eval": config.eval}, "distill"
    )
    data = prepare_examples(settings, tokenizer, longest + config.max_tokens, "imitation")
    return example_prompts(data.examples, data.held_out_examples, config.seed, config.eval_prompts, longest)
