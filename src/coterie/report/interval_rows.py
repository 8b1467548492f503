"""Shares with their intervals, one below the other."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from coterie.report.svg import MOE, PAPER, axes, inline, styled
from coterie.results.intervals import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@styled
def interval_rows(
    rows: Mapping[str, Estimate], label: str, name: str, says: str, hollow: Collection[str] = ()
) -> str:
    """A figure with a row for each share, in percent. `hollow`: the rows whose mark is not filled."""
    figure, ax = axes(6.4, 0.9 + 0.42 * len(rows))
    for row, (title, found) in enumerate(rows.items()):
        interval_dot(ax, row, found, MOE, title in hollow, scale=100)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set(xlim=(0, 100), xlabel=label)
    ax.invert_yaxis()
    return inline(figure, name, says)


def interval_dot(
    ax: Axes, row: float, part: Estimate, colour: str, hollow: bool = False, scale: float = 1.0
) -> None:
    """One estimate with its interval in a row of a figure, times `scale`."""
    ax.plot([scale * part.low, scale * part.high], [row, row], color=colour, linewidth=1.8)
    face = PAPER if hollow else colour
    ax.plot(
        [scale * part.value],
        [row],
        "o",
        markersize=6,
        markerfacecolor=face,
        markeredgecolor=colour,
        markeredgewidth=1.4,
    )
