"""Train one of the twins in a separate process, by the command that a user would type."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from pathlib import Path

from coterie.config import TrainingError
from coterie.config.run import TrainConfig

_log = logging.getLogger("coterie")


def train_twin(config: TrainConfig, path: Path) -> None:
    """Train by `coterie train` with the settings that are written to `path`; return at once if it is done.

    The peak memory of the separate process is the twin's alone.
    Errors: `TrainingError` when it failed or was stopped; running again resumes from its last checkpoint.
    """
    model = Path(config.out) / "model"
    if model.is_dir():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    config.to_yaml(path)
    _log.info(f"training: coterie train {path}")
    command = [sys.executable, "-m", "coterie.cli.main", "train", str(path)]
    # A new session keeps the terminal's Ctrl-C from the process, which gets it from here, and only once: at
    # the first one it saves a checkpoint, at a second one it ends without saving.
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        code = process.wait()
    except BaseException:
        process.send_signal(signal.SIGINT)
        try:
            process.wait()
        except KeyboardInterrupt:
            process.kill()
        raise
    if code != 0 or not model.is_dir():
        raise TrainingError(
            f"{path}: training ended before its budget; run the same command again to resume it"
        )
