"""The cost table: one list of rows for the page and for the terminal."""

from __future__ import annotations

from dataclasses import dataclass

from coterie.report.words import count, duration, faster, size
from coterie.results.quickstart import QuickstartResults


@dataclass(frozen=True)
class CostRow:
    """One line: both values and MoE / dense as text. `best`: the better model (None: equal or neither)."""

    name: str
    moe: str
    dense: str
    ratio: str
    best: str | None


_ROWS = (
    # name, field, form, and whether more is better (None: neither)
    ("parameters", "total_parameters", count, False),
    ("active parameters (without embedding and head)", "active_parameters", count, None),
    ("training tokens", "tokens", count, None),
    ("training time", "train_seconds", duration, False),
    ("training FLOPs", "flops", count, None),
    ("one training step", "step_ms", lambda ms: f"{ms:.0f} ms" if ms >= 100 else f"{ms:.1f} ms", False),
    ("training, tokens per second", "tokens_per_second", count, True),
    ("prompt processing, tokens per second", "prefill_tokens_per_second", count, True),
    ("generation, tokens per second", "decode_tokens_per_second", count, True),
    ("peak memory of the process", "peak_memory_bytes", size, False),
    ("checkpoint on disk", "checkpoint_bytes", size, False),
)


def cost_rows(results: QuickstartResults) -> list[CostRow]:
    """The cost table's rows, in order."""
    rows = []
    for name, field, form, more_is_better in _ROWS:
        moe, dense = getattr(results.moe, field), getattr(results.dense, field)
        best = None if more_is_better is None else faster(moe, dense, more_is_better)
        rows.append(CostRow(name, form(moe), form(dense), f"{moe / dense:.2f}", best))
    return rows
