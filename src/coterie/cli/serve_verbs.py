"""`coterie serve`. Imports nothing heavy: `--help` stays fast."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from coterie.cli.options import Dtype, Model


def serve(
    model: Model,
    host: Annotated[
        str, typer.Option(help="Address to listen on; one that others can reach needs a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8000,
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
    adapter_dir: Annotated[
        str | None, typer.Option(help="Whose adapters may be added while serving (by key).")
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
    insecure_no_auth: Annotated[bool, typer.Option(help="Let everyone in, on any address.")] = False,
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="A further name in Host headers to accept.")
    ] = None,
    allowed_origin: Annotated[
        list[str] | None, typer.Option(help="A web origin whose pages may call.")
    ] = None,
    slots: Annotated[int, typer.Option(help="Replies generated at once; more wait.", min=1)] = 16,
    max_queue: Annotated[
        int | None, typer.Option(help="Requests that may wait (default: 4 x slots).", min=0)
    ] = None,
    prefill_chunk: Annotated[int, typer.Option(help="Prompt tokens read in one step at most.", min=1)] = 256,
    max_stall: Annotated[
        float, typer.Option(help="Seconds that reading prompts may hold up replies, where possible.", min=0)
    ] = 0.2,
    request_timeout: Annotated[
        float, typer.Option(help="Seconds that a request may take in all.", min=1)
    ] = 600,
    drain: Annotated[float, typer.Option(help="Seconds that replies may go on after SIGTERM.", min=0)] = 30,
    prefix_cache_mb: Annotated[
        int, typer.Option(help="Memory for starts of prompts read before.", min=0)
    ] = 256,
    deterministic: Annotated[
        bool, typer.Option(help="Same seed, same bytes, whatever else runs (slower).")
    ] = False,
    page: Annotated[bool, typer.Option(help="Serve the chat page at /.")] = True,
    feedback: Annotated[
        str, typer.Option(help="Where judgements of the page are written; 'off' keeps none.")
    ] = "feedback",
    log_requests: Annotated[str, typer.Option(help="off, meta (no text) or full.")] = "meta",
    dtype: Dtype = "float32",
) -> None:
    """Serve a model over an OpenAI-compatible HTTP API. Ctrl-C or SIGTERM drains and ends."""
    from coterie.cli.serve import run

    settings = {
        "host": host,
        "port": port,
        "insecure_no_auth": insecure_no_auth,
        "allowed_hosts": tuple(allowed_host or ()),
        "allowed_origins": tuple(allowed_origin or ()),
        "slots": slots,
        "max_queue": max_queue,
        "prefill_chunk": prefill_chunk,
        "max_stall": max_stall,
        "request_timeout": request_timeout,
        "drain": drain,
        "prefix_bytes": prefix_cache_mb * 2**20,
        "deterministic": deterministic,
        "page": page,
        "feedback": None if feedback == "off" else feedback,
        "log_requests": log_requests,
    }
    settings["adapter_dir"] = adapter_dir
    sys.exit(
        run(model, name, tuple(alias or ()), adapter or [], profile or [], api_key_file, dtype, settings)
    )


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command line."""
    app.command(short_help="Serve a model over an OpenAI-compatible HTTP API.")(serve)
