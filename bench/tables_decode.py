"""The section of docs/results.md about decoding steps; `bench/tables.py` puts it on the page."""

from __future__ import annotations

from typing import Any

from markup import table

_OTHERS = ("torch", "transformers", "llama.cpp")


def decoding(record: dict[str, Any]) -> str:
    """One row per model, kind, threads and number of sequences."""
    rows = [
        [
            row["model"], row["kind"], str(row["threads"]), str(row["sequences"]),
            f"{row['milliseconds']['native']:.2f} ms",
            *(f"{row['ratio'][name]:.2f}" if name in row["ratio"] else "" for name in _OTHERS),
            f"{row['spread']['native']:.0%}",
        ]
        for row in record["rows"]
    ]  # fmt: skip
    environment = record["environment"]
    return (
        "## A decoding step\n\n"
        "One token for each sequence, after prompts of 160 tokens, sampling and the engine included: the "
        "native step, and how many times longer others take with the same weights: coterie on PyTorch, "
        f"transformers {environment['transformers']}, and llama.cpp, whose 8 and 4 bits are Q8_0 and Q4_0. "
        "Shapes: `small` 22 M numbers in 8 experts, `mixture` 610 M in 64, `smollm2` 135 M dense, all "
        "random. Processor time "
        f"with one thread, time on the clock with several; medians of {record['rounds']} rounds in turns, "
        "ratios within a round. The machine also did other work (load average "
        f"{environment['load_average']:.1f}). Command: `python bench/{environment['command']}`"
        f"{', stopped before its end' if record.get('stopped_early') else ''}.\n\n"
        + table(["model", "weights", "threads", "sequences", "native", *_OTHERS, "spread"], rows)
    )
