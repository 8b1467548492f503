"""What the operating system reports about this machine and this process."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from coterie.config.system import first_values

_STATUS = Path("/proc/self/status")
_LIMIT = Path("/sys/fs/cgroup/memory.max")
_GROUPS, _MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def peak_memory_bytes() -> int:
    """Largest amount of memory that this program has held at once.

    Reads Linux's `VmHWM`; `ru_maxrss` would also count what the process was before it became this program.
    """
    peak = first_values(_STATUS).get("VmHWM")
    if peak is not None:
        return 1024 * int(peak.split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory_bytes() -> int:
    """Memory that a process here can ever have: memory and swap of the machine, or the container's limit."""
    import psutil

    limits = [int(psutil.virtual_memory().total + psutil.swap_memory().total)]
    for file in (_LIMIT, *_own_limits()):
        try:
            limit = file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        limits += [int(limit)] if limit.isdigit() and int(limit) else []
    return min(limits)


def _own_limits() -> Iterator[Path]:
    """The files with the limits of this process's own control groups, of either version."""
    try:
        lines = _GROUPS.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            yield _MOUNT / path.lstrip("/") / "memory.max"
        elif "memory" in controllers.split(","):
            yield _MOUNT / "memory" / path.lstrip("/") / "memory.limit_in_bytes"


def weight_memory() -> int:
    """Memory that a model's weights may take here: what a process can have without swap, less a tenth."""
    import psutil

    return min(memory_bytes(), int(psutil.virtual_memory().total)) * 9 // 10


def page_faults() -> dict[str, int]:
    """Page faults of this process so far: those that waited for a disk, and the others."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"major": usage.ru_majflt, "minor": usage.ru_minflt}
