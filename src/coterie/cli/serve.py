"""`coterie serve`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from pydantic import SecretStr

from coterie.checkpoints.directory import locate
from coterie.config import ConfigError
from coterie.infer.model import load
from coterie.machine.onednn_cache import keep_few_kernels
from coterie.remote.client import KEY_VARIABLE, read_key
from coterie.serve.core.service import Service, default_name
from coterie.serve.core.settings import ServeSettings
from coterie.serve.endpoints.moe import read_profile
from coterie.serve.server import check_binding, serve


def run(
    path: str,
    name: str | None,
    aliases: tuple[str, ...],
    adapters: list[str],
    profiles: list[str],
    api_key_file: str | None,
    dtype: str,
    settings: ServeSettings,
) -> int:
    """Load and serve; returns the exit code. Errors: `CoterieError`, one line, before anything listens."""
    keep_few_kernels()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    key = _key(api_key_file)
    wanted = settings.model_copy(update={"api_key": None if key is None else SecretStr(key)})
    check_binding(wanted)
    _check_adapter_dir(wanted.adapter_dir, key)
    named_adapters, named_profiles = _pairs(adapters, "adapter"), _pairs(profiles, "profile")
    model = load(path, dtype=dtype)
    service = Service(model, name or default_name(path), wanted, aliases, locate(path))
    for adapter, directory in named_adapters:
        service.add_adapter(adapter, directory)
    for profile, file in named_profiles:
        service.profiles[profile] = read_profile(service, file)

    def announce(url: str) -> None:
        shown = f"{url} serves {service.name}: {model.num_parameters:,} parameters, {service.max_length} positions"
        print(shown + ("" if wanted.api_key is None else ", with a key"), file=sys.stderr, flush=True)

    return serve(service, announce)


def _pairs(given: list[str], what: str) -> list[tuple[str, str]]:
    pairs = [(name, path) for name, _, path in (text.partition("=") for text in given)]
    for (name, path), text in zip(pairs, given, strict=True):
        if not name or not path:
            raise ConfigError(f"serve: --{what} {text}: write NAME=PATH")
        if sum(name == other for other, _ in pairs) > 1:
            raise ConfigError(f"serve: --{what} {text}: the name {name} is given more than once")
    return pairs


def _key(path: str | None) -> str | None:
    """The key from a file, or from COTERIE_API_KEY. Errors: `ConfigError`."""
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
            "serve: --adapter-dir needs a key, as who has it may add and remove adapters; give --api-key-file"
        )
    if not path.is_dir():
        raise ConfigError(f"serve: --adapter-dir {path}: no such directory")
