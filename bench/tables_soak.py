"""Tables of what a server does over a long time and when it is stalled."""

from __future__ import annotations

import statistics
from typing import Any

from markup import table


def soak(record: dict[str, Any]) -> str:
    """One row per thing that must not grow."""
    rows = []
    for name, scale, unit in (("memory_bytes", 1e6, " MB"), ("threads", 1, ""), ("descriptors", 1, "")):
        found = record[name]
        early, late = (f"{found[when] / scale:.0f}{unit}" for when in ("early", "late"))
        rows.append([name.partition("_")[0], early, late, f"{100 * found['growth']:+.2f} %"])
    return (
        "## A server over time\n\n"
        f"{record['clients']} clients request every kind of reply for {record['minutes']:g} minutes; some "
        "disconnect "
        f"or send invalid requests: {sum(record['requests'].values()):,} requests, "
        f"{record['num_failures']} lost. The "
        "columns are medians over the third and the last fifth of the time. Command: "
        f"`python bench/{record['environment']['command']}`.\n\n"
        + table(["", "third fifth", "last fifth", "growth"], rows)
    )


def stall(record: dict[str, Any]) -> str:
    """One row per way to read prompts."""
    rows = []
    for name, rounds in record["rounds"].items():
        row = [statistics.median(turn[key] for turn in rounds) for key in ("gap_p50", "gap_p99", "gap_max")]
        first = statistics.median(turn["first_token_of_long_prompts"] for turn in rounds)
        rows.append([name, *(f"{1000 * value:.0f} ms" for value in row), f"{first:.1f} s"])
    asked = record["settings"]
    return (
        "## Long prompts during replies\n\n"
        f"{asked['talkers']} clients receive replies while another sends prompts of {asked['prompt']} "
        "words, one after "
        f"the other, to a model of {record['parameters']:,} parameters. The gap is the time between two "
        "pieces of a "
        f"reply. Medians of {asked['rounds']} rounds. Command: `python "
        f"bench/{record['environment']['command']}`.\n\n"
        + table(["`--max-stall`", "median gap", "p99", "longest", "first token of long prompts"], rows)
    )
