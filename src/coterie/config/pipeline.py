"""Stages as data: each is a recipe with its settings, and may start from what an earlier one made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from coterie.config.base import Settings, number_as_text
from coterie.config.errors import ConfigError
from coterie.config.pool import SamplingOptions

PREVIOUS, STAGES = "previous", "stages."
# The ladder of DeepSeek-R1 (arXiv 2501.12948), which tunes the base again on what the second stage can do.
R1: tuple[dict[str, Any], ...] = (
    {"name": "worked", "kind": "rows", "count": 4000},
    {"name": "cold-start", "kind": "tune", "data": "stages.worked"},
    {"name": "reinforce", "kind": "reinforce", "model": PREVIOUS},
    {"name": "reject", "kind": "reject", "model": PREVIOUS},
    {"name": "again", "kind": "reinforce", "model": PREVIOUS},
)


class RowsConfig(Settings):
    """Worked replies for tuning, or text for pretraining (`text`), as `coterie task rows` writes them."""

    task: str
    levels: str | None = None
    count: int = Field(4000, gt=0)
    worked: float | None = Field(None, ge=0, le=1)
    steps: str = Field("think", pattern="^(think|text)$")
    instruction: bool = False
    text: bool = False
    seed: int = Field(0, ge=0)
    out: str

    _levels = field_validator("levels", mode="before")(number_as_text)


class StageSettings(Settings):
    """One stage: `kind` names the recipe, `given` holds its settings.

    `scaled`: whether the pipeline's `scale` applies to its budgets.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")
    kind: str
    scaled: bool = True
    given: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, data: Any) -> Any:
        """Take the settings from next to the name."""
        if not isinstance(data, Mapping) or "given" in data:
            return data
        own = {key: data[key] for key in ("name", "kind", "scaled") if key in data}
        return own | {"given": {key: value for key, value in data.items() if key not in own}}

    def to_dict(self) -> dict[str, Any]:
        """As it is written in a file."""
        return {"name": self.name, "kind": self.kind, "scaled": self.scaled, **self.given}


class PipelineConfig(SamplingOptions):
    """Stages one after the other, each below `out` in a folder of its name.

    After each stage that makes a model, `eval_problems` held-out problems of `task` at `levels` are answered.
    `task`, `levels`, `max_tokens`, `instruction`, `seed`, `threads` and `device` are also those of the stages
    that do not give others. `scale` multiplies the budgets of all stages: steps, tokens, rows and problems.
    """

    task: str
    out: str = "runs/pipeline"
    eval_problems: int = Field(200, gt=0)
    scale: float = Field(1.0, gt=0)
    stages: list[StageSettings] = Field(min_length=1)

    @model_validator(mode="after")
    def _names(self) -> Self:
        seen: set[str] = set()
        for stage in self.stages:
            if stage.name in seen:
                raise ValueError(f"two stages are called '{stage.name}'; give each another name")
            for name in references(stage.given):
                if name not in seen and not (name == PREVIOUS and seen):
                    raise ValueError(f"stage '{stage.name}': '{name}' is not the name of an earlier stage")
            seen.add(stage.name)
        return self

    def folder(self, name: str) -> Path:
        """Of a stage."""
        return Path(self.out, name)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return super().to_dict() | {"stages": [stage.to_dict() for stage in self.stages]}


def texts_changed(given: Any, change: Callable[[str], str]) -> Any:
    """Settings with every text in them, at any depth, replaced by what `change` makes of it."""
    if isinstance(given, Mapping):
        return {key: texts_changed(value, change) for key, value in given.items()}
    if isinstance(given, list | tuple):
        return [texts_changed(value, change) for value in given]
    return change(given) if isinstance(given, str) else given


def references(given: Mapping[str, Any]) -> list[str]:
    """The stages that settings name: `previous`, or `stages.NAME`, also with a portion or a file."""
    found: list[str] = []

    def note(text: str) -> str:
        if text == PREVIOUS:
            found.append(text)
        elif text.startswith(STAGES):
            found.append(split_reference(text)[0])
        return text

    texts_changed(given, note)
    return found


def split_reference(text: str) -> tuple[str, str]:
    """The name and the rest of `stages.NAME`, `stages.NAME:0.3`, `stages.NAME#100`, `stages.NAME/FILE`."""
    name = text.removeprefix(STAGES)
    end = next((place for place, letter in enumerate(name) if letter in ":#/"), len(name))
    return name[:end], name[end:]


def r1_settings(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The settings of the ladder `R1` from those of a file with `model` and changes by the name of a stage.

    Errors: `ConfigError` for a file without a model, or a stage that the ladder does not have.
    """
    rest = dict(data)
    model, changes = rest.pop("model", None), rest.pop("stages", None) or {}
    if not isinstance(model, str):
        raise ConfigError(f"{where}: 'model' is missing: the model that the ladder starts from")
    if not isinstance(changes, Mapping):
        raise ValueError(
            "'stages' holds settings by the name of a stage; for a list use coterie pipeline run"
        )
    names = [str(stage["name"]) for stage in R1]
    wrong = [name for name in changes if name not in names]
    if wrong:
        raise ConfigError(f"{where}: there is no stage '{wrong[0]}'; the stages are {', '.join(names)}")
    stages = []
    for stage in R1:
        settings = stage | dict(changes.get(stage["name"]) or {})
        if stage["kind"] == "tune":
            settings = {"model": model} | settings
        if stage["kind"] == "reject":
            settings = {"base": model} | settings
        stages.append(settings)
    return rest | {"stages": stages}
