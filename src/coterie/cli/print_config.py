"""`coterie serve --print-config CLIENT`: a client's settings for the server that the options describe."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from coterie.cli.served import Wanted
    from coterie.hosting.settings import ServeSettings


def _check(client: str | None) -> str | None:
    """Print the clients for `list`, which needs no model. Errors: `ConfigError` for an unknown client."""
    from coterie.serve.client_recipes import check_client, clients

    if client == "list":
        print("\n".join(clients()))
        raise typer.Exit()
    return None if client is None else check_client(client)


PrintConfig = Annotated[
    str | None,
    typer.Option(
        help="Start nothing; print the settings of CLIENT for this server ('list' names the clients).",
        metavar="CLIENT",
        callback=_check,
        is_eager=True,
    ),
]


def print_config(client: str, served: Sequence[Wanted], settings: ServeSettings) -> None:
    """Print a client's settings on standard output, and where they go on standard error.

    Only the model's config and tokenizer are read. Errors: `ConfigError` for port 0, which no client knows;
    `CoterieError` for a model that cannot be read.
    """
    from coterie.cli.served import known
    from coterie.config import ConfigError
    from coterie.serve.client_recipes import ClientFacts, recipe

    if settings.port == 0:
        raise ConfigError("--print-config: port 0 is taken when the server starts; give --port")
    card, _ = known(served[0])
    facts = ClientFacts(
        model=card.name,
        context=card.max_length,
        host=settings.host,
        port=settings.port,
        https=settings.tls_cert is not None,
        keyed=settings.api_key is not None or bool(settings.keys),
        tools=card.tools,
        reasoning=card.reasoning,
    )
    found = recipe(client, facts)
    others = [*card.aliases, *(name for one in served[1:] for name in (one.name, *one.aliases))]
    _tell(f"{found.title}. {found.where.strip()}")
    sys.stdout.write(found.block)
    sys.stdout.flush()
    _tell(found.remarks.strip())
    if others:
        _tell(f"Other names of models that this server takes: {', '.join(others)}.")
    if not card.chat:
        _tell(
            f"The model {card.name} has no chat template; only /v1/completions and embeddings work with it."
        )
    elif not card.tools:
        _tell(f"The chat template of {card.name} shows no tools; agents cannot work with it.")


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
