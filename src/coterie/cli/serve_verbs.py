"""`coterie serve`. Imports nothing heavy: `--help` stays fast."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from coterie.cli.options import Dtype, Model
from coterie.cli.settings_options import with_options
from coterie.serve.core.settings import NOT_OPTIONS, ServeSettings


@with_options(ServeSettings, leave_out=NOT_OPTIONS)
def serve(
    model: Model,
    settings: ServeSettings,
    name: Annotated[
        str | None,
        typer.Option(help="What requests call the model (default: its directory; of .../NAME/model, NAME)."),
    ] = None,
    alias: Annotated[
        list[str] | None, typer.Option(help="A further name for it (may be given again).")
    ] = None,
    adapter: Annotated[
        list[str] | None, typer.Option(help="NAME=DIR of an adapter or patch to serve too.")
    ] = None,
    profile: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE with a request's 'moe' object.")
    ] = None,
    api_key_file: Annotated[
        str | None,
        typer.Option(
            help="File whose first line is the key to ask for (default: COTERIE_API_KEY, or no key)."
        ),
    ] = None,
    dtype: Dtype = "float32",
) -> None:
    """Serve a model over an OpenAI-compatible HTTP API. Ctrl-C or SIGTERM drains and ends."""
    from coterie.cli.serve import run

    sys.exit(
        run(model, name, tuple(alias or ()), adapter or [], profile or [], api_key_file, dtype, settings)
    )


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command line."""
    app.command(short_help="Serve a model over an OpenAI-compatible HTTP API.")(serve)
