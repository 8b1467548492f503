"""The section of docs/results.md about what big operations cost; `bench/tables.py` puts it on the page."""

from __future__ import annotations

from typing import Any

from markup import table

WORDS = {
    "upcycle": "upcycle to four experts",
    "densify copies": "densify, experts still copies",
    "densify": "densify, experts that differ",
    "prune": "prune to half",
    "merge": "merge an adapter",
    "convert": "convert to bfloat16",
    "profile": "profile",
}


def operations(record: dict[str, Any]) -> str:
    """One row per operation."""
    rows = [
        [
            WORDS[name],
            str(row["layers"]),
            " / ".join(row["commits"].values()),
            f"{row['before']['cpu_seconds']:.0f} / {row['after']['cpu_seconds']:.0f} s",
            f"{row['cpu_ratio']:.1f}",
            f"{row['before']['peak_bytes'] / 1e9:.2f} / {row['after']['peak_bytes'] / 1e9:.2f} GB",
            f"{row['peak_ratio']:.2f}",
            f"{row['result_bytes'] / 1e9:.2f} GB" if row["result_bytes"] else "a file",
        ]
        for name, row in record["operations"].items()
    ]
    environment = record["environment"]
    return (
        "## What big operations cost\n\n"
        "Processor time and peak memory of commands on a random float32 model of SmolLM2-135M's widths, at "
        "two commits (both at the same time, one core each; ratios above 1 are savings). Memory includes "
        f"Python and its libraries, about 0.3 GB. Machine: {environment['processor']}. "
        "Command: `python bench/operations.py OTHER_CHECKOUT`.\n\n"
        + table(
            ["operation", "layers", "commits", "processor time", "ratio", "peak memory", "ratio", "result"],
            rows,
        )
    )
