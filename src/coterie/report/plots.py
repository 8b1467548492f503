"""The report's figures, each a function from records to inline SVG. matplotlib is imported on first use."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from coterie.report.interval_rows import interval_dot
from coterie.report.svg import DENSE, GRID, INK, MOE, PAPER, SOFT, axes, inline, styled
from coterie.report.words import count, duration, winner
from coterie.results.quickstart import CurvePoint, ModelResults, QuickstartResults
from coterie.results.routing import RoutingShares, order_experts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Axis = Literal["tokens", "seconds", "flops"]
Records = Sequence[Mapping[str, Any]]
COLOURS = {"moe": MOE, "dense": DENSE}
LABELS = {"moe": "MoE", "dense": "dense"}
_MAX_POINTS = 100


@styled
def curves(results: QuickstartResults, metrics: Mapping[str, Records], x: Axis) -> str:
    """Held-out bits per byte against tokens, training seconds or FLOPs. A faint line: the training text."""
    figure, ax = axes(4.6, 3.1)
    both: dict[str, ModelResults] = {"moe": results.moe, "dense": results.dense}
    for name, model in both.items():
        faint = smooth(
            [(r[x], r["bits_per_byte"]) for r in metrics.get(name, ()) if _has(r, x, "bits_per_byte")]
        )
        ax.plot(*_columns(faint), color=COLOURS[name], linewidth=0.9, alpha=0.35)
        points = [(getattr(p, x), p.bits_per_byte) for p in model.curve]
        ax.plot(*_columns(points), color=COLOURS[name], marker="o", markersize=3.6, markeredgecolor=PAPER)
    _end_labels(ax, {name: (getattr(m.curve[-1], x), m.curve[-1].bits_per_byte) for name, m in both.items()})
    _limits(ax, [m.curve for m in both.values()])
    labels = {"tokens": "training tokens", "seconds": "training time", "flops": "training FLOPs"}
    format_x(ax, duration if x == "seconds" else count)
    ax.set(xlabel=labels[x], title=f"Held-out bits per byte against {labels[x].removeprefix('training ')}")
    ax.set_xlim(left=0, right=max(getattr(m.curve[-1], x) for m in both.values()) * 1.22)
    ends = ", ".join(f"{LABELS[name]} {m.curve[-1].bits_per_byte:.3f}" for name, m in both.items())
    return inline(figure, f"curve-{x}", f"Held-out bits per byte against {labels[x]}; at the end: {ends}.")


@styled
def slice_scores(results: QuickstartResults) -> str:
    """Bits per byte of both models on each kind of text, with 95 % intervals."""
    names = slice_order(results)
    figure, ax = axes(4.6, 0.42 * len(names) + 1.0)
    for shift, name, model in ((0.13, "moe", results.moe), (-0.13, "dense", results.dense)):
        for row, part in enumerate(names):
            interval_dot(ax, row + shift, model.bits_per_byte.per_slice[part], COLOURS[name])
    _rows(ax, names)
    ax.set(xlabel="bits per byte (lower is better)", title="Bits per byte by kind of text")
    _key(ax)
    return inline(
        figure,
        "slices",
        "Held-out bits per byte of both models by kind of text; the table below has figures.",
    )


@styled
def slice_differences(results: QuickstartResults) -> str:
    """MoE minus dense on each kind of text, paired by document. A hollow dot: the interval includes zero."""
    names = slice_order(results)
    figure, ax = axes(4.6, 0.42 * len(names) + 1.0)
    colours = {"moe": MOE, "dense": DENSE, None: SOFT}
    for row, part in enumerate(names):
        difference = results.difference.per_slice[part]
        who = winner(difference)
        interval_dot(ax, row, difference, colours[who], hollow=who is None)
    ax.axvline(0, color=INK, linewidth=1.0)
    _rows(ax, names)
    reach = 1.15 * max(max(abs(p.low), abs(p.high), 1e-4) for p in results.difference.per_slice.values())
    ax.set(xlim=(-reach, reach), xlabel="← MoE better\u2003|\u2003dense better →")
    ax.set_title("MoE minus dense, bits per byte")
    return inline(
        figure, "differences", "MoE minus dense bits per byte by kind of text; the table below has figures."
    )


@styled
def learning_rates(results: QuickstartResults) -> str:
    """The learning rates tried for each model, with a ring around the chosen one."""
    figure, ax = axes(4.6, 3.1)
    for name, model in (("moe", results.moe), ("dense", results.dense)):
        points = sorted((p.lr, p.bits_per_byte) for p in model.lr_sweep)
        ax.plot(*_columns(points), color=COLOURS[name], marker="o", markersize=4)
        chosen = [point for point in points if point[0] == model.lr]
        ax.plot(*_columns(chosen), "o", markersize=11, markerfacecolor="none", markeredgecolor=COLOURS[name])
    ax.set_xscale("log")
    tried = sorted({p.lr for m in (results.moe, results.dense) for p in m.lr_sweep})
    ax.set_xticks(tried, [f"{lr:g}" for lr in tried])
    ax.set_xticks([], minor=True)
    ax.set(xlabel="learning rate (log scale)", title="Bits per byte of short trial runs (ring: chosen rate)")
    _key(ax)
    return inline(
        figure, "rates", f"Trial runs; chosen rates: MoE {results.moe.lr:g}, dense {results.dense.lr:g}."
    )


@styled
def right_replies(shares: Sequence[float]) -> str:
    """The share of right replies at each step of learning from rewards."""
    from matplotlib.ticker import MaxNLocator

    figure, ax = axes(4.6, 3.1)
    ax.plot(range(1, len(shares) + 1), [100 * share for share in shares], color=MOE)
    ax.set(xlabel="step", title="Right replies, %", ylim=(0, 102))
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    words = f"From {100 * shares[0]:.0f} % at the first step to {100 * shares[-1]:.0f} % at the last."
    return inline(figure, "right", f"Right replies by step. {words}")


@styled
def expert_map(routing: RoutingShares, index: int) -> str:
    """Share of each kind of text (rows) that each expert (columns) serves in layer `routing.layers[index]`.

    Experts are ordered by the kind of text they lean to, so that specialists form blocks.
    """
    figure, ax = share_map(routing.share[index], routing.slices, order_experts(routing.share[index]))
    ax.set_title(f"Layer {routing.layers[index]}")
    return inline(
        figure, f"map-{index}", f"Layer {routing.layers[index]}: share of each kind of text per expert."
    )


def share_map(
    share: Sequence[Sequence[float]], labels: Sequence[str], order: Sequence[int]
) -> tuple[Figure, Axes]:
    """Shares of experts as an image: a row for each label, the experts in the order given."""
    import matplotlib.colors

    top = max(max(row) for row in share)
    figure, ax = axes(4.6, 0.27 * len(labels) + 0.85)
    # One hue whose opacity is the share: an image cannot follow the page's colours, and this reads on light
    # and dark.
    hue = matplotlib.colors.to_rgb("#2f86d6")
    ax.imshow(
        [[(*hue, row[e] / top) for e in order] for row in share], aspect="auto", interpolation="nearest"
    )
    ax.set_yticks(range(len(labels)), labels)
    step = max(1, math.ceil(len(order) / 16))
    ax.set_xticks(range(0, len(order), step), [str(e) for e in order[::step]])
    ax.tick_params(length=0, labelsize=8.5)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.set(xlabel=f"expert (strongest: {100 * top:.0f} % of a row; even: {100 / len(order):.1f} %)")
    return figure, ax


@styled
def load(metrics: Records, key: Literal["dead_experts", "worst_overload"]) -> str:
    """Expert load over training: dead experts (all layers), or the busiest expert's load over the mean."""
    from matplotlib.ticker import MaxNLocator

    figure, ax = axes(4.6, 2.6)
    points = smooth([(r["tokens"], r[key]) for r in metrics if _has(r, "tokens", key)])
    ax.plot(*_columns(points), color=MOE, clip_on=False)
    ax.set_ylim(bottom=0)
    even = key == "worst_overload"
    if even:
        ax.axhline(1, color=INK, linewidth=1.0, linestyle=(0, (4, 3)))
        ax.annotate("even load", (0, 1), xytext=(4, -11), textcoords="offset points", fontsize=9, color=SOFT)
    else:
        ax.set_ylim(top=max(1.0, 1.1 * max(y for _, y in points)))
        ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    format_x(ax, count)
    title = (
        "Load of the busiest expert over the mean" if even else "Dead experts (no token of a step chose them)"
    )
    ax.set(xlabel="training tokens", title=title)
    return inline(figure, key.replace("_", "-"), f"{title}; at the end {points[-1][1]:.2f}.")


