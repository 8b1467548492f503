"""`coterie quickstart` and `coterie report`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coterie.cli.messages import show_messages
from coterie.cli.options import Json
from coterie.cli.output import answer

if TYPE_CHECKING:
    from coterie.results.quickstart import QuickstartResults


def quickstart(
    minutes: Annotated[float, typer.Option(help="Time the whole run may take.", min=0.5)] = 10.0,
    data: Annotated[str | None, typer.Option(help="Your own text instead of the embedded corpus.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, data order and generated text.", min=0)] = 0,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="A dense model: train it and a mixture made from it, instead of fresh twins.",
        ),
    ] = None,
    out: Annotated[str, typer.Option(help="Where to write.")] = "runs/quickstart",
    threads: Annotated[
        int | None, typer.Option(help="Processor threads (default: PyTorch's choice).", min=1)
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a mixture of experts and its dense twin on the same text, compare them, write a report."""
    from coterie.recipes.quickstart.run import quickstart as run

    show_messages("run")
    results = run(minutes, data, seed, Path(out), threads, start)
    answer(results.to_dict(), as_json, _next_steps(results, Path(out) / "report.html"))


def _next_steps(results: QuickstartResults, page: Path) -> Iterator[str]:
    from coterie.report.text import summary

    yield f"{summary(results)}\n\nreport: {page}"
    yield f"talk to the mixture of experts: coterie chat {results.moe.path}"
    if results.tuned is not None:
        yield f"and after tuning:               coterie chat {results.tuned.path}"
    if results.reasoning is not None:
        yield f"and after rewards, ask it a parity: coterie chat {results.reasoning.path}"
    yield f"or let it continue a text:      coterie generate {results.moe.path} 'Once upon a time'"
