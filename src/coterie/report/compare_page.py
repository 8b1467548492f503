"""A comparison as one self-contained HTML page: the verdict, then the figures behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from coterie.config.files import write_text
from coterie.report.svg import DENSE, INK, MOE, SOFT, axes, inline, styled
from coterie.report.templates import render_template
from coterie.report.words import count, duration
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
    return comparison_page(
        found,
        f"{a.name} or {b.name}?",
        f"Two training recipes at {found.budget} for each training, {len(found.per_seed)} "
        f"seed{'s' if len(found.per_seed) > 1 else ''}, {found.difference.documents} held-out documents.",
        tables,
    )


def comparison_page(
    found: RecipeComparison | ModelComparison, title: str, lead: str, tables: Sequence[PageTable]
) -> str:
    """The page of a comparison as text: its sentences, then tables, then what it was measured with."""
    return render_template(
        "compare.html.jinja",
        title=title,
        lead=lead,
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
