"""The section of docs/results.md about layers with a state; `bench/tables.py` puts it on the page."""

from __future__ import annotations

from typing import Any

from markup import table


def mixers(record: dict[str, Any]) -> str:
    """One row per mixer."""
    rows = [
        [
            name,
            f"{found['seconds']['step']:.2f} s",
            f"{found['ratios']['step']:.2f}",
            f"{found['seconds']['reply']:.2f} s",
            f"{found['ratios']['reply']:.2f}",
            f"{found['kept_per_token']:,.0f}",
            f"{found['training_values']:,}",
        ]
        for name, found in record["models"].items()
    ]
    environment = record["environment"]
    return (
        "## Layers with a state\n\n"
        "Three layers of the mixer and one of attention, width 256, float32, one thread: forward and "
        "backward pass of 4 x 256 tokens, and a greedy reply of 32 tokens to 64. Processor time, and its "
        f"ratio to transformers {environment['transformers']} with its own PyTorch code, medians of "
        f"{record['rounds']} rounds. The last columns: numbers per token that autograd keeps for one such "
        "layer, and what the plan counts. The machine also did other work (load average "
        f"{environment['load_average']:.1f}). Command: `python bench/{environment['command']}`.\n\n"
        + table(["", "step", "ratio", "reply", "ratio", "kept", "planned"], rows)
    )
