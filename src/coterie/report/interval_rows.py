"""Shares with their intervals, one below the other."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from coterie.report.svg import MOE, SOFT, axes, inline, styled
from coterie.results.intervals import Estimate


@styled
def interval_rows(
    rows: Mapping[str, Estimate], label: str, name: str, says: str, hollow: Collection[str] = ()
) -> str:
    """A figure with a row for each share, in percent. `hollow`: the rows whose mark is not filled."""
    figure, ax = axes(6.4, 0.9 + 0.42 * len(rows))
    for row, (title, found) in enumerate(rows.items()):
        ax.plot([100 * found.low, 100 * found.high], [row, row], color=SOFT, linewidth=1.2)
        filling = "none" if title in hollow else MOE
        ax.plot([100 * found.value], [row], "o", color=MOE, markersize=6, markerfacecolor=filling)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set(xlim=(0, 100), xlabel=label)
    ax.invert_yaxis()
    return inline(figure, name, says)
