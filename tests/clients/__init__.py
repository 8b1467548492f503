"""Released clients, each in an environment of its own that is made once: pip or npm, with exact versions.

An environment that cannot be made skips its tests with one line that names the client and its version.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import venv
from pathlib import Path
from typing import Any

import pytest

from coterie.serve.server import ServerThread
from tests.serve.support import call, eventually

KEPT = Path(os.environ.get("COTERIE_CLIENT_ENVIRONMENTS", Path.home() / ".cache" / "coterie-test-clients"))
SCRIPTS = Path(__file__).parent / "scripts"
_INSTALL, _RUN = 900, 300  # seconds

# Name -> the packages of its environment; the newest of 2026-11-28, and of litellm also the one that aider
# 0.86.2 pins.
PYTHON = {
    "openai": ("openai==3.57.0",),
    "anthropic": ("anthropic==2.14.0",),
    "ollama": ("ollama==0.6.3",),
    "litellm": ("litellm==1.110.2",),
    "litellm-old": ("litellm==1.81.16",),
    "instructor": ("instructor==1.17.0",),
    "pydantic-ai": ("pydantic-ai-slim[openai]==2.68.0",),
    "langchain": ("langchain-openai==1.7.4",),
    "llamaindex": ("llama-index-llms-openai-like==0.8.1",),
    "aider": ("aider-chat==0.86.2",),
}
NODE = {
    "openai-js": ("openai@7.59.0", "zod@4.6.7"),
    "anthropic-js": ("@anthropic-ai/sdk@1.14.0", "zod@4.6.7"),
    "ollama-js": ("ollama@0.6.4", "zod@4.6.7"),
    "ai-sdk": (
        *("ai@7.0.173", "@ai-sdk/openai@4.0.118", "@ai-sdk/openai-compatible@3.0.92"),
        *("@ai-sdk/anthropic@4.0.105", "zod@4.6.7"),
    ),
    "langchain-js": ("@langchain/openai@1.6.0", "@langchain/core@1.4.0", "zod@4.6.7"),
    "codex": ("@openai/codex@0.171.0",),
    "opencode": ("opencode-ai@1.18.33",),
    "qwen-code": ("@qwen-code/qwen-code@0.15.10",),
}


def environment(name: str, *packages: str) -> Path:
    """The interpreter of an environment with the packages; made once. Skips where it cannot be made."""
    folder = KEPT / name
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        _install(name, packages, [str(python), "-m", "pip", "install", "-q", *packages], folder)
    return python


def node_environment(name: str, *packages: str) -> Path:
    """A folder whose node_modules hold the packages; made once. Skips where it cannot be made."""
    folder = KEPT / name
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip(f"{packages[0]} needs node and npm, and this machine has none")
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "package.json").write_text('{"private": true, "type": "module"}')
        _install(name, packages, ["npm", "install", "--no-audit", "--no-fund", *packages], folder)
    return folder


def _install(name: str, packages: tuple[str, ...], command: list[str], folder: Path) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, timeout=_INSTALL, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1][:200]
        pytest.skip(f"{name} ({', '.join(packages)}) cannot be installed here: {last}")
    (folder / "ready").touch()


def pinned(name: str) -> Path:
    """The interpreter (pip) or the folder (npm) of a client of the tables above."""
    packages = PYTHON.get(name) or NODE[name]
    version = packages[0].replace("==", "@").rpartition("@")[2]
    make = environment if name in PYTHON else node_environment
    return make(f"{name}-{version}", *packages)


def run(python: Path, arguments: list[str], folder: Path, **more: str) -> str:
    """What a client prints."""
    done = subprocess.run(
        [python, *arguments], capture_output=True, text=True, cwd=folder, timeout=_RUN,
        env=clean_environment(folder, **more), stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, (done.stderr + done.stdout)[-3000:]
    return done.stdout


def clean_environment(folder: Path, **more: str) -> dict[str, str]:
    """Variables of a client's process: ours without Python's, and a home of its own."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    own = {"OPENAI_API_KEY": "none", "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    return {**clean, **own, **more}


def play(name: str, script: str, part: str, url: str, folder: Path) -> Any:
    """Run one part of a client's script against the server; return what its last line says, as JSON."""
    found = pinned(name)
    if name in PYTHON:
        printed = run(found, [str(SCRIPTS / script), url, part], folder)
    else:  # node looks for packages beside the script
        for file in (script, "parts.mjs"):
            shutil.copyfile(SCRIPTS / file, found / file)
        printed = run(Path("node"), [str(found / script), url, part], folder)
    return json.loads(printed.strip().splitlines()[-1])


class Watch:
    """The replies that a server drops while a block runs; at its end nothing may run on."""

    def __init__(self, server: ServerThread) -> None:
        self._server = server

    def cancelled(self) -> int:
        """`coterie_cancelled_total` as the server reports it."""
        text = call(self._server.url, "GET", "/metrics")[2]
        (line,) = (line for line in text.splitlines() if line.startswith("coterie_cancelled_total "))
        return int(float(line.split()[-1]))

    def __enter__(self) -> Watch:
        self._before = self.cancelled()
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None:
            eventually(lambda: self.cancelled() > self._before)
            eventually(lambda: self._server.service.engine.num_running == 0)
