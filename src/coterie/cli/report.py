"""`coterie report`: draw the page of a run, or one page that compares several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coterie.cli.options import Json
from coterie.cli.output import answer


def report(
    run_dirs: Annotated[
        list[str] | None,
        typer.Argument(help="A quickstart's directory, or those of reinforcement runs [runs/quickstart]."),
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="Where to write the page that compares several runs.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw a run's report from its records: a quickstart's, or a reinforcement run's, also one not yet ended.

    Several reinforcement runs are compared in one page.
    """
    from coterie.recipes.reinforce_report import compare_runs, draw_run, is_reinforce_run, read_run

    given = run_dirs or ["runs/quickstart"]
    if len(given) > 1:
        if out is None:
            raise typer.BadParameter("several runs need a page to write: give --out PAGE.html")
        page, lines = compare_runs(given, out)
        answer({"runs": given, "page": str(page)}, as_json, [*lines, f"report: {page}"])
    elif is_reinforce_run(given[0]):
        page = draw_run(given[0])
        record = read_run(given[0]).record
        facts = {"record": None if record is None else record.to_dict(), "page": str(page)}
        answer(facts, as_json, [f"report: {page}"])
    else:
        _quickstart(given[0], as_json)


def _quickstart(run_dir: str, as_json: bool) -> None:
    from coterie.config.errors import ConfigError
    from coterie.recipes.quickstart.run import redraw
    from coterie.report.text import summary

    if not Path(run_dir, "results.json").is_file():
        raise ConfigError(
            f"{run_dir}: holds neither the results of a quickstart nor a reinforcement run that has begun"
        )
    results, path = redraw(Path(run_dir))
    answer(results.to_dict(), as_json, [f"{summary(results)}\n\nreport: {path}"])
