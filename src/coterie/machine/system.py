"""What the operating system reports about this machine and this process."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from coterie.config.system import first_values

_STATUS = Path("/proc/self/status")
_LIMIT = Path("/sys/fs/cgroup/memory.max")


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

    whole = int(psutil.virtual_memory().total + psutil.swap_memory().total)
    try:
        limit = _LIMIT.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        limit = ""
    return min(whole, int(limit)) if limit.isdigit() else whole
