"""`coterie serve`. Its options are the fields of `ServeSettings`, which states their defaults and bounds."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr

from coterie.cli.messages import show_messages
from coterie.cli.options import Dtype, Model, Template, named_paths
from coterie.cli.settings_options import with_options
from coterie.config import ConfigError
from coterie.hosting.settings import NOT_OPTIONS, ServeSettings

WHAT, ACCESS, LOAD, PAGE = "What is served", "Who may call", "Load", "Page and log"
STATE = "Stored responses"
SECTIONS = {
    ACCESS: ("host", "port", "insecure_no_auth", "allowed_hosts", "allowed_origins"),
    LOAD: (
        *("slots", "max_queue", "prefill_chunk", "max_stall", "request_timeout", "drain"),
        *("prefix_cache_mb", "deterministic"),
    ),
    PAGE: ("page", "feedback", "log_requests"),
    STATE: ("store", "state_dir", "store_mb", "store_days"),
    WHAT: ("adapter_dir",),
}


@with_options(ServeSettings, leave_out=NOT_OPTIONS, sections=SECTIONS)
def serve(
    model: Model,
    settings: ServeSettings,
    name: Annotated[
        str | None,
        typer.Option(
            help="What requests call the model (default: its directory; of .../NAME/model, NAME).",
            rich_help_panel=WHAT,
        ),
    ] = None,
    alias: Annotated[
        list[str] | None, typer.Option(help="A further name for it (repeatable).", rich_help_panel=WHAT)
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="NAME=DIR of an adapter or patch to serve too.", rich_help_panel=WHAT),
    ] = None,
    profile: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE with a request's 'moe' object.", rich_help_panel=WHAT)
    ] = None,
    api_key_file: Annotated[
        str | None,
        typer.Option(
            help="File whose first line is the key to ask for (default: COTERIE_API_KEY, or no key).",
            rich_help_panel=ACCESS,
        ),
    ] = None,
    dtype: Dtype = "float32",
    template: Template = None,
) -> None:
    """Serve a model over an OpenAI-compatible HTTP API. Ctrl-C or SIGTERM drains and ends."""
    from coterie.serve.server import check_binding

    key = _key(api_key_file)
    wanted = settings.model_copy(update={"api_key": None if key is None else SecretStr(key)})
    check_binding(wanted)
    _check_adapter_dir(wanted.adapter_dir, key)
    adapters, profiles = named_paths(adapter or [], "--adapter"), named_paths(profile or [], "--profile")
    sys.exit(_run(model, name, tuple(alias or ()), adapters, profiles, dtype, template, wanted))


def _run(
    path: str,
    name: str | None,
    aliases: tuple[str, ...],
    adapters: dict[str, str],
    profiles: dict[str, str],
    dtype: str,
    template: str | None,
    settings: ServeSettings,
) -> int:
    """Load and serve; returns the exit code. Errors: `CoterieError` before anything listens."""
    from coterie.api.common.moe import read_profile
    from coterie.hosting.host import Host
    from coterie.hosting.service import Service, default_name
    from coterie.infer.model import load
    from coterie.machine.onednn_cache import keep_few_kernels
    from coterie.serve.server import serve as serve_until_stopped

    keep_few_kernels()
    show_messages("wall")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    model = load(path, dtype=dtype, template=template)
    service = Service(model, name or default_name(path), settings, aliases)
    for adapter, directory in adapters.items():
        service.add_adapter(adapter, directory)
    for profile, file in profiles.items():
        service.profiles[profile] = read_profile(service, file)

    def announce(url: str) -> None:
        size = f"{model.num_parameters:,} parameters, {service.max_length} positions"
        key = "" if settings.api_key is None else ", with a key"
        print(f"{url} serves {service.name}: {size}{key}", file=sys.stderr, flush=True)

    return serve_until_stopped(Host(service), announce)


def _key(path: str | None) -> str | None:
    """The key from a file, or from COTERIE_API_KEY. Errors: `ConfigError`."""
    from coterie.remote.client import KEY_VARIABLE, read_key

    key = read_key(path)
    if key is not None and len(key) < 8:
        raise ConfigError(
            f"serve: the key of {path or KEY_VARIABLE} is too short; take at least 8 characters"
        )
    return key


def _check_adapter_dir(path: Path | None, key: str | None) -> None:
    if path is None:
        return
    if key is None:
        raise ConfigError(
            "serve: --adapter-dir needs a key, because its holder may add and remove adapters; "
            "give --api-key-file"
        )
    if not path.is_dir():
        raise ConfigError(f"serve: --adapter-dir {path}: no such directory")
