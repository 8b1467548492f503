"""The section of docs/results.md about lm-eval's tasks; `bench/tables.py` puts it on the page."""

from __future__ import annotations

from typing import Any

from markup import table

_WORDS = {"choices": "choices weighed", "replies": "replies written", "texts": "whole texts weighed"}


def harness(record: dict[str, Any]) -> str:
    """One row per model, threads, task and mode: seconds, and the backend's time over ours."""
    sizes = list(record["rows"][0]["tasks"]["choices"]["ratio"]["exact"])
    rows = []
    for run in record["rows"]:
        for task, found in run["tasks"].items():
            for mode, ratios in found["ratio"].items():
                cells = [
                    f"{each['median']:.2f} ({each['low']:.2f} to {each['high']:.2f})"
                    for each in ratios.values()
                ]
                first = [run["model"], str(run["threads"]), _WORDS[task], mode]
                rows.append([*first, f"{found['seconds'][mode]:.1f} s", *cells])
    head = ["model", "threads", "task", "coterie's mode", "coterie"]
    head += [f"backend, batch of {size.partition('-')[2]}" for size in sizes]
    environment = record["environment"]
    return (
        "## lm-eval's tasks, through its Hugging Face backend and through ours\n\n"
        "Local tasks of 80 questions with four choices, 70 with replies of 32 tokens, and 50 texts, on "
        "random mixtures of 64 experts in float32 (8 a token, a vocabulary of 4096). The backend's "
        "time over ours, medians of "
        f"{record['rounds']} rounds in turns and the ends; above 1, coterie is faster. `exact`: an item has "
        "the same bits whatever else is asked. `shared`: sequences share passes. Processor time with one "
        "thread, time on the clock with several. "
        f"{_agreement(record)} Load average {environment['load_average']:.1f}; transformers "
        f"{environment['transformers']}. Command: `python bench/{environment['command']}`.\n\n"
        + table(head, rows)
    )


def _agreement(record: dict[str, Any]) -> str:
    """In words: how far our answers are from the backend's, one item at a time."""
    apart, equal, items = 0.0, 0, 0
    for run in record["rows"]:
        for mode in ("exact", "shared"):
            for found in run["agreement"][mode].values():
                equal, items = equal + found["equal"], items + found["items"]
                apart = max(apart, found.get("largest_relative", 0.0))
    return (
        f"Against the backend one item at a time, {equal} of {items} items have equal replies, flags and "
        f"scores; log-probabilities differ by at most {apart:.1e} of themselves."
    )
