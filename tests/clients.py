"""Clients whose pins clash with ours, each in an environment of its own that is made once."""

from __future__ import annotations

import os
import subprocess
import venv
from pathlib import Path

import pytest

KEPT = Path(os.environ.get("COTERIE_CLIENT_ENVIRONMENTS", Path.home() / ".cache" / "coterie-test-clients"))


def environment(name: str, *packages: str) -> Path:
    """The interpreter of an environment with the packages; made once. Skips where it cannot be made."""
    folder = KEPT / name
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        done = subprocess.run(
            [python, "-m", "pip", "install", "-q", *packages], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"{name} cannot be installed here: {done.stderr.strip().splitlines()[-1][:200]}")
        (folder / "ready").touch()
    return python


def run(python: Path, arguments: list[str], folder: Path, **more: str) -> str:
    """What a client prints."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [python, *arguments], capture_output=True, text=True, cwd=folder, timeout=300,
        env={**clean, "OPENAI_API_KEY": "none", "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), **more},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
