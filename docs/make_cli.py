"""Write docs/cli.md from the commands' own --help; with --check, fail when it is not up to date."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from made_page import write_or_check
from typer.testing import CliRunner

from coterie.cli.main import app

PAGE = Path(__file__).parent / "cli.md"
INTRODUCTION = """# Commands

This page is the output of `--help`. `python docs/make_cli.py` writes it.

Results go to standard output, progress to standard error. An error is one line on standard error. The exit
status is 0 for success, 1 for failure, 2 for a wrong setting or option, and 130 or 143 for a run that was
stopped and can be resumed. `coterie --quiet VERB` shows no progress.

`coterie --install-completion` adds the commands and their options to your shell's completion. It takes effect
in the next shell.
"""


def render() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for path in verbs(typer.main.get_command(app)):
        result = CliRunner().invoke(app, [*path, "--help"], prog_name="coterie", env={"COLUMNS": "100"})
        text = "\n".join(line.rstrip() for line in result.output.strip().splitlines())
        parts.append(f"## {' '.join(['coterie', *path])}\n\n```\n{text}\n```\n")
    return "\n".join(parts)


def verbs(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command, the program itself first, then each group before its verbs."""
    yield path
    for name in command.list_commands(None) if hasattr(command, "list_commands") else ():
        yield from verbs(command.get_command(None, name), (*path, name))


if __name__ == "__main__":
    write_or_check(PAGE, render())
