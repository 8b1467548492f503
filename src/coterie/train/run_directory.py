"""A directory holds one run: other settings need another one."""

from __future__ import annotations

from pathlib import Path

from coterie.config import ConfigError
from coterie.config.run import RunSettings


def check_same_run(config: RunSettings, path: Path) -> None:
    """Compare with the settings in `path`, where there are any.

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
