"""Pretraining: wires a `TrainConfig` into data, model, loop and checkpoints. Run again, it resumes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.commit import read_manifest
from coterie.checkpoints.directory import load_state_into, save_model
from coterie.checkpoints.fingerprint import weights_fingerprint
from coterie.checkpoints.locate import locate
from coterie.checkpoints.tensor_writer import write_model_files
from coterie.config import ConfigError
from coterie.config.data import DataConfig
from coterie.config.run import TrainConfig
from coterie.data.build import Prepared, check_outside, prepare
from coterie.machine.system import peak_memory_bytes
from coterie.nn.transformer import Transformer
from coterie.recipes.codistil import Students
from coterie.recipes.continued import Continued, evaluation_interval
from coterie.recipes.heldout import EVAL_TOKENS, evaluation_documents, heldout_bits
from coterie.recipes.pretrainer import pretrainer, stated_training
from coterie.recipes.run import Run, execute, open_run
from coterie.recipes.trained_stages import trained
from coterie.results.codistil import CodistilRecord
from coterie.results.tuning import TuningRecord
from coterie.train.callbacks import Callback, Evaluate, read_records
from coterie.train.loop import Trainer
from coterie.train.running import RunningTraining


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    `model`: the trained model's directory (None for a run that was stopped early). `report`: what
    `report.json` holds, for a finished run that started from a given model. `students`: what `codistil.json`
    holds, for a finished run with students.
    """

    model: Path | None
    steps: int
    tokens: int
    seconds: float
    reason: str
    bits_per_byte: float | None
    report: TuningRecord | None = None
    students: CodistilRecord | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        records = {"report": self.report, "students": self.students}
        plain |= {name: record and record.to_dict() for name, record in records.items()}
        return plain | {"model": str(self.model) if self.model else None}


def pretrain(config: TrainConfig, resume_hint: str = "the same command") -> TrainResult:
    """Run the training that `config` describes, or resume it.

    Writes `config.out`: `config.yaml`, `metrics.jsonl`, `checkpoints/step-NNNNNN` and, when finished,
    `model`, a Hugging Face directory. A run from a given model also writes `report.json` and `report.html`,
    and one with students `students` and `codistil.json`.
    Errors: `CoterieError` subclasses, one line each.
    """
    directory = config.data_dir or Path(config.out) / "data"
    check_outside(config.data, config.out)  # before anything is written there
    with open_run(config) as processes:
        prepared = processes.main_first(lambda: prepare(data_settings(config), directory))
        trainer = pretrainer(config, prepared, processes)
        model = trainer.model
        assert isinstance(model, Transformer)
        students = Students.build(config, prepared, trainer)
        continued = Continued(config, prepared, trainer, model) if "from" in config.model else None
        documents = continued.choosing if continued else evaluation_documents(prepared, EVAL_TOKENS)

        def read(checkpoint: Path) -> None:
            _check_same_text(checkpoint, prepared)
            load_state_into(model, checkpoint)
            students.read(checkpoint)

        def write(checkpoint: Path) -> None:
            write_model_files(checkpoint, model, prepared.tokenizer)
            students.write(checkpoint)

        def measure(_: RunningTraining) -> dict[str, float]:
            found = {"heldout_bits_per_byte": heldout_bits(model, prepared, documents)}
            return found | students.measure(documents)

        stated = stated_training(config, trainer, model)
        run = Run(
            trainer,
            write=write,
            read=read,
            callbacks=[students.lockstep, *_watchers(config, trainer, measure, continued)],
            about=lambda _: {"data": prepared.directory.name},
            inputs=_inputs(config),
            stated=stated,
        )
        reason = execute(config, run, resume_hint)
        result = _finish(config, prepared, trainer, model, continued, reason)
        return replace(result, students=students.finish(stated) if result.model else None)


def _inputs(config: TrainConfig) -> dict[str, str]:
    """What a resumed run must find unchanged besides its text, in words -> a hash of its content."""
    given = {"base (the weights of the model)": config.model.get("from")}
    for name, student in config.codistil.students.items() if config.codistil else ():
        given[f"start of the student {name}"] = student.model.get("from")
    return {what: weights_fingerprint(locate(path)) for what, path in given.items() if path is not None}


def data_settings(config: TrainConfig) -> DataConfig:
    """The settings of the text. The text for a given model is prepared with that model's own tokenizer."""
    if "from" not in config.model or config.data.tokenizer is not None:
        return config.data
    base = Checkpoint.open(config.model["from"], weights=False)
    path = base.path
    if base.gguf is not None and base.tokenizer is not None:
        path = Path(config.out) / "base-tokenizer"
        base.tokenizer.save(path)
    return config.data.model_copy(update={"tokenizer": str(path)})


def _watchers(
    config: TrainConfig,
    trainer: Trainer,
    measure: Callable[[RunningTraining], dict[str, float]],
    continued: Continued | None,
) -> list[Callback]:
    if continued is None:
        return [Evaluate(config.eval_every, measure)]
    return [Evaluate(evaluation_interval(config, trainer.steps), measure), continued.best]


def _finish(
    config: TrainConfig,
    prepared: Prepared,
    trainer: Trainer,
    model: Transformer,
    continued: Continued | None,
    reason: str,
) -> TrainResult:
    """Write `model` after a finished run, and a last record of the time and memory of the whole run."""
    out = Path(config.out)
    place = {"step": trainer.step_count, "tokens": trainer.tokens, "seconds": trainer.seconds}
    trainer.publish({"kind": "end", "reason": reason, **place, "peak_memory_bytes": peak_memory_bytes()})
    trainer.processes.wait()
    evals = [r for r in read_records(out / "metrics.jsonl") if r["kind"] == "eval"]
    bits = evals[-1].get("heldout_bits_per_byte") if evals else None
    if reason != "finished":
        return TrainResult(None, trainer.step_count, trainer.tokens, trainer.seconds, reason, bits)
    manifest = {
        "recipe": "pretrain",
        "parent": config.model.get("from"),
        "data_card": prepared.card.to_dict(),
    }

    def write() -> None:
        metrics = {"tokens": trainer.tokens, "steps": trainer.step_count, "heldout_bits_per_byte": bits}
        given = config.model.get("from")
        generation = Checkpoint.open(given, weights=False).generation if given else None
        save_model(
            final,
            model,
            prepared.tokenizer,
            extra=manifest | {"metrics": metrics} | _stage(config, prepared, trainer.tokens),
            generation=generation,
            probes=True,
        )

    final, record = out / "model", None
    if continued is not None:
        bits = continued.take_best()
        record = continued.finish(reason, final, write)
    elif trainer.processes.is_main:
        write()
    trainer.processes.wait()
    return TrainResult(final, trainer.step_count, trainer.tokens, trainer.seconds, reason, bits, record)


def _stage(config: TrainConfig, prepared: Prepared, tokens: int) -> dict[str, Any]:
    """What the manifest says of the text: the index of this stage, and those of the given model."""
    given = config.model.get("from")
    if given is None:
        return trained(config.out, "pretrain", prepared.index, tokens)
    return trained(config.out, "continue", prepared.index, tokens, locate(given, weights=False))


def _check_same_text(checkpoint: Path, prepared: Prepared) -> None:
    """Refuse a checkpoint of other text: it stores its place in the data as a number, which is then wrong."""
    before = read_manifest(checkpoint).get("data")
    if before != prepared.directory.name:
        raise ConfigError(
            f"{checkpoint}: was trained on other text: the sources have changed since, or an earlier version "
            "of coterie prepared them; choose another 'out'"
        )
