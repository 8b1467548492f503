"""`coterie report` and `coterie doctor`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

from coterie.config import ConfigError


def report(run_dir: str, as_json: bool) -> None:
    """Draw `report.html` of a quickstart again and print the summary."""
    from coterie.recipes.quickstart.run import redraw
    from coterie.report.text import summary

    results, path = redraw(Path(run_dir))
    print(json.dumps(results.to_dict()) if as_json else f"{summary(results)}\n\nreport: {path}")


def doctor(as_json: bool) -> None:
    """Print what this machine offers, and exit with status 1 when something needed is missing."""
    import torch

    from coterie.machine.device import choose_device, choose_dtype

    device = choose_device("auto")
    free = shutil.disk_usage(".").free
    facts: dict[str, Any] = {
        "coterie": _version("coterie"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {platform.machine()}",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "training precision": str(choose_dtype("auto", device)).removeprefix("torch."),
        "oneDNN": torch.backends.mkldnn.is_available(),
        "memory": f"{_memory_bytes() / 1e9:.1f} GB",
        "free disk": f"{free / 1e9:.1f} GB",
        "transformers": _version("transformers") or "not installed (only tests need it)",
    }
    problems = []
    if free < 2e9:
        problems.append("less than 2 GB of free disk: a quickstart may not fit")
    if torch.get_num_threads() > (os.cpu_count() or 1):
        problems.append("more threads than cores: set OMP_NUM_THREADS or --threads")
    if as_json:
        print(json.dumps(facts | {"problems": problems}))
    else:
        print("\n".join(f"{name:<20}{value}" for name, value in facts.items()))
        print("\n".join(f"problem: {problem}" for problem in problems) if problems else "no problems found")
    if problems:
        raise SystemExit(1)


def _version(package: str) -> str | None:
    return importlib.metadata.version(package) if importlib.util.find_spec(package) else None


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        raise ConfigError("doctor: this system does not tell its memory size") from None
