"""The comparison for a terminal: plain text, wrapped, without colour."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from coterie.report.table import cost_rows
from coterie.report.words import interval, reasoned, released, signed, verdict
from coterie.results.quickstart import Change, QuickstartResults


def summary(results: QuickstartResults, width: int = 96) -> str:
    """Quality, cost table and verdict as text of at most `width` columns where the table allows it."""
    moe, dense, difference = results.moe.bits_per_byte, results.dense.bits_per_byte, results.difference
    lines = ["held-out bits per byte (lower is better)"]
    rows = [("kind of text", "MoE", "dense", "difference", "95 % interval")]
    rows.append(
        ("all", f"{moe.value:.3f}", f"{dense.value:.3f}", signed(difference.value), interval(difference))
    )
    for name, part in difference.per_slice.items():
        scores = (f"{moe.per_slice[name].value:.3f}", f"{dense.per_slice[name].value:.3f}")
        rows.append((name, *scores, signed(part.value), interval(part)))
    lines += _aligned(rows)
    lines += ["", "cost"]
    lines += _aligned(
        [("", "MoE", "dense", "MoE / dense")]
        + [(row.name, row.moe, row.dense, row.ratio) for row in cost_rows(results)]
    )
    if results.moe.probes:
        lines += ["", "exact answers on small tests"]
        probes = [
            (n, f"{100 * v:.0f} %", f"{100 * results.dense.probes[n]:.0f} %")
            for n, v in results.moe.probes.items()
        ]
        lines += _aligned([("", "MoE", "dense"), *probes])
    if results.tuned is not None:
        lines += ["", "the MoE tuned on conversations, including its experts"]
        changes = {
            "held-out conversations, bits per token": results.tuned.held_out,
            "other text, bits per byte": results.tuned.retention,
        }
        head = ("", "before", "after", "change", "95 % interval")
        lines += _aligned([head, *(_changed(name, found) for name, found in changes.items())])
    lines += [""]
    said = [reasoned(results.reasoning)] if results.reasoning is not None else []
    said += [released(results.release)] if results.release is not None else []
    for sentence in (*verdict(results), *said):
        lines += textwrap.wrap(sentence, width, initial_indent="* ", subsequent_indent="  ")
    return "\n".join(lines) + "\n"


def _changed(name: str, found: Change) -> tuple[str, ...]:
    return (
        name,
        f"{found.before:.3f}",
        f"{found.after:.3f}",
        signed(found.change.value),
        interval(found.change),
    )


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns padded to their widest entry; the first is left-aligned, the others right-aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    first, *others = widths
    return [
        (
            "  "
            + row[0].ljust(first)
            + "".join("  " + cell.rjust(w) for cell, w in zip(row[1:], others, strict=True))
        )
        for row in rows
    ]
