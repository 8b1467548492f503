"""Students that are trained together with the model of a pretraining run, and the controls of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.checkpoints.directory import load_state_into, save_model
from coterie.checkpoints.locate import locate
from coterie.checkpoints.tensor_writer import write_model_files
from coterie.config import ConfigError
from coterie.config.codistil import CONTROL
from coterie.config.files import write_json
from coterie.config.run import TrainConfig
from coterie.data.build import Prepared
from coterie.data.heldout import HeldoutDocument
from coterie.evaluate.bits import DocumentScore, bits_per_byte
from coterie.evaluate.tuning import change
from coterie.machine.facts import versions
from coterie.nn.transformer import Transformer
from coterie.recipes.heldout import EVAL_TOKENS, evaluation_documents, heldout_bits, heldout_scores
from coterie.recipes.pretrainer import trainer_of
from coterie.recipes.trained_stages import trained
from coterie.results.codistil import CodistilRecord, StudentRecord
from coterie.train.codistil import Codistillation, SharedForward
from coterie.train.lockstep import Lockstep
from coterie.train.loop import Trainer
from coterie.train.objective import CrossEntropy, Objective

FOLDER = "students"
REPORT = "codistil.json"


@dataclass
class Students:
    """The students of a run, by name, with a control `NAME-control` for each where these are asked for."""

    config: TrainConfig
    prepared: Prepared
    teacher: Trainer
    lockstep: Lockstep

    @classmethod
    def build(cls, config: TrainConfig, prepared: Prepared, teacher: Trainer) -> Students:
        """The students of `config.codistil`, or none.

        Errors: `ConfigError` for one that does not fit the teacher.
        """
        members, shared = {}, teacher.objective
        for name in config.codistil.students if config.codistil else ():
            assert config.codistil is not None and isinstance(shared, SharedForward)
            members[name] = cls._trainer(config, prepared, teacher, name, shared)
            if config.codistil.control:
                members[f"{name}{CONTROL}"] = cls._trainer(config, prepared, teacher, name, None)
        return cls(config, prepared, teacher, Lockstep(members))

    @staticmethod
    def _trainer(
        config: TrainConfig, prepared: Prepared, teacher: Trainer, name: str, shared: SharedForward | None
    ) -> Trainer:
        settings = config.codistil
        assert settings is not None
        student, taught_by = settings.students[name], teacher.model
        assert isinstance(taught_by, Transformer)
        size = {} if "from" in student.model else {"vocab_size": taught_by.config.vocab_size}

        def objective(model: Transformer) -> Objective:
            if shared is None:
                return CrossEntropy()
            if model.config.vocab_size != taught_by.config.vocab_size:
                raise ConfigError(
                    f"students.{name}: its vocab_size is {model.config.vocab_size}, the teacher's is "
                    f"{taught_by.config.vocab_size}; leave vocab_size out"
                )
            return Codistillation(
                taught_by, shared, model.logit_cap, settings.weighting, settings.temperature, teacher.steps
            )

        return trainer_of(
            config, prepared, teacher.processes, size | student.model, student.balance,
            config.optimiser_of(name), objective,
            # The loss of a student is no cross-entropy, so it is not shown as bits.
            bytes_per_token=None if shared is not None else prepared.card.bytes_per_token,
        )  # fmt: skip

    def write(self, checkpoint: Path) -> None:
        """Add the students to a checkpoint."""
        self.lockstep.write(
            checkpoint / FOLDER,
            lambda path, name: write_model_files(path, self._model(name), self.prepared.tokenizer),
        )

    def read(self, checkpoint: Path) -> None:
        """Restore the students of a checkpoint."""
        self.lockstep.read(checkpoint / FOLDER, lambda path, name: load_state_into(self._model(name), path))

    def measure(self, documents: Sequence[HeldoutDocument]) -> dict[str, float]:
        """Bits per byte of held-out text, for the record of an evaluation."""
        return {
            f"heldout_bits_per_byte/{name}": heldout_bits(model, self.prepared, documents)
            for name, model in self._models().items()
        }

    def finish(self, stated: Mapping[str, Any]) -> CodistilRecord | None:
        """Write every student and control, and what the run found; None without students.

        The main process writes.
        """
        if not self.lockstep.members:
            return None
        documents = evaluation_documents(self.prepared, EVAL_TOKENS, "final")
        models = self._models()
        scores = {name: heldout_scores(model, self.prepared, documents) for name, model in models.items()}
        teacher = self.teacher.model
        assert isinstance(teacher, Transformer)
        record = CodistilRecord(
            config=dict(stated),
            teacher_parameters=_size(teacher),
            teacher_bits_per_byte=heldout_bits(teacher, self.prepared, documents),
            students=[_record(name, models, scores) for name in models if not name.endswith(CONTROL)],
            steps=self.teacher.step_count,
            tokens=self.teacher.tokens,
            seconds=self.teacher.seconds,
            versions=versions(),
        )
        if self.teacher.processes.is_main:
            out = Path(self.config.out)
            for name, model in models.items():
                about = {
                    "recipe": "codistil",
                    **self._stage(name),
                    "metrics": {"heldout_bits_per_byte": bits_per_byte(scores[name])},
                }
                save_model(out / FOLDER / name, model, self.prepared.tokenizer, extra=about, probes=True)
            write_json(out / REPORT, record.to_dict())
        self.teacher.processes.wait()
        return record

    def _stage(self, name: str) -> dict[str, Any]:
        """What a manifest says of the text: that of the teacher's run, after the student's own past."""
        assert self.config.codistil is not None
        given = self.config.codistil.students[name.removesuffix(CONTROL)].model.get("from")
        parent = None if given is None else locate(given, weights=False)
        return trained(self.config.out, "distill", self.prepared.index, self.teacher.tokens, parent)

    def _model(self, name: str) -> Transformer:
        model = self.lockstep.members[name].model
        assert isinstance(model, Transformer)
        return model

    def _models(self) -> dict[str, Transformer]:
        """Every model in evaluation mode; its next step puts it back into training mode."""
        return {name: self._model(name).eval() for name in self.lockstep.members}


def _record(
    name: str, models: dict[str, Transformer], scores: dict[str, list[DocumentScore]]
) -> StudentRecord:
    control = f"{name}{CONTROL}"
    return StudentRecord(
        name=name,
        path=f"{FOLDER}/{name}",
        parameters=_size(models[name]),
        bits_per_byte=bits_per_byte(scores[name]),
        control_path=f"{FOLDER}/{control}" if control in models else None,
        gain=change(scores[control], scores[name]) if control in models else None,
    )


def _size(model: Transformer) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
