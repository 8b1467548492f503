"""The section of docs/results.md about what fewer bits cost; `bench/tables.py` puts it on the page."""

from __future__ import annotations

from typing import Any

from markup import table

NAMES = {
    "smollm2": "SmolLM2-135M-Instruct",
    "moe": "the quickstart's mixture of experts",
    "dense": "its dense twin",
}


def _form(name: str, quant: str) -> str:
    """The form, with the size of blocks where the rows of a matrix take no larger ones."""
    small = [size for size in ("block=8", "block=16") if f",{size}," in f",{quant},"]
    return f"{name.partition(', blocks')[0]}, {small[0].replace('block=', 'blocks of ')}" if small else name


def quantised(record: dict[str, Any]) -> str:
    """A table for each model, one row per form."""
    environment = record["environment"]
    parts = [
        "## What fewer bits cost",
        "What `coterie quantise` writes, read back; activations are float32. Bits per byte are of "
        f"{record['tokens']:,} tokens that neither training nor calibrating read; KL (nats) and the share of "
        f"the same best token are against float32 at {record['positions']:,} positions. Right answers: "
        "completions with one right word (SmolLM2), the corpus's own questions (the pair). Calibrated: "
        "`--calibrate primer`. int4 is in blocks of 32 where nothing is said, int8 of 64; the embedding "
        "of a quantised model is bfloat16. "
        "SmolLM2 comes from a file in 4 bits (Q4_1), so its float32 numbers lie on a grid already. Time is "
        f"of the processor (load average {environment['load_average']:.1f}). Machine: "
        f"{environment['processor']}. Command: `python bench/{environment['command']}`. "
        f"{record.get('note', '')}".strip(),
    ]
    head = ["", "bytes", "bits per byte", "KL", "same best token", "right answers", "time to quantise"]
    for model, found in record["models"].items():
        rows = [
            [
                _form(name, one["quant"]),
                f"{one['bytes'] / 1e6:.1f} MB",
                f"{one['bits_per_byte']:.4f}",
                f"{one['kl']:.4f}" if "kl" in one else "",
                f"{one['top1']:.1%}" if "top1" in one else "",
                f"{sum(one['right'].values()) / len(one['right']):.1%}",
                f"{one['quantise_seconds']:.0f} s" if one["quantise_seconds"] else "",
            ]
            for name, one in found["forms"].items()
        ]
        parts += [f"{NAMES[model]}, {found['parameters']:,} parameters:", table(head, rows)]
    return "\n\n".join(parts)
