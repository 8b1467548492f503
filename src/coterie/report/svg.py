"""matplotlib figures as inline SVG whose colours and font follow the page, light or dark.

A figure is drawn with marker colours (`INK`, `MOE`, ...), and each becomes a CSS variable of the page in the
SVG.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")

INK, SOFT, GRID, PAPER, MOE, DENSE = "#010203", "#020304", "#030405", "#040506", "#050607", "#060708"
_VARIABLES = {INK: "ink", SOFT: "soft", GRID: "grid", PAPER: "paper", MOE: "moe", DENSE: "dense"}

# A figure may be shown up to this many pixels per point; beyond, its text would be larger than the page's.
_LARGEST = 1.5

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "coterie",
    "text.parse_math": False,
    "font.size": 10.0,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": SOFT,
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlepad": 9.0,
    "axes.labelpad": 5.0,
}


def styled(draw: Callable[P, str]) -> Callable[P, str]:
    """Run a drawing function in the house style, without touching matplotlib's global settings."""

    @functools.wraps(draw)
    def in_style(*args: P.args, **kwargs: P.kwargs) -> str:
        import matplotlib

        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return in_style


def axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of `width` x `height` inches with one pair of axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def smoothed(
    ax: Axes,
    points: Sequence[tuple[float, float]],
    colour: str,
    faint: bool = True,
    line: Any = "-",
    label: str | None = None,
) -> None:
    """Plot the running mean over a twentieth of the points, and with `faint` the points themselves."""
    steps, values = zip(*points, strict=True)
    span = max(1, len(values) // 20)
    parts = [values[max(0, at + 1 - span) : at + 1] for at in range(len(values))]
    if faint:
        ax.plot(steps, values, color=SOFT, linewidth=0.8, alpha=0.6)
    ax.plot(steps, [sum(part) / len(part) for part in parts], color=colour, linestyle=line, label=label)


def inline(figure: Figure, name: str, alt: str) -> str:
    """The figure as one `<svg>` element. `name` prefixes its ids; screen readers read `alt`."""
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'((?:url\(|href=")#)', rf"\1{name}-", text)
    width, height = (72 * inches for inches in figure.get_size_inches())
    head = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(alt)}"'
    head += f' style="max-width:{_LARGEST * width:.0f}px">'
    text = re.sub(r"<svg[^>]*>", lambda _: head, text, count=1)
    return re.sub(r"\n\s*", "\n", text).strip()
