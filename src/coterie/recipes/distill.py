"""Distillation: a student learns from a teacher, next to one that learns without. Run again, it resumes."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.directory import load_state_into, save_model
from coterie.checkpoints.fingerprint import weights_fingerprint
from coterie.checkpoints.tensor_writer import write_model_files
from coterie.config.distill import DistillConfig
from coterie.config.effects import Facts
from coterie.config.errors import ConfigError, TrainingError
from coterie.config.files import write_json
from coterie.config.methods import CONTINUED_RATES, rate_for_size
from coterie.data.build import check_outside
from coterie.data.order import Order
from coterie.data.rows import Row
from coterie.data.teacher_targets import TargetCache, TargetHeader, TaughtRows
from coterie.evaluate.bits import DocumentScore, bits_per_byte
from coterie.evaluate.tuning import change
from coterie.machine.device import choose_device, choose_dtype
from coterie.machine.facts import versions
from coterie.machine.processes import Processes
from coterie.nn.transformer import Transformer
from coterie.recipes.distill_data import Lessons, lessons
from coterie.recipes.distill_open import open_teacher
from coterie.recipes.distill_student import build_student
from coterie.recipes.distill_teacher import Teacher, own_tokenizer, require_same_ids
from coterie.recipes.pretrainer import FRESH_RATE
from coterie.recipes.run import Run, build_trainer, check_same, execute, open_run
from coterie.recipes.trained_stages import trained
from coterie.report.distill_page import write_distill_page
from coterie.results.distill import DistillRecord, LearntPart, TargetFacts
from coterie.train.callbacks import STOPPED, Evaluate, read_records
from coterie.train.distil import Distillation
from coterie.train.loop import Trainer
from coterie.train.objective import CrossEntropy, Objective
from coterie.train.running import RunningTraining

_log = logging.getLogger("coterie")
REPORT, PAGE = "distill.json", "report.html"
_TEACHERS = ("teacher", "teacher_model", "mode", "weighting", "temperature", "targets", "cache", "control")


@dataclass(frozen=True)
class DistillResult:
    """How a run ended. `path`: the student's directory and `record` what was found (None if stopped)."""

    path: Path | None
    reason: str
    steps: int
    record: DistillRecord | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self) | {
            "path": str(self.path) if self.path else None,
            "record": self.record.to_dict() if self.record else None,
        }

    def lines(self) -> Iterator[str]:
        """What happened, in words."""
        if self.record is None:
            yield f"stopped ({self.reason}) after {self.steps} steps"
            return
        yield from self.record.lines()
        yield f"the student is in {self.record.path}"


def distill(student: str, teacher: str, data: str | Sequence[str], **settings: Any) -> DistillResult:
    """Do what `coterie train distill` does, from Python. `settings`: further fields of `DistillConfig`.

    Errors: `CoterieError` subclasses, one line each.
    """
    given = {"student": student, "teacher": teacher, "data": data} | settings
    return run_distill(DistillConfig.from_dict(given, "distill"))


def run_distill(config: DistillConfig, resume_hint: str = "the same command") -> DistillResult:
    """Run the distillation that `config` describes, or resume it.

    Writes `config.out`: `config.yaml`, `metrics.jsonl`, `checkpoints`, `targets` (unless `cache` is another
    directory), `control` (the run without the teacher), `distill.json`, `report.html`, and the student as
    `model`.
    Errors: `CoterieError` subclasses, one line each.
    """
    if config.data is not None:
        check_outside(config.data, config.out)  # before anything is written there
    with open_run(config) as processes:
        if processes.world > 1:
            raise TrainingError("distillation runs in one process; start it without torchrun")
        device = choose_device(config.device)
        _check_student(config)
        teacher = open_teacher(config, device)
        run = _Distilling.build(config, teacher, device, processes)
        check_same(config, run.stated, run.inputs)
        run.prepare(teacher)
        objective = run.objective(teacher)
        del teacher  # its answers are kept; online, the objective holds it
        arms = {"student": run.train(objective, resume_hint)}
        if config.control and arms["student"].reason not in STOPPED:
            arms["control"] = run.train(None, resume_hint)
        stopped = next((arm for arm in arms.values() if arm.reason in STOPPED), None)
        if stopped is not None:
            return DistillResult(None, stopped.reason, stopped.trainer.step_count)
        return run.finish(arms["student"], arms.get("control"))


@dataclass(frozen=True)
class _Arm:
    """A trained student and how it does on held-out text (empty if it was stopped)."""

    trainer: Trainer
    model: Transformer
    reason: str
    scores: list[DocumentScore]


