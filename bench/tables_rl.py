"""The section of docs/results.md about reinforcement's speed; `bench/tables.py` puts it on the page."""

from __future__ import annotations

from typing import Any

from markup import table


def reinforcement_speed(record: dict[str, Any]) -> str:
    """One row per model and state."""
    rows = [
        [
            f"`{row['case']}`",
            *(f"{row['tokens_per_second'][name]:,.0f}" for name in ("coterie", "trl")),
            f"{row['ratio']:.2f}",
            *(f"{row['tokens_per_step'][name]:,.0f}" for name in ("coterie", "trl")),
        ]
        for row in record["rows"]
    ]
    environment = record["environment"]
    head = "model, tokens/s, trl's, ratio, tokens of a step, trl's"
    return (
        "## Reinforcement\n\n"
        "Sampled tokens per second of whole steps (128 replies are sampled, judged and learnt from), against "
        f"`GRPOTrainer` of trl {environment['trl']} on transformers {environment['transformers']}: the same "
        "models of 4 layers of width 256, the mixture with 8 experts of which a token uses 2, prompts, "
        "reward and optimiser, in float32. `fresh` models write replies of equal length; those of `tuned` "
        "ones differ as in a run. "
        f"Medians of {record['rounds']} rounds of {record['steps']} steps in turns, ratios within a round "
        f"(load average {environment['load_average']:.1f}). Command: "
        f"`python bench/{environment['command']}`.\n\n" + table(head.split(", "), rows)
    )
