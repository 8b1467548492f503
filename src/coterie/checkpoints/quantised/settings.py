"""How a directory says that its weights are quantised: in config.json, or in a file next to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.checkpoints.locate import read_json
from coterie.config import CheckpointError
from coterie.families import quantisation_of

# Separate files that older quantisers write -> the method they speak of where they name none. They
# describe the weights next to them and do not travel to others.
SIDE_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq", "hf_quant_config.json": "modelopt"}


@dataclass(frozen=True)
class QuantSettings:
    """The quantisation that a file describes. `where`: the file, for messages."""

    values: Mapping[str, Any]
    where: str

    def number(self, key: str, default: int | None = None) -> int:
        """A whole number. Errors: `CheckpointError` for anything else."""
        value = self.values.get(key, default)
        if type(value) is not int:
            raise CheckpointError(f"{self.where}: {key} is {value!r}; a whole number is expected")
        return value

    def word(self, key: str, default: str = "") -> str:
        """A text in lower case. Errors: `CheckpointError` for anything else."""
        value = self.values.get(key)
        value = default if value is None else value
        if not isinstance(value, str):
            raise CheckpointError(f"{self.where}: {key} is {value!r}; a text is expected")
        return value.lower()

    def table(self, key: str) -> Mapping[str, Any]:
        """An object; empty where it is missing. Errors: `CheckpointError` for anything else."""
        value = self.values.get(key)
        value = {} if value is None else value
        if not isinstance(value, dict):
            raise CheckpointError(f"{self.where}: {key} is {value!r}; an object is expected")
        return value

    def refused(self, what: str) -> CheckpointError:
        """The error for a form that is not read here."""
        return CheckpointError(f"{self.where}: {what}; save the weights in bfloat16 first")


def stated(directory: Path, raw: Mapping[str, Any]) -> QuantSettings | None:
    """What config.json (`raw`) or a file next to it says of the quantisation; None where nothing does.

    Errors: `CheckpointError` for a description that is not an object.
    """
    found, where = quantisation_of(raw), directory / "config.json"
    where_key = "quantization_config"
    if found is None and raw.get("compression_config") is not None:  # as compressed-tensors called it first
        found, where_key = raw["compression_config"], "compression_config"
        found = {"quant_method": "compressed-tensors", **found} if isinstance(found, dict) else found
    if found is not None:
        if not isinstance(found, dict):
            raise CheckpointError(f"{where}: {where_key} is {found!r}; an object is expected")
        return QuantSettings(found, f"{where}: {where_key}")
    for name, method in SIDE_FILES.items():
        if (directory / name).is_file():
            values = read_json(directory / name)
            inner = values.get("quantization")  # ModelOpt's file has who wrote it next to it
            values = inner if isinstance(inner, dict) else values
            return QuantSettings({"quant_method": method, **values}, str(directory / name))
    return None
