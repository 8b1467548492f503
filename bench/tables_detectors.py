"""The section of docs/results.md about detectors of learnt items; `bench/tables.py` puts it on the page."""

from __future__ import annotations

import statistics
from typing import Any

from markup import table

TESTS = ("D2", "D3", "D4", "D7", "D8")


def detectors(record: dict[str, Any]) -> str:
    """How often each fires, a row for each number of times that the items were read."""
    set_by, clean, alpha = record["settings"], record["clean"], record["settings"]["alpha"]
    rows = [["not", *_fired(clean, alpha)]]
    for times, found in record["read"].items():
        rows.append(["once" if times == "1" else f"{times} times", *_fired(found, alpha)])
    seconds = sum(one["seconds"] for found in (clean, *record["read"].values()) for one in found)
    head = ["items were read", "models or item sets", "D1: items found", *TESTS, "D5: twins below"]
    first, further = set_by["steps"]
    runs = len(next(iter(record["read"].values())))
    return (
        "## Detectors of contamination\n\n"
        f"A mixture of {record['parameters']:,} parameters reads {first * set_by['step_tokens']:,} tokens "
        f"of the embedded corpus. Copies of it read {further * set_by['step_tokens']:,} more, among which a "
        f"file of {set_by['items']} items of `facts` with its canary stands once, four or sixteen times; "
        "each copy has items of another seed. The first row is a copy without them, asked about "
        f"{set_by['clean_items']} items of each of {len(clean)} seeds: its column of a test is the rate of "
        f"false alarms at p < {alpha:g}, before the correction over a report. D1 looks items up in the "
        "index of what was read; the rest of them are too short to be looked up. D5 has no verdict; 50 % "
        f"is chance. D4 tries {set_by['orders']} orders of each of at most {set_by['shards']} shards, D7 at "
        f"most {set_by['canaries']} other canaries. {runs} copies in each row tell rates apart roughly: "
        f"none of {runs} still allows for a rate of {100 * (1 - 0.05 ** (1 / runs)):.0f} %. {seconds:.0f} "
        f"seconds of one core. Command: `python bench/{record['environment']['command']}`.\n\n"
        + table(head, rows)
    )


def _fired(found: list[dict[str, Any]], alpha: float) -> list[str]:
    shares = [f"{sum(one[name] < alpha for one in found)} of {len(found)}" for name in TESTS]
    seen, place = (statistics.mean(one[name] for one in found) for name in ("D1", "D5"))
    return [str(len(found)), f"{100 * seen:.0f} %", *shares, f"{100 * place:.0f} %"]
