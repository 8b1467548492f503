"""Checks that a directory holds one run only: other settings need another directory."""

from __future__ import annotations

from pathlib import Path

from coterie.config import ConfigError
from coterie.config.run import RunSettings


def check_same_run(config: RunSettings, path: Path) -> None:
    """Compare `config` with the settings in `path`, if that file exists.

    Errors: `ConfigError` naming the first key that differs.
    """
    if not path.is_file():
        return
    before, now = type(config).from_yaml(path).to_dict(), config.to_dict()
    for key in now:
        if key not in config.free_to_change and before[key] != now[key]:
            raise ConfigError(
                f"{path}: holds a run with another '{key}'; choose another 'out', or remove "
                f"{path.parent} to start anew"
            )
