"""`coterie bench`: time a server under load."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from coterie.cli.connect import address, counter
from coterie.cli.options import Json, KeyFile, Served
from coterie.cli.output import answer

LOAD = "Load"
GOOD = "What counts as a good reply"


def bench(
    url: Annotated[str, typer.Argument(help="A server's http address.")],
    clients: Annotated[int, typer.Option(help="Requests at once.", min=1, rich_help_panel=LOAD)] = 8,
    requests: Annotated[int, typer.Option(help="Requests in all.", min=1, rich_help_panel=LOAD)] = 32,
    prompt_words: Annotated[
        int, typer.Option(help="Words of each prompt.", min=1, rich_help_panel=LOAD)
    ] = 64,
    max_tokens: Annotated[
        int, typer.Option(help="Longest reply, in tokens.", min=1, rich_help_panel=LOAD)
    ] = 64,
    shared: Annotated[bool, typer.Option(help="Start all prompts alike.", rich_help_panel=LOAD)] = False,
    ttft: Annotated[
        float, typer.Option(help="Most seconds to a reply's first token.", min=0, rich_help_panel=GOOD)
    ] = 2.0,
    tpot: Annotated[
        float,
        typer.Option(help="Most seconds for each further token of a reply.", min=0, rich_help_panel=GOOD),
    ] = 0.2,
    api_key_file: KeyFile = None,
    served: Served = None,
    as_json: Json = False,
) -> None:
    """Put load on any OpenAI-compatible server: time to first token, time per token, goodput.

    The exit status is 1 when a request failed.
    """
    from coterie.agents.load_test import Load, measure, words_of

    load = Load(clients, requests, prompt_words, max_tokens, shared, ttft, tpot)
    with address(url, api_key_file) as endpoint, counter() as show:
        measured = measure(
            endpoint, served or endpoint.models()[0], load, lambda done: show(f"{done}/{requests}")
        )
    answer({"url": url} | measured, as_json, [words_of(measured)])
    sys.exit(1 if measured["failures"] else 0)
