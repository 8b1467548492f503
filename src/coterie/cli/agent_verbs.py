"""The verbs of the client's side."""

from __future__ import annotations

from typing import Annotated

import typer

from coterie.cli.options import Dtype, Json, KeyFile, MaxTokens, Seed, Served, System, Target, Temperature, TopP


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command(short_help="Talk to a model or a server in the terminal.")(chat)
    app.command(short_help="One answer to one message, from a model or a server.")(run)


def chat(
    model: Target,
    system: System = None,
    temperature: Temperature = 0.7,
    top_p: TopP = 0.95,
    max_tokens: MaxTokens = 256,
    seed: Seed = None,
    dtype: Dtype = "float32",
    api_key_file: KeyFile = None,
    served: Served = None,
) -> None:
    """Talk to a model or a server in the terminal; /help lists commands, an empty line or Ctrl-D ends."""
    from coterie.cli.talk import chat as run

    sampling = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "seed": seed}
    run(model, system, sampling, {"dtype": dtype, "key_file": api_key_file, "served": served})


def run(
    model: Target,
    prompt: Annotated[str, typer.Argument(help="What to say; '-' reads standard input.")],
    system: System = None,
    json_schema: Annotated[str | None, typer.Option(help="File with a JSON schema that the answer must keep.")] = None,
    temperature: Temperature = 0.7,
    top_p: TopP = 0.95,
    max_tokens: MaxTokens = 512,
    seed: Seed = None,
    dtype: Dtype = "float32",
    api_key_file: KeyFile = None,
    served: Served = None,
    as_json: Json = False,
) -> None:
    """One answer to one message, from a model or a server."""
    from coterie.cli.talk import run as answer

    sampling = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "seed": seed}
    opening = {"dtype": dtype, "key_file": api_key_file, "served": served}
    answer(model, prompt, system, sampling, opening, json_schema, as_json)
