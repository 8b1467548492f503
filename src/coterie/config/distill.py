"""What a distillation is, as data: student, teacher, text or examples, targets, weighting, control."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from coterie.config.base import Settings, read_yaml
from coterie.config.data import DataConfig
from coterie.config.effects import Effect, Effects
from coterie.config.errors import ConfigError
from coterie.config.run import CONTINUED_WARMUP, OptimiserConfig, RunSettings, ScheduleConfig
from coterie.config.run_effects import SHARED_EFFECTS
from coterie.config.weighting import WeightSettings

TargetKind = Literal["full", "topk", "sampled"]


class TargetSettings(Settings):
    """What is kept of the teacher's distribution over the next token.

    `full`: every log-probability, for small vocabularies. `topk`: the `k` likeliest tokens and the mass of
    all others together. `sampled`: `draws` tokens drawn from it, whose counts are unbiased. `seed`: of the
    draws.
    """

    kind: TargetKind = "topk"
    k: int = Field(16, gt=0)
    draws: int = Field(64, gt=0)
    seed: int = Field(0, ge=0)


_OFFLINE = Effect(lambda settings, _: settings.mode == "offline", "mode=offline", True)


def _kept(kind: TargetKind) -> Effect:
    def needs(settings: Any, _: Any) -> bool:
        return settings.mode == "offline" and settings.targets.kind == kind

    return Effect(needs, f"mode=offline and targets.kind={kind}", True)


DISTILL_EFFECTS: Effects = {
    "targets.kind": _OFFLINE,
    "targets.k": _kept("topk"),
    "targets.draws": _kept("sampled"),
    "targets.seed": _kept("sampled"),
    "cache": _OFFLINE,
    "weighting.ramp": Effect(
        lambda settings, _: settings.weighting.kind != "const", "a weighting.kind other than const", True
    ),
    "weighting.kappa": Effect(
        lambda settings, _: settings.weighting.kind == "gated", "weighting.kind=gated", True
    ),
    "row_length": Effect(
        lambda settings, _: settings.examples is not None, "'examples' (text has data.row_length)"
    ),
    "eval": Effect(lambda settings, _: settings.examples is not None, "'examples'", True),
    "data_dir": Effect(lambda settings, _: settings.data is not None, "'data'"),
    "data.vocab_size": Effect(
        lambda settings, _: settings.data is None, "a tokenizer to train (text is read with the models' own)"
    ),
    "data.near_threshold": Effect(
        lambda settings, _: settings.data is None or settings.data.dedup_near, "data.dedup_near=true"
    ),
    "max_forgetting": Effect(lambda settings, _: False, "a tuning run"),
    "retention": Effect(lambda settings, _: False, "a tuning run", True),
} | dict(SHARED_EFFECTS)


class DistillConfig(RunSettings):
    """One distillation.

    `student`: `from: PATH` (a checkpoint or hub id; with `layers: N` only N of its layers, evenly spread),
    or keys of a Hugging Face `config.json` with its `model_type` for a fresh student; a text alone is a
    checkpoint. `teacher`: a checkpoint, a hub id, a GGUF file, or the address of a server that returns
    log-probabilities (`teacher_model`: which of its models). Both have the same tokenizer.

    `data`: text as in `TrainConfig`, or `examples`: sources as in `TuneConfig`, of which what the assistant
    says is learnt. `eval`: share of the examples held out, or a file. Budget: `tokens` or `steps`; without
    either, each row is seen once.

    `mode`: `offline` asks the teacher once and keeps what it says in `cache` (default: `targets` in `out`),
    which further students can use; `online` asks it at every step, for whole distributions. `temperature`:
    of both distributions. `control`: a student of the same start is trained on the same rows by
    cross-entropy alone, and the two are compared.
    """

    effects: ClassVar[Effects] = DISTILL_EFFECTS
    free_to_change: ClassVar[frozenset[str]] = RunSettings.free_to_change | {"cache", "data_dir", "control"}

    student: dict[str, Any]
    teacher: str
    teacher_model: str | None = None
    data: DataConfig | None = None
    examples: list[str] | None = Field(None, min_length=1)
    mode: Literal["offline", "online"] = "offline"
    out: str = "runs/distill"
    tokens: int | None = Field(None, gt=0)
    steps: int | None = Field(None, gt=0)
    batch_rows: int = Field(8, gt=0)
    row_length: int | None = Field(None, gt=1)
    eval: float | str = 0.05
    temperature: float = Field(1.0, gt=0)
    weighting: WeightSettings = WeightSettings()
    targets: TargetSettings = TargetSettings()
    cache: str | None = None
    control: bool = True
    data_dir: str | None = None
    optimiser: OptimiserConfig = OptimiserConfig()
    schedule: ScheduleConfig = ScheduleConfig(warmup_fraction=CONTINUED_WARMUP)

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        return written_out(data) if isinstance(data, Mapping) else data

    @model_validator(mode="after")
    def _check_choices(self) -> Self:
        if (self.data is None) == (self.examples is None):
            raise ValueError("give what to learn from as 'data' (text) or as 'examples', and not both")
        if None not in (self.tokens, self.steps):
            raise ValueError("'tokens' and 'steps' both say how long to train; keep one")
        return self

    @model_validator(mode="after")
    def _check_student(self) -> Self:
        kind = {"from", "model_type"} & self.student.keys()
        if len(kind) != 1:
            raise ValueError("'student' is 'from' (a checkpoint) or 'model_type' with config.json keys")
        if "from" in kind and self.student.keys() - {"from", "layers"}:
            raise ValueError("a student 'from' a checkpoint has its settings; only 'layers' can go with it")
        layers = self.student.get("layers", 1)
        if "from" in kind and (not isinstance(layers, int) or isinstance(layers, bool) or layers < 1):
            raise ValueError(f"student.layers {layers!r} must be a number of layers from 1")
        return self

    def num_steps(self, num_rows: int, row_tokens: int) -> int:
        """Optimiser steps of the budget over `num_rows` rows of `row_tokens` tokens (at least one)."""
        step_rows = self.batch_rows * self.accumulate
        if self.steps is not None:
            return self.steps
        if self.tokens is not None:
            return max(1, round(self.tokens / (row_tokens * step_rows)))
        return max(1, num_rows // step_rows)


def written_out(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without short forms: a text alone is a checkpoint, a source of text, or examples."""
    result = dict(settings)
    if isinstance(result.get("student"), str):
        result["student"] = {"from": result["student"]}
    if isinstance(result.get("data"), str | list | tuple):
        result["data"] = {"sources": result["data"]}
    if isinstance(result.get("examples"), str):
        result["examples"] = [result["examples"]]
    return result


def student_settings(given: str) -> dict[str, Any]:
    """`DistillConfig.student` from what a command line names: a checkpoint, or a file that describes a model.

    A file is YAML or JSON: the keys of a `config.json`, or the settings of a run with `model`. Errors:
    `ConfigError`.
    """
    if not given.endswith((".yaml", ".yml", ".json")):
        return {"from": given}
    found = read_yaml(given)
    model = found.get("model", found)
    if not isinstance(model, dict) or not {"model_type", "from"} & set(model):
        raise ConfigError(f"{given}: describes no model; it needs 'model_type' and config.json keys")
    return model
