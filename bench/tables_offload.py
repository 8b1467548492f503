"""The section of docs/results.md about experts on disk; `bench/tables.py` puts it on the page."""

from __future__ import annotations

from typing import Any

from markup import table


def offload(record: dict[str, Any]) -> str:
    """One row per form of the weights."""
    rows, environment = [], record["environment"]
    for kind, run in record["runs"].items():
        disk, memory, predicted = run["disk"]["second"], run["memory"]["second"], run["predicted"]
        rows.append(
            [
                "bf16" if kind == "none" else kind,
                f"{run['model_bytes'] / 1e9:.2f} GB",
                f"{run['limit_bytes'] / 1e9:.2f} GB",
                "yes" if run["tokens_equal"] else "no",
                f"{1 / memory['seconds_per_token']:.1f}",
                f"{1 / disk['seconds_per_token']:.1f}",
                f"{1 / predicted['seconds_per_token']:.1f}",
                f"{1 - disk['reads'] / disk['uses']:.0%}",
                f"{disk['bytes_read'] / record['tokens'] / 1e6:.0f} MB",
                f"{disk['major_faults']}",
            ]
        )
    held = all(run["control_group"] for run in record["runs"].values())
    how = "a control group with this limit, Python and the cache of files included" if held else (
        "half the memory, by the peak of the process"
    )  # fmt: skip
    head = ["weights", "model", "memory", "same tokens", "in memory", "on disk", "predicted", "hits"]
    head += ["read per token", "major faults"]
    return (
        "## A model of twice the memory\n\n"
        f"A random mixture ({record['layers']} layers of 64 experts, 4 chosen) generates with all experts in "
        f"memory and no limit, and with experts on disk in {how}. Tokens per second of the second reply of "
        f"{record['tokens']}; `predicted` is what `coterie plan serve` expects with a profile. The machine "
        f"also did other work (load average {environment['load_average']:.1f}). "
        f"Command: `python bench/{environment['command']}`.\n\n" + table(head, rows)
    )
