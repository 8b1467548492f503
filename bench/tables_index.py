"""The section of docs/results.md about the contamination index; `bench/tables.py` puts it on the page."""

from __future__ import annotations

import statistics
from typing import Any

from markup import table


def contamination_index(record: dict[str, Any]) -> str:
    """One table of shares found, and the rest in words."""
    speed, packing, found = record["speed"], record["packing"], record["recall"]
    lengths = [name for name in found if name.isdigit()]
    environment, size = record["environment"], record["bytes_per_unit"]
    row = [*(f"{100 * found[name]:.1f} %" for name in lengths)]
    row += [f"{100 * found[name]:.1f} %" for name in ("false", "false_sketch")]
    head = [*(f"{name} units shared" for name in lengths), "nothing shared", "nothing shared, sketch"]
    alone = statistics.median(speed["seconds"]) / statistics.median(pair[0] for pair in packing["seconds"])
    ratios = [100 * (with_it / without - 1) for without, with_it in packing["seconds"]]
    return (
        "## The contamination index\n\n"
        f"On one core, {speed['units_per_second'] / 1e6:.1f} M units of text a second are indexed, which are "
        f"{speed['tokens_per_second'] / 1e6:.1f} M tokens of a tokenizer of 4,096. That is "
        f"{100 * alone:.1f} % of the processor time of packing; packing with the index against without took "
        f"{min(ratios):+.1f} to {max(ratios):+.1f} % in {record['rounds']} rounds on a busy machine ("
        f"{record['megabytes']:.1f} MB of text). An index takes at most {size['exact']:.2f} bytes a unit, "
        f"and {size['sketch']:.2f} as a sketch that finds {record['rate']:g} of others by chance. Below: how "
        f"many of {record['texts']:,} items are found, by the units in a row that each shares with one "
        f"document. Load average {environment['load_average']:.1f}. "
        f"Command: `python bench/{environment['command']}`.\n\n" + table(head, [row])
    )
