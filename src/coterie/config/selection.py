"""A selection of experts, layer by layer: the file that `coterie select` writes and tuning reads."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, field_validator

from coterie.config.base import Settings
from coterie.config.errors import ConfigError
from coterie.config.files import read_json, write_json
from coterie.config.model import ModelConfig


class ExpertSelection(Settings):
    """Selected experts by layer, in the schema of ESFT's files: `{"experts": {"1": [3, 5]}, ...}`.

    `shared_experts`: select the always-on experts too. `non_expert_modules`: also select everything that is
    not an expert. Layers are numbered as in the checkpoint. A layer that is not named has no selected expert.
    """

    experts: dict[int, tuple[int, ...]] = Field(min_length=1)
    shared_experts: bool = False
    non_expert_modules: bool = False

    @field_validator("experts")
    @classmethod
    def _in_order(cls, experts: dict[int, tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
        for layer, chosen in experts.items():
            if len(set(chosen)) != len(chosen):
                raise ValueError(f"layer {layer} names an expert twice")
        return {layer: tuple(sorted(experts[layer])) for layer in sorted(experts) if experts[layer]}

    @property
    def count(self) -> int:
        """Chosen experts over all layers."""
        return sum(map(len, self.experts.values()))

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a JSON file. Errors: `ConfigError`, one line."""
        return cls.from_dict(read_json(path, "give a file of coterie select"), str(path))

    def to_file(self, path: str | Path) -> None:
        """Write the JSON file (temporary name, then rename)."""
        write_json(path, self.to_dict(), indent=None)

    def check(self, config: ModelConfig) -> None:
        """Check that every selected expert exists in the model.

        Errors: `ConfigError` for an empty selection, or a layer without experts or without the selected one.
        """
        moes = dict(config.moe_layers())
        for layer, chosen in self.experts.items():
            if layer not in moes:
                raise ConfigError(
                    f"experts: layer {layer} of this {config.family} model has no experts; "
                    "select again for this model"
                )
            num_experts = moes[layer].router.num_experts
            wrong = [expert for expert in chosen if not 0 <= expert < num_experts]
            if wrong:
                raise ConfigError(
                    f"experts: layer {layer} has experts 0 to {num_experts - 1}, not {wrong[0]}; "
                    "select again for this model"
                )
        if not self.experts:
            raise ConfigError("experts: the selection is empty; select at least one expert")
