"""What the system says about this machine and its user, for every layer above."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
# What tells one kind of processor from another, on x86 and on Arm.
_NAMES = ("model name", "cpu family", "model", "stepping", "CPU implementer", "CPU part", "CPU revision")


def processor_facts() -> dict[str, str]:
    """What Linux reports of the first processor (`model name`, `flags`, ...); empty on other systems."""
    return first_values(_CPUINFO)


def processor_kind() -> str:
    """The processor's name and revision, for example `AMD EPYC 25 17 1`."""
    facts = processor_facts()
    found = [facts[name] for name in _NAMES if name in facts]
    return " ".join(found) or platform.processor() or platform.machine()


def user_cache() -> Path:
    """Coterie's folder in the user's cache (`XDG_CACHE_HOME`, or ~/.cache); it may not exist."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "coterie"


def user_state() -> Path:
    """Coterie's folder for what must not be lost (`XDG_STATE_HOME`, or ~/.local/state); it may not exist."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "coterie"


def first_values(path: Path) -> dict[str, str]:
    """`name: value` lines of a kernel file, the first of each name; empty where the file does not exist."""
    found: dict[str, str] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            name, colon, value = line.partition(":")
            if colon:
                found.setdefault(name.strip(), value.strip())
    return found
