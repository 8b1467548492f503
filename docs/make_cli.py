"""Write docs/cli.md from the commands' own --help; with --check, fail when it is not up to date."""

from __future__ import annotations

import sys
from pathlib import Path

import typer
from typer.testing import CliRunner

from coterie.cli.main import app

PAGE = Path(__file__).parent / "cli.md"
INTRODUCTION = """# Commands

This page is what `--help` prints, written by `python docs/make_cli.py`.

Errors are one line on standard error. The exit status is 0 for success, 1 for failure, 2 for a wrong setting or option
and 130 for a run that was stopped (it can be taken up again). Answers go to standard output, progress to standard
error.
"""


def render() -> str:
    """The whole page."""
    command = typer.main.get_command(app)
    names = [[]]
    for name, sub in command.commands.items():  # type: ignore[attr-defined]
        names.append([name])
        names += [[name, inner] for inner in getattr(sub, "commands", {})]
    parts = [INTRODUCTION]
    for path in names:
        result = CliRunner().invoke(app, [*path, "--help"], prog_name="coterie", env={"COLUMNS": "100"})
        text = "\n".join(line.rstrip() for line in result.output.strip().splitlines())
        parts.append(f"## {' '.join(['coterie', *path])}\n\n```\n{text}\n```\n")
    return "\n".join(parts)


def main() -> None:
    """Write the page, or check it."""
    page = render()
    if "--check" not in sys.argv:
        PAGE.write_text(page)
    elif not PAGE.is_file() or PAGE.read_text() != page:
        sys.exit(f"{PAGE.name} is not up to date; ")


if __name__ == "__main__":
    main()
