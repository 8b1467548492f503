"""What runs a model, for the record next to its scores."""

from __future__ import annotations

import importlib.metadata
import subprocess
from functools import cache
from pathlib import Path

import torch

import coterie
from coterie.checkpoints.quantise import held_forms
from coterie.evidence.canonical import digest_of
from coterie.machine.facts import machine_words
from coterie.nn.transformer import Transformer
from coterie.results.evaluation import ExecProfile


def exec_profile(model: Transformer, kernels: str = "", batch_invariant: bool | None = None) -> ExecProfile:
    """The profile of a model in this process. `kernels`: what its decoding steps run on, in words.

    `batch_invariant`: what was measured; None where nothing was. No token is ever dropped by this engine.
    """
    device = model.embed.weight.device
    commit, dirty = _commit()
    return ExecProfile(
        engine="coterie",
        version=importlib.metadata.version("coterie"),
        dtype=str(model.compute_dtype).removeprefix("torch."),
        quantisation=held_forms(model),
        kernels=kernels,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        processor=machine_words(),
        threads=torch.get_num_threads(),
        dropless=True,
        batch_invariant=batch_invariant,
        torch=torch.__version__,
        libraries=_libraries(),
        commit=commit,
        dirty=dirty,
    )


@cache
def _libraries() -> str:
    """Digest over the names and versions of all installed packages."""
    found = {(one.metadata["Name"] or "", one.version) for one in importlib.metadata.distributions()}
    return digest_of([list(one) for one in sorted(found)])


@cache
def _commit() -> tuple[str | None, bool | None]:
    """The commit that this program was checked out at and whether files differ; None where it is installed.

    Git answers for any folder above too, so it must know this very package.
    """
    package = Path(coterie.__file__).parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *words], cwd=package, capture_output=True, text=True, check=False, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    status = git("status", "--porcelain", "--untracked-files=no", ".")
    return git("rev-parse", "HEAD"), None if status is None else bool(status)