@dataclass
class _Distilling:
    """The parts of one run. `taught`: the rows, with the teacher's answers in mode offline."""

    config: DistillConfig
    device: torch.device
    dtype: torch.dtype
    lessons: Lessons
    steps: int
    lr: float
    stated: dict[str, Any]
    inputs: dict[str, str]
    header: TargetHeader
    processes: Processes
    taught: Sequence[Row]
    start_score: float
    cap: float | None
    teacher_score: float | None = None
    targets: TargetFacts | None = None

    @classmethod
    def build(
        cls, config: DistillConfig, teacher: Teacher, device: torch.device, processes: Processes
    ) -> _Distilling:
        """Read the data and look at the student. Errors: `CoterieError` subclasses."""
        tokenizer = teacher.tokenizer
        dtype = choose_dtype(config.dtype, device)
        _compare(config, teacher)
        student = build_student(config.student, tokenizer, dtype, config.seed)
        config.check_facts(Facts(moe=student.config.is_moe))
        home = teacher.path
        if home.is_file():
            home = Path(config.out) / "tokenizer"
            tokenizer.save(home)
        found = lessons(config, tokenizer, home, min(student.config.max_positions, teacher.max_positions))
        numbers = sum(parameter.numel() for parameter in student.parameters())
        lr = config.optimiser.lr or (
            rate_for_size(CONTINUED_RATES, numbers) if "from" in config.student else FRESH_RATE
        )
        made = {
            "optimiser": config.optimiser.model_copy(update={"lr": lr}),
            "dtype": str(dtype).removeprefix("torch."),
            "device": str(device),
        }
        return cls(
            config,
            device,
            dtype,
            found,
            config.num_steps(len(found.rows), found.row_length),
            lr,
            config.model_copy(update=made).to_dict(),
            _inputs(config, teacher, found),
            _header(config, teacher, found),
            processes,
            found.rows,
            bits_per_byte(found.judged(student.to(device).eval())),
            student.logit_cap,
        )

    def prepare(self, teacher: Teacher) -> None:
        """Measure the teacher, and in mode offline ask it about every row that the run will read."""
        config = self.config
        if teacher.model is not None:
            self.teacher_score = bits_per_byte(self.lessons.judged(teacher.model))
        _log.info(
            "distill %s from %s: %s; %d steps of %d rows of %d",
            *(student_words(config), config.teacher, self.lessons.about),
            *(self.steps, config.batch_rows * config.accumulate, self.lessons.row_length),
        )
        if config.mode == "online":
            return
        rows = self.lessons.rows
        cache = TargetCache(config.cache or Path(config.out) / "targets", self.header)
        order = Order(len(rows), config.seed)
        samples = range(min(self.steps * config.batch_rows * config.accumulate, 2 * len(rows)))
        wanted = {order[sample] for sample in samples}
        began = time.perf_counter()
        asked = cache.build(rows, wanted, lambda some: teacher.ask(self.header, some))
        if not asked:
            _log.info("targets: all %s rows are in %s", f"{len(wanted):,}", cache.directory)
        self.taught = TaughtRows(rows, cache)
        self.targets = TargetFacts(
            directory=str(cache.directory),
            words=self.header.words(),
            rows=len(wanted),
            asked=asked,
            num_bytes=cache.num_bytes,
            seconds=time.perf_counter() - began,
        )

    def objective(self, teacher: Teacher) -> Objective:
        """What the student minimises."""
        config = self.config
        source = config.targets.kind if config.mode == "offline" else teacher.model
        assert source is not None  # a server teaches offline alone
        return Distillation(source, self.cap, config.weighting, config.temperature, self.steps)

    def train(self, objective: Objective | None, resume_hint: str) -> _Arm:
        """One student from the start to the end, or to where it is stopped. No objective: the control."""
        config, stated = self.config, self.stated
        if objective is None:
            _log.info("control: the same student by cross-entropy alone")
            config = config.model_copy(update={"out": str(Path(config.out) / "control")})
            stated = {key: value for key, value in stated.items() if key not in _TEACHERS} | {
                "out": config.out
            }
        model = build_student(config.student, self.lessons.tokenizer, self.dtype, config.seed).to(self.device)
        trainer = build_trainer(
            model,
            self.lessons.rows if objective is None else self.taught,
            objective or CrossEntropy(),
            config.optimiser.model_copy(update={"lr": self.lr}),
            config.schedule,
            steps=self.steps,
            batch_rows=config.batch_rows,
            seed=config.seed,
            processes=self.processes,
            accumulate=config.accumulate,
            clip_norm=config.clip_norm,
            recompute=config.recompute,
            # The loss of a distillation is not a cross-entropy, so it says nothing of bits.
            bytes_per_token=self.lessons.bytes_per_token if objective is None else None,
            device=self.device,
        )

        def measure(_: RunningTraining) -> dict[str, float]:
            return {"heldout_bits": bits_per_byte(self.lessons.watched(model))}

        run = Run(
            trainer,
            write=lambda path: write_model_files(path, model, self.lessons.tokenizer),
            read=lambda path: load_state_into(model, path),
            callbacks=[Evaluate(config.eval_every, measure)],
            inputs=self.inputs,
            stated=stated,
        )
        with open_run(config) if objective is None else nullcontext():
            reason = execute(config, run, resume_hint)
        model.eval()
        return _Arm(trainer, model, reason, [] if reason in STOPPED else self.lessons.judged(model))

    def finish(self, student: _Arm, control: _Arm | None) -> DistillResult:
        """Write the student and the record."""
        config, out = self.config, Path(self.config.out)
        trainer, path = student.trainer, out / "model"
        first, last = _ends(read_records(out / "metrics.jsonl"))
        record = DistillRecord(
            config=self.stated,
            student=student_words(config),
            teacher=config.teacher,
            data=self.lessons.about,
            measure=self.lessons.measure,
            steps=trainer.step_count,
            tokens=trainer.tokens,
            seconds=trainer.seconds,
            control_seconds=None if control is None else control.trainer.seconds,
            teacher_score=self.teacher_score,
            start_score=self.start_score,
            student_score=bits_per_byte(student.scores),
            control=None if control is None else change(control.scores, student.scores),
            first=first,
            last=last,
            targets=self.targets,
            versions=versions(),
            path=str(path),
        )
        _save_student(config, path, student.model, self.lessons, record)
        write_json(out / REPORT, record.to_dict())
        curves = {"distilled": _curve(out, "cross_entropy")}
        if control is not None:
            curves["control"] = _curve(out / "control", "loss")
        write_distill_page(record, out / PAGE, curves)
        return DistillResult(path, student.reason, trainer.step_count, record)


