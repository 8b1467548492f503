"""Sections of docs/results.md about reading models; `bench/tables.py` puts them on the page."""

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
        f"A mixture of experts of {record['parameters']:,} parameters in {record['file_bytes'] / 1e9:.2f} "
        "GB of "
        f"bfloat16 shards, fresh processes, files in page cache, medians of {record['repeats']} rounds. "
        "Command: "
        f"`python bench/{record['environment']['command']}`.\n\n" + table(["", "time", "peak memory"], rows)
    )


def gguf_load(record: dict[str, Any]) -> str:
    """One row per side, one of ratios per other side."""
    environment = record["environment"]
    return (
        "## Loading GGUF\n\n"
        f"A dense model of {record['parameters']:,} parameters in one file of "
        f"{record['file_bytes'] / 1e9:.2f} GB ({record['quant']}), fresh processes, file in page cache, "
        f"medians of {record['repeats']} rounds, one thread. coterie and transformers unpack it into "
        "bfloat16. In the second row coterie rounds it to int4 while reading; llama.cpp keeps the file's "
        f"blocks. The machine also did other work (load average {environment['load_average']:.1f}). "
        f"Command: `python bench/{environment['command']}`.\n\n" + _sides(record)
    )


def int4_load(record: dict[str, Any]) -> str:
    """One row per side, one of ratios per other side."""
    environment = record["environment"]
    return (
        "## Loading int4\n\n"
        f"A mixture of experts of {record['parameters']:,} parameters whose matrices are in 4 bits "
        f"(compressed-tensors, groups of 32), {record['file_bytes'] / 1e9:.2f} GB of shards, fresh "
        f"processes, files in page cache, medians of {record['repeats']} rounds. In the first row "
        "coterie widens all to bfloat16, in the second it keeps the codes. transformers with "
        "compressed-tensors keeps the codes of attention and widens the experts, which are most of the "
        "model. The machine also did other work (load average "
        f"{environment['load_average']:.1f}). Command: `python bench/{environment['command']}`.\n\n"
        + _sides(record)
    )


def _sides(record: dict[str, Any]) -> str:
    rows = [
        [side, f"{found['seconds']:.2f} s", f"{found['peak_bytes'] / 1e9:.2f} GB"]
        for side, found in record["sides"].items()
    ]
    rows += [
        [f"coterie : {side}", f"{ratio['seconds']:.2f}", f"{ratio['peak_bytes']:.2f}"]
        for side, ratio in record["ratios"].items()
    ]
    return table(["", "time", "peak memory"], rows)
