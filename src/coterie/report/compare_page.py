"""A comparison as one self-contained HTML page: the verdict, then the figures behind it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from coterie.config.files import write_text
from coterie.report.svg import DENSE, INK, MOE, SOFT, axes, inline, styled
from coterie.report.templates import render_template
from coterie.report.words import count, duration, size
from coterie.results.compare import RecipeComparison
from coterie.results.compare_models import ModelComparison


@dataclass(frozen=True)
class PageTable:
    """A part of the page: a heading, a sentence, a drawing, and rows whose first cell names them."""

    title: str
    head: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    says: str = ""
    svg: Markup | None = None


def write_recipes_page(found: RecipeComparison, path: str | Path) -> None:
    """Write the page of two recipes to `path`, whole or not at all."""
    write_text(path, render_recipes(found))


def render_recipes(found: RecipeComparison) -> str:
    """The page as text."""
    a, b = found.first, found.second
    per_seed = [
        [str(one.seed), f"{one.bits:.4f}", f"{other.bits:.4f}", f"{moved:+.4f}"]
        for one, other, moved in zip(a.runs, b.runs, found.per_seed, strict=True)
    ]
    used = [
        [
            f"{side.name}, seed {run.seed}",
            count(run.tokens),
            duration(run.seconds),
            f"{run.flops:.3g}",
            run.model,
        ]
        for side in (a, b)
        for run in side.runs
    ]
    sizes = [[s.name, s.path, f"{s.parameters:,}", f"{s.active_parameters:,}"] for s in (a, b)]
    tables = [
        PageTable(
            "Held-out bits per byte",
            ["seed", a.name, b.name, f"{b.name} minus {a.name}"],
            per_seed,
            "Lower is better. The same documents for all; the same seed gives both the same order of data.",
            Markup(differences(found)),
        ),
        PageTable("What each training used", ["training", "tokens", "time", "operations", "model"], used),
        PageTable("The recipes", ["recipe", "file", "parameters", "active per token"], sizes),
    ]
    return render_template(
        "compare.html.jinja",
        title=f"{a.name} or {b.name}?",
        lead=f"Two training recipes at {found.budget} for each training, {len(found.per_seed)} "
        f"seed{'s' if len(found.per_seed) > 1 else ''}, {found.difference.documents} held-out documents.",
        lines=found.lines(),
        tables=tables,
        facts=[("machine", found.machine), *found.versions.items()],
        settings=[],
    )


@styled
def differences(found: RecipeComparison) -> str:
    """The difference of each seed, and the interval over all."""
    figure, ax = axes(5.4, 0.35 * len(found.per_seed) + 1.5)
    colour = {"adopt": MOE, "keep": DENSE, "cannot tell": SOFT}[found.verdict]
    whole = found.difference
    ax.plot([whole.low, whole.high], [0, 0], color=colour, linewidth=3)
    ax.plot([whole.value], [0], "o", color=colour, markersize=8)
    for row, value in enumerate(found.per_seed, 1):
        ax.plot([value], [row], "o", color=SOFT, markersize=5)
    ax.axvline(0, color=INK, linewidth=1.0)
    names = ["all", *(f"seed {run.seed}" for run in found.first.runs)]
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set(xlabel=f"← {found.second.name} better   |   {found.first.name} better →")
    ax.set_title(f"{found.second.name} minus {found.first.name}, bits per byte")
    return inline(figure, "recipes", "Difference by seed; the table below has figures.")


def write_models_page(found: ModelComparison, path: str | Path) -> None:
    """Write the page of several models to `path`, whole or not at all."""
    write_text(path, render_models(found))


def render_models(found: ModelComparison) -> str:
    """The page as text."""
    quality = [
        [
            m.name,
            f"{m.bits:.4f}",
            *(f"{s.value:.1%} ({s.low:.1%} to {s.high:.1%})" for s in m.scores.values()),
        ]
        for m in found.models
    ]
    pairs = [
        [p.name, f"{p.bits.value:+.4f}", f"{p.bits.low:+.4f} to {p.bits.high:+.4f}", f"{p.mde80:.4f}"]
        for p in found.pairs
    ]
    costs = [
        [
            m.name,
            *(f"{value:,.0f}" for value in (m.prefill, m.one, m.many)),
            size(m.weight_bytes),
            "" if m.dollars is None else f"{m.dollars:.3g}",
            m.kernels,
        ]
        for m in found.models
    ]
    sizes = [[m.name, m.family, f"{m.parameters:,}", f"{m.active_parameters:,}"] for m in found.models]
    clients, first = found.models[0].clients, found.models[0].name
    tables = [
        PageTable(
            "Quality",
            ["model", "bits per byte", *found.models[0].scores],
            quality,
            "Bits per byte of the answers in your examples (lower is better). Tasks: share of right replies.",
        ),
        PageTable(
            f"Against {first}",
            ["model", "bits per byte", "95 % interval", "would be found"],
            pairs,
            "Paired by example; below zero is better than the first model. The last column is the smallest "
            "difference that these examples find with probability 0.8.",
        ),
        PageTable(
            "Speed and memory on this machine",
            ["model", "reading", "one reply", f"{clients} replies", "weights", "cost", "kernels"],
            costs,
            "Tokens per second, medians of rounds that take the models in turn. Cost: per million tokens of "
            f"{clients} replies together, at the price per hour that was given.",
        ),
        PageTable("The models", ["model", "family", "parameters", "active per token"], sizes),
    ]
    return render_template(
        "compare.html.jinja",
        title="Which model?",
        lead=f"{len(found.models)} models on {found.examples} of your examples.",
        lines=found.lines(),
        tables=tables,
        facts=[("machine", found.machine), *found.versions.items()],
        settings=[],
    )
