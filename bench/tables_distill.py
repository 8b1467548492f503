"""The section on distillation: every student against its control by cross-entropy alone."""

from __future__ import annotations

from typing import Any

from markup import table

ARMS = {"default": "const, topk (default)", "gated": "gated, topk", "full": "const, full"}
_NAMES = {"dense": "dense", "moe": "mixture"}


def distillation(record: dict[str, Any]) -> str:
    """One row per student and seed, one column per arm."""
    runs, teacher, environment = record["runs"], record["teacher"], record["environment"]
    arms = [arm for arm in ARMS if any(arm in run for run in runs.values())]
    rows = []
    for name, run in runs.items():
        student, _, seed = name.partition("-")
        one = run["default"]
        cells = [_cell(run[arm]) if arm in run else "not run" for arm in arms]
        rows.append(
            [_NAMES[student], seed, f"{one['parameters']:,}", f"{one['change']['before']:.3f}", *cells]
        )
    passed = {arm: [run[arm]["passed"] for run in runs.values() if arm in run] for arm in arms}
    verdict = "; ".join(f"{ARMS[arm]}: {sum(found)} of {len(found)}" for arm, found in passed.items())
    tokens = next(iter(runs.values()))["default"]["tokens"]
    words = (
        f"Students after {tokens:,} tokens, with and without a teacher of {teacher['parameters']:,} "
        f"parameters that has {teacher['bits_per_byte']:.3f} bits per byte. Columns of arms: bits per byte "
        "of the distilled student, and the difference to the same student by cross-entropy alone (same "
        "start, same rows in the same order) with its 95 % interval, paired by "
        f"{teacher['documents']} held-out documents that no model has seen. A student passes where the "
        f"interval lies below 0; this was fixed before the runs. Passed: {verdict}. Machine: "
        f"{environment['processor']}, one thread, shared. Command: `python bench/{environment['command']}`."
    )
    head = ["student", "seed", "parameters", "cross-entropy", *(ARMS[arm] for arm in arms)]
    return "## Students with and without a teacher\n\n" + words + "\n\n" + table(head, rows)


def _cell(arm: dict[str, Any]) -> str:
    moved = arm["change"]["change"]
    return (
        f"{arm['change']['after']:.3f} ({moved['value']:+.3f}, {moved['low']:+.3f} to {moved['high']:+.3f})"
    )