def student_words(config: DistillConfig) -> str:
    """The student in a few words."""
    if "from" not in config.student:
        return f"a fresh {config.student['model_type']}"
    layers = config.student.get("layers")
    return f"{config.student['from']}{'' if layers is None else f' ({layers} of its layers)'}"


def _curve(out: Path, name: str) -> list[tuple[int, float]]:
    """(step, metric) of a run's steps."""
    records = read_records(out / "metrics.jsonl")
    return [(record["step"], record[name]) for record in records if record["kind"] == "train"]


def _save_student(
    config: DistillConfig, path: Path, model: Transformer, found: Lessons, record: DistillRecord
) -> None:
    about: dict[str, Any] = {"recipe": "distill", "teacher": config.teacher}
    about["metrics"] = {name: getattr(record, name) for name in ("steps", "tokens", "student_score")}
    generation = parent = None
    if "from" in config.student:
        about["parent"] = config.student["from"]
        checkpoint = Checkpoint.open(config.student["from"])
        generation, parent = checkpoint.generation, checkpoint.path
    about |= trained(config.out, "distill", found.index(), record.tokens, parent)
    save_model(path, model, found.tokenizer, extra=about, generation=generation, probes=True)


def _check_student(config: DistillConfig) -> None:
    """Refuse a student that is no model before a large teacher is loaded."""
    if "from" in config.student:
        own_tokenizer(Checkpoint.open(config.student["from"]))


def _compare(config: DistillConfig, teacher: Teacher) -> None:
    """Refuse a teacher of another tokenizer than the student's."""
    if "from" not in config.student:
        return
    own = own_tokenizer(Checkpoint.open(config.student["from"]))
    names = f"student {config.student['from']}", f"teacher {teacher.name}"
    if not require_same_ids(own, teacher.tokenizer, names):
        _log.info(
            "%s and %s: tokenizer.json differs, and every id is the same token; the teacher's is used", *names
        )


def _inputs(config: DistillConfig, teacher: Teacher, found: Lessons) -> dict[str, str]:
    inputs = {
        "tokenizer": found.tokenizer.sha256,
        "teacher": teacher.identity,
        "set of rows (the data)": found.digest,
    }
    if "from" in config.student:
        base = Checkpoint.open(config.student["from"]).path
        inputs["base (the weights of the student)"] = weights_fingerprint(base)
    return inputs


def _header(config: DistillConfig, teacher: Teacher, found: Lessons) -> TargetHeader:
    """The header of the run's targets. Errors: `ConfigError` for as many kept tokens as there are."""
    kept, vocab_size = config.targets, found.tokenizer.vocab_size
    widths = {"full": vocab_size, "topk": kept.k, "sampled": kept.draws}
    if kept.kind == "topk" and kept.k >= vocab_size:
        raise ConfigError(
            f"targets.k {kept.k}: the vocabulary has {vocab_size} tokens; use targets.kind=full"
        )
    return TargetHeader(
        tokenizer=found.tokenizer.sha256,
        teacher=teacher.identity,
        data=found.digest,
        kind=kept.kind,
        width=widths[kept.kind],
        vocab_size=vocab_size,
        row_length=found.row_length,
        temperature=config.temperature,
        seed=kept.seed if kept.kind == "sampled" else 0,
    )


def _ends(records: Sequence[Mapping[str, Any]]) -> tuple[LearntPart, LearntPart]:
    """The means over the first tenth of the steps and over the last."""
    found = [record for record in records if record["kind"] == "train"]
    size = max(1, len(found) // 10)
    names = tuple(LearntPart.model_fields)
    means = [
        {name: sum(record[name] for record in part) / len(part) for name in names}
        for part in (found[:size], found[-size:])
    ]
    return LearntPart.from_dict(means[0]), LearntPart.from_dict(means[1])
