"""A directory holds one run: other settings need another one."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from coterie.config import ConfigError
from coterie.config.base import Settings


def check_same_run(config: Settings, path: Path, free: Collection[str]) -> None:
    """Compare with the settings in `path`, where there are any; `free`: keys that do not change what is computed.

    Errors: `ConfigError` naming the first key that differs.
    """
    if not path.is_file():
        return
    before, now = type(config).from_yaml(path).to_dict(), config.to_dict()
    for key in now:
        if key not in free and before[key] != now[key]:
            raise ConfigError(
                f"{path}: holds a run with another '{key}'; choose another 'out', or remove {path.parent} to start anew"
            )
