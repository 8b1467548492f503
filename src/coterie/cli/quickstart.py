"""`coterie quickstart`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from coterie.recipes.quickstart.run import quickstart
from coterie.report.text import summary


def run(minutes: float, data: str | None, seed: int, out: str, threads: int | None, as_json: bool) -> None:
    """Compare, print the summary, say where the report is and how to talk to the model."""
    started = time.monotonic()

    def tell(line: str) -> None:
        print(f"[{time.monotonic() - started:5.0f} s] {line}", file=sys.stderr, flush=True)

    results = quickstart(minutes, data, seed, Path(out), threads, tell)
    if as_json:
        print(json.dumps(results.to_dict()))
        return
    print(summary(results))
    print(f"\nreport: {Path(out) / 'report.html'}")
    print(f"talk to the mixture of experts: coterie chat {results.moe.path}")
    if results.tuned is not None:
        print(f"and after tuning:               coterie chat {results.tuned.path}")
    print(f"or let it go on with a text:    coterie generate {results.moe.path} 'Once upon a time'")
