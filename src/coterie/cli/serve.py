"""`coterie serve`. Its options are the fields of `ServeSettings`, which states their defaults and bounds."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import SecretStr

from coterie.cli.messages import show_messages
from coterie.cli.options import (
    Dtype,
    ExpertMemory,
    ExpertProfile,
    Experts,
    Template,
    Weights,
    expert_place,
    parse_bytes,
)
from coterie.cli.print_config import PrintConfig
from coterie.cli.print_config import print_config as show_config
from coterie.cli.served import Loading, Wanted, host_of, wanted_models
from coterie.cli.settings_options import with_options
from coterie.config import ConfigError
from coterie.hosting.settings import NOT_OPTIONS, ServeSettings

WHAT, ACCESS, LOAD, PAGE = "What is served", "Who may call", "Load", "Page and log"
STATE = "What is kept"
SECTIONS = {
    ACCESS: (
        *("host", "port", "insecure_no_auth", "allowed_hosts", "allowed_origins", "tls_cert", "tls_key"),
    ),
    LOAD: (
        *("slots", "max_queue", "prefill_chunk", "max_stall", "request_timeout", "drain"),
        *("prefix_cache_mb", "deterministic", "kernels", "speculate"),
    ),
    PAGE: ("page", "feedback", "log_requests"),
    STATE: ("store", "state_dir", "store_mb", "store_days", "files_mb", "allow_tuning"),
    WHAT: ("adapter_dir",),
}


Memory = Annotated[
    str | None,
    typer.Option(
        help="Memory for models, such as 12GB: others are loaded on demand, and the least recently used "
        "one makes room (default: no limit).",
        rich_help_panel=WHAT,
    ),
]


@with_options(ServeSettings, leave_out=NOT_OPTIONS, sections=SECTIONS)
def serve(
    models: Annotated[
        list[str],
        typer.Argument(help="A directory, GGUF file or hub id; of several, each as NAME=PATH or PATH."),
    ],
    settings: ServeSettings,
    name: Annotated[
        str | None,
        typer.Option(
            help="What requests call the model (default: its directory; of .../NAME/model, NAME).",
            rich_help_panel=WHAT,
        ),
    ] = None,
    alias: Annotated[
        list[str] | None,
        typer.Option(
            help="A further name for it (repeatable); of several models ALIAS=MODEL.", rich_help_panel=WHAT
        ),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=DIR of an adapter or patch to serve too, or a hub id; of several models "
            "MODEL:NAME=DIR.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    profile: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE with a request's 'moe' object.", rich_help_panel=WHAT)
    ] = None,
    memory: Memory = None,
    api_key_file: Annotated[
        str | None,
        typer.Option(
            help="File whose first line is the key to ask for, or a .yaml file of keys with names and limits "
            "(default: COTERIE_API_KEY, or no key).",
            rich_help_panel=ACCESS,
        ),
    ] = None,
    dtype: Dtype = "auto",
    quant: Weights = None,
    experts: Experts = "auto",
    expert_memory: ExpertMemory = None,
    expert_profile: ExpertProfile = None,
    template: Template = None,
    print_config: PrintConfig = None,
) -> None:
    """Serve models over an OpenAI-compatible HTTP API. Ctrl-C or SIGTERM drains and ends."""
    wanted = settings.model_copy(update=_access(api_key_file))
    served = wanted_models(models, name, alias or [], adapter or [], profile or [])
    if print_config is not None:
        show_config(print_config, served, wanted)
        return
    _check_access(wanted)
    limit = None if memory is None else parse_bytes(memory, "--memory")
    if len(served) > 1:
        _check_single({"--template": template, "--expert-profile": expert_profile})
    weights = limit and max(1, limit - wanted.prefix_cache_mb * 2**20)
    place = expert_place(experts, expert_memory, expert_profile, weights)
    sys.exit(_run(served, Loading(dtype, template, quant or "stored", place), limit, wanted))


def _check_single(given: Mapping[str, str | None]) -> None:
    """Errors: `ConfigError` for an option that goes with one model."""
    for option, value in given.items():
        if value is not None:
            raise ConfigError(f"serve: {option} goes with one model")


def _run(served: Sequence[Wanted], form: Loading, memory: int | None, settings: ServeSettings) -> int:
    """Load and serve; returns the exit code. Errors: `CoterieError` before anything listens."""
    from coterie.checkpoints.quantise import in_words
    from coterie.machine.onednn_cache import keep_few_kernels
    from coterie.serve.server import serve as serve_until_stopped

    keep_few_kernels()
    show_messages("wall")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    host = host_of(served, settings, form, memory)

    def announce(url: str) -> None:
        first = host.default
        count = f"{first.model.num_parameters:,} parameters ({in_words(first.held)})"
        size = f"{count}, {first.max_length} positions"
        others = "".join(f", {place.card.name}" for place in host.places[1:])
        key = ", with keys" if settings.keys else "" if settings.api_key is None else ", with a key"
        kept = (
            f", responses and files kept in {settings.state_path} (--no-store keeps none)"
            if settings.store
            else ""
        )
        print(f"{url} serves {first.name}: {size}{others}{key}{kept}", file=sys.stderr, flush=True)
        print(f"dtype: {first.dtype}", file=sys.stderr, flush=True)
        print(
            f"kernels: {first.kernels}; speculation: {first.engine.speculation}", file=sys.stderr, flush=True
        )
        if first.model.model.store is not None:
            print(first.model.model.store, file=sys.stderr, flush=True)

    return serve_until_stopped(host, announce)


def _access(path: str | None) -> dict[str, Any]:
    """The settings of a key file: `keys` of a YAML file, else `api_key`. Errors: `ConfigError`."""
    if path is not None and Path(path).suffix in (".yaml", ".yml"):
        from coterie.hosting.keys import read_keys

        return {"keys": read_keys(path)}
    key = _key(path)
    return {"api_key": None if key is None else SecretStr(key)}


def _key(path: str | None) -> str | None:
    """The key from a file, or from COTERIE_API_KEY. Errors: `ConfigError`."""
    from coterie.remote.client import KEY_VARIABLE, read_key

    key = read_key(path)
    if key is not None and len(key) < 8:
        raise ConfigError(
            f"serve: the key of {path or KEY_VARIABLE} is too short; take at least 8 characters"
        )
    return key


def _check_access(settings: ServeSettings) -> None:
    """Errors: `ConfigError` for an address or a directory of adapters that needs a key."""
    from coterie.serve.server import check_binding

    check_binding(settings)
    path = settings.adapter_dir
    if path is None:
        return
    if settings.api_key is None and not any(key.admin for key in settings.keys):
        raise ConfigError(
            "serve: --adapter-dir needs a key, because its holder may add and remove adapters; "
            "give --api-key-file (in a .yaml file, a key with 'admin: true')"
        )
    if not path.is_dir():
        raise ConfigError(f"serve: --adapter-dir {path}: no such directory")