def has_load(metrics: Records, key: str) -> bool:
    """Whether the records contain `key` at least once."""
    return any(_has(r, "tokens", key) for r in metrics)


def slice_order(results: QuickstartResults) -> list[str]:
    """Slices by the dense model's bits per byte, easiest first (the first is drawn lowest)."""
    scores = results.dense.bits_per_byte.per_slice
    return sorted(scores, key=lambda name: scores[name].value)


def smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most 100 points: the mean of equally many neighbours each, at the x of the last of them."""
    width = max(1, math.ceil(len(points) / _MAX_POINTS))
    groups = [points[i : i + width] for i in range(0, len(points), width)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def _has(record: Mapping[str, Any], *keys: str) -> bool:
    return all(isinstance(record.get(key), (int, float)) and math.isfinite(record[key]) for key in keys)


def _columns(points: Iterable[tuple[float, float]]) -> tuple[list[float], list[float]]:
    pairs = list(points)
    return [x for x, _ in pairs], [y for _, y in pairs]


def format_x(ax: Axes, form: Any) -> None:
    """Four places on the horizontal axis, written by `form`."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: form(value) if value else "0"))


def _limits(ax: Axes, both: Sequence[Sequence[CurvePoint]]) -> None:
    """Leave out the steep start: the axis begins at the worse model's value after a quarter of its tokens."""
    lowest = min(p.bits_per_byte for curve in both for p in curve)
    late = [p.bits_per_byte for curve in both for p in curve if p.tokens >= 0.25 * curve[-1].tokens]
    room = max(max(late) - lowest, 0.02)
    ax.set_ylim(lowest - 0.08 * room, max(late) + 0.08 * room)


def _end_labels(ax: Axes, ends: Mapping[str, tuple[float, float]]) -> None:
    """Name each line at its end, the higher label above and the lower below so that they never meet."""
    high = max(ends, key=lambda name: ends[name][1])
    for name, (x, y) in ends.items():
        shift = 5 if name == high else -5
        text = f"{LABELS[name]} {y:.3f}"
        place: dict[str, Any] = {"xytext": (5, shift), "textcoords": "offset points", "va": "center"}
        ax.annotate(
            text, (x, y), color=COLOURS[name], fontsize=9.5, fontweight="bold", annotation_clip=False, **place
        )


def _rows(ax: Axes, names: Sequence[str]) -> None:
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.tick_params(axis="y", length=0, labelcolor=INK)
    ax.spines["left"].set_visible(False)


def _key(ax: Axes) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=COLOURS[name], marker="o", markersize=5, label=LABELS[name]) for name in COLOURS
    ]
    ax.legend(
        handles=handles,
        loc="best",
        fontsize=9,
        frameon=True,
        facecolor=PAPER,
        edgecolor=GRID,
        framealpha=0.85,
    )
