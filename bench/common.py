"""What every benchmark shares: timing, the description of the machine, and the JSON result."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """(wall, process CPU) seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def median(values: list[float]) -> float:
    """The middle value."""
    return statistics.median(values)


def median_ratio(ours: list[float], theirs: list[float]) -> float:
    """Median over rounds of ours / theirs, each ratio taken within one round so that slow spells cancel."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def environment() -> dict[str, Any]:
    """Machine, versions and command of this run."""
    import transformers

    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _processor() -> str:
    """Name, family and model: generations of processors share names."""
    wanted = ("model name", "cpu family", "model")
    found: dict[str, str] = {}
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        key, _, value = line.partition(":")
        if key.strip() in wanted:
            found.setdefault(key.strip(), value.strip())
    return ", ".join(f"{key} {found[key]}" for key in wanted if key in found) or platform.processor()


def resident(field: str) -> int:
    """Bytes of this process, mapped pages that were touched included: `VmRSS` now, `VmHWM` at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {field}: memory is measured on Linux only")


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
