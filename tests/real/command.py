"""A command of coterie in its own process: what it printed, its seconds and its peak memory.

As a script (`command.py FIGURES.json run MODEL ...`) it is that process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LONGEST = 900  # seconds


def measured(words: list[str], given: str = "") -> tuple[str, dict[str, float]]:
    """What `coterie WORDS` printed, and `seconds`, `cpu_seconds` and `peak_bytes` (Linux only) of it.

    `given`: its standard input. Errors: `AssertionError` with the last lines of a command that failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        begun = time.perf_counter()
        done = subprocess.run(
            [sys.executable, __file__, str(figures), *words],
            input=given,
            capture_output=True,
            text=True,
            timeout=LONGEST,
            check=False,
        )
        seconds = time.perf_counter() - begun
        said = (done.stderr + done.stdout).strip().splitlines()
        assert done.returncode == 0, f"coterie {' '.join(words)}: " + "\n".join(said[-12:])
        return done.stdout, {"seconds": seconds, **json.loads(figures.read_text())}


def _main() -> None:
    """Run the command of the arguments, and write its figures at the end."""
    from coterie.cli.main import main

    figures = Path(sys.argv.pop(1))
    try:
        main()
    finally:
        times = os.times()
        found: dict[str, Any] = {"cpu_seconds": times.user + times.system}
        status = Path("/proc/self/status")
        lines = status.read_text().splitlines() if status.is_file() else []
        for line in lines:
            if line.startswith("VmHWM:"):
                found["peak_bytes"] = int(line.split()[1]) * 1024
        figures.write_text(json.dumps(found))


if __name__ == "__main__":
    sys.path.pop(0)
    _main()
