"""Distillation on policy: a student replies and a teacher corrects it, next to a control. It resumes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.adapters.trainable import continued
from coterie.adapters.tuned import load_result, prove, save_result
from coterie.config.errors import TrainingError
from coterie.config.files import write_json
from coterie.config.on_policy import OnPolicyConfig
from coterie.evaluate.tuning import change
from coterie.machine.facts import versions
from coterie.proof.records import probe
from coterie.recipes.on_policy_parts import SHOWN, Arm, HeldOutReplies, Lesson, load_student
from coterie.recipes.run import check_same, execute, open_run
from coterie.recipes.trained_stages import trained_method
from coterie.reinforce.indexed import index_corrected
from coterie.reinforce.on_policy import Writer
from coterie.results.accuracy import accuracy, accuracy_change
from coterie.results.on_policy import OnPolicyRecord, PromptSample
from coterie.train.callbacks import STOPPED, read_records

REPORT = "on_policy.json"


@dataclass(frozen=True)
class OnPolicyResult:
    """How a run ended. `path`: the adapter or model and `record` what was found (None if stopped)."""

    path: Path | None
    kind: str
    reason: str
    steps: int
    record: OnPolicyRecord | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        found = None if self.record is None else self.record.to_dict()
        about = {"kind": self.kind, "reason": self.reason, "steps": self.steps}
        return {"path": self.path and str(self.path), **about, "record": found}

    def lines(self) -> Iterator[str]:
        """What happened, in words."""
        if self.record is None:
            yield f"stopped ({self.reason}) after {self.steps} steps"
            return
        yield from self.record.lines()
        yield f"the {self.kind} is in {self.path}"


def run_on_policy(config: OnPolicyConfig, resume_hint: str = "the same command") -> OnPolicyResult:
    """Run the distillation that `config` describes, or resume it.

    Writes `config.out`: `config.yaml`, `metrics.jsonl`, `checkpoints`, `replies` (by step), `index` (of what
    they hold), `control` (the run without the student's replies), `on_policy.json`, and the result as
    `adapter` or `model`.
    Errors: `CoterieError` subclasses, one line each.
    """
    with open_run(config) as processes:
        if processes.world > 1:
            raise TrainingError("distillation on policy runs in one process; start it without torchrun")
        config = continued(config)
        student = load_student(config)
        lesson = Lesson.build(config, student)
        arm = lesson.arm(student, config.out)
        first, before = probe(student.model, student.tokenizer), lesson.measure(arm.writer)
        reason = _train(lesson, arm, resume_hint)
        steps = arm.trainer.step_count
        if reason in STOPPED:
            return OnPolicyResult(None, student.kind, reason, steps)
        control = None
        if config.control:
            control = _control(lesson, config, resume_hint)
            if control.reason in STOPPED:
                return OnPolicyResult(None, student.kind, control.reason, steps)
        after = lesson.measure(arm.writer)
        record = _record(lesson, arm, before, after, control)
        path = Path(record.path)
        index = index_corrected(arm.source.folder, arm.trainer.tokens)
        about = trained_method(config, student, index, arm.trainer.tokens)
        save_result(student, path, {"metrics": {"steps": steps}} | about)
        again = probe(load_result(student, path), student.tokenizer)
        proof = prove(first, probe(student.model, student.tokenizer), again, path)
        record = record.model_copy(update={"proof": proof})
        write_json(Path(config.out, REPORT), record.to_dict())
        return OnPolicyResult(path, student.kind, reason, steps, record)


@dataclass(frozen=True)
class _Control:
    """The trained control; `found` is None if it was stopped."""

    reason: str
    tokens: int
    found: HeldOutReplies | None


def _train(lesson: Lesson, arm: Arm, resume_hint: str) -> str:
    run = lesson.shell(arm)
    config = lesson.config.model_copy(update={"out": arm.stated["out"]})
    check_same(config, run.stated, run.inputs)
    with nullcontext() if config.out == lesson.config.out else open_run(config):
        return execute(config, run, resume_hint)


def _control(lesson: Lesson, config: OnPolicyConfig, resume_hint: str) -> _Control:
    """The same student by cross-entropy on the teacher's replies, as many tokens in each step."""
    records = read_records(Path(config.out, "metrics.jsonl"))
    budgets = [record["tokens"] for record in records if record["kind"] == "rollout"]
    arm = lesson.arm(load_student(config), str(Path(config.out, "control")), budgets)
    reason = _train(lesson, arm, resume_hint)
    found = None if reason in STOPPED else lesson.measure(arm.writer)
    return _Control(reason, arm.source.tokens_learnt, found)


def _record(
    lesson: Lesson, arm: Arm, before: HeldOutReplies, after: HeldOutReplies, control: _Control | None
) -> OnPolicyRecord:
    """What the run did, without its proof."""
    config, tuned = lesson.config, arm.tuned
    other = None if control is None else control.found
    taught = Writer(lesson.teacher.model, tuned.tokenizer, config.max_tokens)
    teacher = lesson.measure(taught)
    prompts = [tuned.tokenizer.decode(list(ids)) for ids in lesson.prompts.held_out[:SHOWN]]
    samples = [
        PromptSample(
            prompt=prompt,
            before=before.shown[at],
            after=after.shown[at],
            control=None if other is None else other.shown[at],
            teacher=teacher.shown[at],
        )
        for at, prompt in enumerate(prompts)
    ]
    judged = bool(lesson.problems)
    return OnPolicyRecord(
        config=arm.stated,
        teacher=config.teacher,
        prompts=lesson.prompts.about,
        steps=arm.trainer.step_count,
        tokens=arm.source.tokens_learnt,
        seconds=arm.trainer.seconds,
        distance=change(before.scores, after.scores),
        right=accuracy_change(before.right, after.right) if judged else None,
        right_teacher=accuracy(teacher.right) if judged else None,
        control_tokens=None if control is None else control.tokens,
        over_control=None if other is None else change(other.scores, after.scores),
        right_over_control=accuracy_change(other.right, after.right) if judged and other else None,
        samples=samples,
        versions=versions(),
        path=str(Path(config.out) / tuned.kind),
    )


def distill_on_policy(
    student: str,
    teacher: str,
    task: str | None = None,
    examples: Sequence[str] | None = None,
    **settings: Any,
) -> OnPolicyResult:
    """Do what `coterie train distill --on-policy` does, from Python. `settings`: fields of `OnPolicyConfig`.

    Errors: `CoterieError` subclasses, one line each.
    """
    given = {"model": student, "teacher": teacher, "task": task, "examples": examples} | settings
    return run_on_policy(
        OnPolicyConfig.from_dict({k: v for k, v in given.items() if v is not None}, "distill")
    )
