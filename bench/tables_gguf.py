"""Sections of docs/results.md about reading GGUF files; `bench/tables.py` puts them on the page."""

from __future__ import annotations

from typing import Any

from markup import table


def gguf_blocks(record: dict[str, Any]) -> str:
    """One row per type: speeds and their ratio."""
    own = {kind: found for kind, found in record["types"].items() if kind not in record["codebooks"]}
    rows = [[f"`{kind}`", str(f["coterie"]), str(f["gguf"]), f"{f['ratio']:.1f}"] for kind, f in own.items()]
    environment = record["environment"]
    return (
        "## Unpacking GGUF\n\n"
        f"Million numbers per second into float32 on one core, {record['numbers']:,} numbers of random "
        f"blocks, against the gguf package {environment['gguf']}; processor time, medians of "
        f"{record['rounds']} rounds. Both give the same bits. "
        f"The types with codebooks ({', '.join(record['codebooks'])}) are unpacked by that package here too. "
        f"Machine: {environment['processor']}. Command: `python bench/{environment['command']}`.\n\n"
        + table(["type", "coterie", "gguf", "ratio"], rows)
    )
