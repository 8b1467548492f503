"""Write docs/results.md from the records in bench/results; with --check, fail when it is not up to date."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "results.md"
INTRODUCTION = """# Results

Every figure on this page is drawn from a record in `bench/results` by `python bench/tables.py`. The machines are shared
and differ, so read the ratios, which were taken within one run, rather than the absolute times.
"""


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def load(name: str) -> dict[str, Any] | None:
    path = RESULTS / name
    return json.loads(path.read_text()) if path.is_file() else None


def quickstart(record: dict[str, Any]) -> str:
    """One row per seed."""
    rows = []
    for run in record["runs"]:
        d, moe, dense, same = run["difference"], run["moe"], run["dense"], run["equal_time"]
        rows.append(
            [
                str(run["seed"]),
                f"{moe['tokens'] / 1e6:.2f} M",
                f"{moe['bits_per_byte']['value']:.4f}",
                f"{dense['bits_per_byte']['value']:.4f}",
                f"{d['value']:+.4f} ({d['low']:+.4f} to {d['high']:+.4f})",
                f"{same['moe']:.3f} / {same['dense']:.3f}" if same else "not measured",
                f"{moe['step_ms'] / dense['step_ms']:.2f}",
                f"{moe['decode_tokens_per_second'] / dense['decode_tokens_per_second']:.2f}",
                f"{run['total_seconds']:.0f} s",
            ]
        )
    head = (
        "seed, tokens, MoE, dense, MoE minus dense, at equal time (MoE / dense), step time ratio, decode speed ratio, "
    )
    head += "whole run"
    first = record["runs"][0]
    active = f"{first['moe']['active_parameters']:,} and {first['dense']['active_parameters']:,} active parameters"
    total = f"{first['moe']['total_parameters']:,} and {first['dense']['total_parameters']:,} in all"
    return (
        "## Mixture of experts against its dense twin\n\n"
        "Held-out bits per byte of the quickstart's pair (lower is better; 95 % interval over documents) at equal "
        f"tokens, with {active}, {total}. At equal time both are read at the last moment before the learning rate "
        "decays. "
        f"Machine: {first['machine']}. Command: `python bench/{record['environment']['command']}`.\n\n"
        + table(head.split(", "), rows)
    )


def train_step(record: dict[str, Any]) -> str:
    """One table of ratios, a column per precision and thread count."""
    runs = record["runs"]
    names = list(dict.fromkeys(name for run in runs.values() for name in run["ratios"]))
    rows = [[f"`{name}`", *(f"{run['ratios'].get(name, float('nan')):.2f}" for run in runs.values())] for name in names]
    environment = record["environment"]
    return (
        "## One training step\n\n"
        "Time of coterie's step over the other's (below 1 is faster): forward, backward and AdamW, a fresh random "
        f"batch and so a fresh routing every step, medians of {record['repeats']} rounds. One thread by processor "
        f"time, two by wall time. Machine: {environment['processor']}; torch {environment['torch']}, transformers "
        f"{environment['transformers']}. Command: `python bench/{environment['command']}`.\n\n"
        + table(["step : against", *runs], rows)
    )


def forward(record: dict[str, Any]) -> str:
    """Ratios of prompts and of replies, a pair of columns per precision and thread count."""
    runs = record["runs"]
    names = list(dict.fromkeys(name for run in runs.values() for name in run["ratios"]))
    rows = [
        [f"`{name}`", *(f"{run['ratios'][name][part]:.2f}" for run in runs.values() for part in ("prefill", "decode"))]
        for name in names
    ]
    head = ["reply : against", *(f"{part}, {key}" for key in runs for part in ("prompt", "reply"))]
    environment = record["environment"]
    return (
        "## A prompt of 512 tokens and a reply of 64\n\n"
        "Time of coterie's engine over a loop of transformers' forward passes (below 1 is faster), medians of "
        f"{record['repeats']} rounds. Machine: {environment['processor']}; transformers "
        f"{environment['transformers']}. Command: `python bench/{environment['command']}`.\n\n" + table(head, rows)
    )


def load_time(record: dict[str, Any]) -> str:
    """One row per side and one of ratios."""
    rows = [
        [side, f"{found['seconds']:.2f} s", f"{found['peak_bytes'] / 1e9:.2f} GB"]
        for side, found in record["sides"].items()
    ]
    ratios = record["ratios"]
    rows.append(["coterie : transformers", f"{ratios['seconds']:.2f}", f"{ratios['peak_bytes']:.2f}"])
    return (
        "## Loading\n\n"
        f"A mixture of experts of {record['parameters']:,} parameters in {record['file_bytes'] / 1e9:.2f} GB of "
        f"bfloat16 shards, fresh processes, files in page cache, medians of {record['repeats']} rounds. Command: "
        f"`python bench/{record['environment']['command']}`.\n\n" + table(["", "time", "peak memory"], rows)
    )


def render() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for name, draw in (
        ("quickstart.json", quickstart),
        ("train_step.json", train_step),
        ("forward.json", forward),
        ("load.json", load_time),
    ):
        record = load(name)
        if record is not None:
            parts.append(draw(record) + "\n")
    return "\n".join(parts)


def main() -> None:
    """Write the page, or check it."""
    page = render()
    if "--check" not in sys.argv:
        PAGE.write_text(page)
    elif not PAGE.is_file() or PAGE.read_text() != page:
        sys.exit(f"{PAGE.name} is not up to date; ")


if __name__ == "__main__":
    main()
