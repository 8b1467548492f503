"""Facts about this machine for people: processor, versions of packages, and what `coterie doctor` reports."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil

import psutil
import torch

from coterie.config.system import processor_facts
from coterie.machine.device import choose_device, choose_dtype


def machine_words() -> str:
    """Processor, cores and threads in use, for example `AMD EPYC, 2 cores, 2 threads`."""
    name = processor_facts().get("model name") or platform.processor() or platform.machine()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    count = torch.get_num_threads()
    return f"{name}, {os.cpu_count()} cores, {count} thread{'s' * (count != 1)}{gpu}"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    packages = {
        name: importlib.metadata.version(name) for name in ("coterie", "torch", "tokenizers", "numpy")
    }
    return {"python": platform.python_version()} | packages


def machine_report() -> tuple[dict[str, str | int | bool | None], list[str]]:
    """The facts of this machine by name, and the problems that a run here would meet, one line each."""
    device = choose_device("auto")
    free = shutil.disk_usage(".").free
    transformers = importlib.util.find_spec("transformers") is not None
    facts: dict[str, str | int | bool | None] = {
        "coterie": importlib.metadata.version("coterie"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {platform.machine()}",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "training precision": str(choose_dtype("auto", device)).removeprefix("torch."),
        "oneDNN": torch.backends.mkldnn.is_available(),
        "memory": f"{psutil.virtual_memory().total / 1e9:.1f} GB",
        "free disk": f"{free / 1e9:.1f} GB",
        "transformers": importlib.metadata.version("transformers")
        if transformers
        else "not installed (only tests need it)",
    }
    problems = []
    if free < 2e9:
        problems.append("less than 2 GB of free disk: a quickstart may not fit")
    if torch.get_num_threads() > (os.cpu_count() or 1):
        problems.append("more threads than cores: set OMP_NUM_THREADS or --threads")
    return facts, problems
