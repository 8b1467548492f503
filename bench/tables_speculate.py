"""The section of docs/results.md about drafts; `bench/tables.py` puts it on the page."""

from __future__ import annotations

from typing import Any

from markup import table


def drafts(record: dict[str, Any]) -> str:
    """One row per case and number of sequences."""
    rows = [
        [
            f"`{row['case']}`",
            "" if row["right"] is None else f"{row['right']:.0%}",
            str(row["sequences"]),
            *(f"{row['milliseconds'][name]:.2f} ms" for name in ("off", "auto")),
            *(f"{row[name]:.2f}" for name in ("ratio", "drafted", "accepted")),
        ]
        for row in record["rows"]
    ]
    environment = record["environment"]
    head = "case, planned right, sequences, without drafts, with, ratio, drafted, kept"
    return (
        "## Drafted tokens\n\n"
        "Processor time of one token of a reply, without and with drafts, which write the same tokens; the "
        "ratio is without over with, and the last columns are tokens drafted and kept for each token of the "
        "reply. `edit`: SmolLM2-135M-Instruct repeats a program with one name changed; `chat`: it answers a "
        "question; `mixture`: 610 M random numbers in 64 experts, whose drafts are the known reply with "
        f"tokens that are right as often as planned. Weights in {record['kind']}, one thread; medians of "
        f"{record['rounds']} rounds in turns, ratios within a round. The machine also did other work (load "
        f"average {environment['load_average']:.1f}). Command: "
        f"`python bench/{environment['command']}`.\n\n" + table(head.split(", "), rows)
    )
