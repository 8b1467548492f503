"""The figures of reinforcement runs: accuracy against steps, tokens and operations, and what goes with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from coterie.report.plots import Records, format_x
from coterie.report.svg import DENSE, GRID, INK, MOE, PAPER, SOFT, axes, inline, smoothed, styled
from coterie.report.words import count
from coterie.results.accuracy import Accuracy, PassAtChange
from coterie.results.intervals import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Against = Literal["steps", "tokens", "flops"]
AXIS_WORDS: dict[Against, str] = {
    "steps": "steps",
    "tokens": "sampled tokens",
    "flops": "operations, sampling and training",
}
_COLOURS = (MOE, DENSE, INK, SOFT)
_LINES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))


@dataclass(frozen=True)
class AccuracyPoint:
    """Held-out accuracy after a number of steps, sampled tokens and operations."""

    steps: int
    tokens: float
    flops: float
    found: Accuracy


def accuracy_points(start: Accuracy, metrics: Records) -> list[AccuracyPoint]:
    """The evaluations of a run in order, the one before its first step among them."""
    points = [AccuracyPoint(0, 0.0, 0.0, start)]
    tokens = flops = 0.0
    for record in metrics:
        if record["kind"] == "rollout":
            tokens += record["tokens"]
            flops += record["sampling_flops"] + record["training_flops"]
        if record["kind"] == "eval" and "val_right" in record:
            value, low, high = (record[f"val_{name}"] for name in ("right", "low", "high"))
            found = Accuracy(value=value, low=low, high=high, problems=start.problems)
            points.append(AccuracyPoint(record["step"], tokens, flops, found))
    return points


@styled
def accuracy_curves(
    runs: Mapping[str, Sequence[AccuracyPoint]], against: Against, sampled: Records = ()
) -> str:
    """Held-out accuracy of one or several runs with 95 % bands. `sampled`: rollout records, drawn faintly."""
    figure, ax = axes(4.6, 3.0)
    faint = [(record["step"], 100 * record["right"]) for record in sampled]
    if len(faint) > 1:
        ax.plot(*zip(*faint, strict=True), color=SOFT, linewidth=0.8, alpha=0.6, label="sampled in training")
    for number, (name, points) in enumerate(runs.items()):
        colour, line = _COLOURS[number % 4], _LINES[number // 4 % 4]
        x = [getattr(point, against) for point in points]
        _banded(ax, x, [point.found for point in points], colour, line, name)
    if against != "steps":
        format_x(ax, count)
    ax.set(xlabel=AXIS_WORDS[against], ylim=(-3, 103), title="Right replies to held-out problems, %")
    ax.set_xlim(left=0)
    _legend(ax, len(runs) + bool(faint))
    ends = "; ".join(f"{name} {100 * points[-1].found.value:.1f} %" for name, points in runs.items())
    return inline(
        figure, f"accuracy-{against}", f"Held-out accuracy against {AXIS_WORDS[against]}; at the end: {ends}."
    )


@styled
def trend(points: Sequence[tuple[float, float]], name: str, title: str, kind: str = "plain") -> str:
    """One figure by step with its running mean. `kind`: plain, share (of 1, in percent) or log."""
    figure, ax = axes(3.9, 2.3)
    scale = 100 if kind == "share" else 1
    smoothed(ax, [(x, scale * y) for x, y in points], MOE)
    if kind == "log":
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0e}")
        ax.yaxis.set_minor_formatter(lambda value, _: "")
    elif kind == "share":
        ax.set_ylim(-3, 103)
    elif min(y for _, y in points) >= 0:
        ax.set_ylim(bottom=0)
    whole = f"{title}, %" if kind == "share" else title
    ax.set(xlabel="step", title=whole)
    return inline(figure, name, f"{whole} by step; at the end {scale * points[-1][1]:.3g}.")


@styled
def trends(lines: Mapping[str, Sequence[tuple[float, float]]], name: str, title: str) -> str:
    """Several shares by step, in percent, as running means."""
    figure, ax = axes(3.9, 2.6)
    for number, (label, points) in enumerate(lines.items()):
        drawn = [(x, 100 * y) for x, y in points]
        smoothed(ax, drawn, _COLOURS[number % 4], faint=False, line=_LINES[number // 4 % 4], label=label)
    ax.set(xlabel="step", ylim=(-3, 103), title=f"{title}, %")
    _legend(ax, len(lines))
    return inline(figure, name, f"{title} by step: {', '.join(lines)}.")


@styled
def pass_at_curves(found: PassAtChange) -> str:
    """pass@k before and after, with 95 % bands over problems."""
    figure, ax = axes(5.6, 3.3)
    for label, curve, colour in (("before", found.before.curve, SOFT), ("after", found.after.curve, MOE)):
        _banded(ax, range(1, len(curve) + 1), curve, colour, "-", label)
    ax.set_xscale("log", base=2)
    ticks = [k for k in (1, 2, 4, 8, 16, 32, 64, 128) if k <= len(found.before.curve)]
    ax.set_xticks(ticks, [str(k) for k in ticks])
    ax.set_xticks([], minor=True)
    ax.set(xlabel="k, the number of tries", ylim=(-3, 103), title="pass@k: one of k tries is right, %")
    _legend(ax, 2)
    ends = ", ".join(
        f"{label} {100 * curve[0].value:.1f} to {100 * curve[-1].value:.1f} %"
        for label, curve in (("before", found.before.curve), ("after", found.after.curve))
    )
    return inline(figure, "pass-at", f"pass@k from k = 1 to {len(found.before.curve)}: {ends}.")


@styled
def expert_loads(layer: int, before: Sequence[int], after: Sequence[int]) -> str:
    """Share of the choices that each expert of a layer got, before and after, busiest first before."""
    figure, ax = axes(3.9, 2.3)
    order = sorted(range(len(before)), key=lambda expert: -before[expert])
    places = range(len(order))
    for counts, colour, shift, label in ((before, SOFT, -0.2, "before"), (after, MOE, 0.2, "after")):
        shares = [100 * counts[expert] / max(1, sum(counts)) for expert in order]
        ax.bar([at + shift for at in places], shares, width=0.4, color=colour, label=label)
    step = max(1, len(order) // 12)
    ax.set_xticks([*places][::step], [str(expert) for expert in order[::step]])
    ax.grid(False, axis="x")
    ax.set(xlabel="expert", title=f"Layer {layer}: share of choices, %")
    _legend(ax, 2)
    return inline(
        figure, f"experts-{layer}", f"Layer {layer}: share of choices of each expert before and after."
    )


def _banded(
    ax: Axes, x: Sequence[float], values: Sequence[Estimate], colour: str, line: Any, label: str
) -> None:
    """A line through estimates, in percent, with its 95 % band."""
    low, middle, high = ([100 * getattr(one, part) for one in values] for part in ("low", "value", "high"))
    ax.fill_between(x, low, high, color=colour, alpha=0.14, linewidth=0)
    style: dict[str, Any] = {"marker": "o", "markersize": 3.6, "markeredgecolor": PAPER}
    ax.plot(x, middle, color=colour, linestyle=line, label=label, **style)


def _legend(ax: Axes, entries: int) -> None:
    if entries < 2:
        return
    style: dict[str, Any] = {"frameon": True, "facecolor": PAPER, "edgecolor": GRID, "framealpha": 0.85}
    ax.legend(loc="best", fontsize=8.5, ncols=1 if entries < 6 else 2, **style)
