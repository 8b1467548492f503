"""What a measurement ran on, in words and versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

import torch

_CPUINFO = Path("/proc/cpuinfo")


def machine_words() -> str:
    """Processor, cores and threads in use, for example `AMD EPYC, 2 cores, 2 threads`."""
    name = platform.processor() or platform.machine()
    if _CPUINFO.is_file():
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads{gpu}"


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    packages = {
        name: importlib.metadata.version(name) for name in ("coterie", "torch", "tokenizers", "numpy")
    }
    return {"python": platform.python_version()} | packages
