"""Checks that a directory holds one run only: other settings or other inputs need another directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from coterie.checkpoints.commit import step_directories
from coterie.config import ConfigError
from coterie.config.base import read_yaml
from coterie.config.files import read_json, write_json, write_text
from coterie.config.run import RunSettings

SETTINGS, INPUTS = "config.yaml", "inputs.json"
_NESTED = ("optimiser", "schedule", "data", "policy", "pass_at", "weighting")  # compared one by one
_OPEN: tuple[Any, ...] = ("auto", {}, None)  # values of settings that leave the choice to the run


def check_same_run(config: RunSettings, path: Path, stated: Mapping[str, Any] | None = None) -> None:
    """Compare a run's settings with those in `path`, if that file exists.

    `stated`: the settings with every choice made; without them only settings that make a choice are compared,
    which can be done before anything is loaded. Errors: `ConfigError` naming the first key that differs.
    """
    if not path.is_file():
        return
    before = _flat(read_yaml(path))
    now = _flat(config.to_dict() if stated is None else stated)
    for key, value in now.items():
        free = key.split(".")[0] in config.free_to_change
        if free or key not in before or value in _OPEN or before[key] in _OPEN:
            continue
        if before[key] != value:
            raise ConfigError(
                f"{path}: holds a run with another '{key}' ({before[key]}, now {value}); choose another "
                f"'out', or remove {path.parent} to start anew"
            )


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted name; of `train` only the groups that are trained: not naming a group freezes it."""
    result: dict[str, Any] = {}
    for key, value in settings.items():
        if key == "train" and isinstance(value, Mapping):
            result[key] = {group: how for group, how in value.items() if how != "freeze"}
        elif key in _NESTED and isinstance(value, Mapping):
            result |= {f"{key}.{name}": _closed(item) for name, item in value.items()}
        else:
            result[key] = value
    return result


def _closed(value: Any) -> Any:
    """The settings of a list without those that are None; runs of earlier versions wrote them."""
    if not isinstance(value, list):
        return value
    return [
        {name: item for name, item in entry.items() if item is not None}
        if isinstance(entry, Mapping)
        else entry
        for entry in value
    ]


def check_same_inputs(out: Path, inputs: Mapping[str, str]) -> None:
    """Refuse to resume over inputs that changed since the run began.

    `inputs`: what the run reads, in words -> a hash of its content. They are compared only where the
    directory holds a checkpoint, because only then does a run go on.
    Errors: `ConfigError` naming the first input that changed.
    """
    file = out / INPUTS
    if not file.is_file() or not step_directories(out / "checkpoints"):
        return
    before = read_json(file)
    for what, digest in inputs.items():
        if what in before and before[what] != digest:
            raise ConfigError(
                f"{out}: its checkpoints had another {what} ({str(before[what])[:12]}, now {digest[:12]}): "
                f"changed since the run began; restore it, choose another 'out', or remove {out}"
            )


def write_settings(out: Path, stated: Mapping[str, Any]) -> None:
    """Write `config.yaml`: the settings that a reader can believe, and that run again do the same."""
    write_text(out / SETTINGS, yaml.safe_dump(dict(stated), sort_keys=False))


def write_inputs(out: Path, inputs: Mapping[str, str]) -> None:
    """Write down what the run reads, for `check_same_inputs`."""
    write_json(out / INPUTS, dict(inputs))
