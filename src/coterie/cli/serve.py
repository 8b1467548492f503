"""`coterie serve`."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

from coterie.config import ConfigError
from coterie.infer.model import load
from coterie.serve.kernels import keep_few_kernels
from coterie.serve.moe import read_profile
from coterie.serve.server import check_binding, serve
from coterie.serve.service import ServeSettings, Service, default_name
from coterie.weights.checkpoint import locate


def run(
    path: str,
    name: str | None,
    aliases: tuple[str, ...],
    adapters: list[str],
    profiles: list[str],
    api_key_file: str | None,
    dtype: str,
    settings: dict[str, Any],
) -> int:
    """Load and serve; the exit code."""
    keep_few_kernels()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    key = _key(api_key_file)
    wanted = ServeSettings.from_dict({**settings, "api_key": key}, where="serve")
    check_binding(wanted)
    model = load(path, dtype=dtype)
    service = Service(model, name or default_name(path), wanted, aliases, locate(path))
    for adapter, directory in _pairs(adapters, "adapter"):
        service.add_adapter(adapter, directory)
    for profile, file in _pairs(profiles, "profile"):
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
    return pairs


def _key(path: str | None) -> str | None:
    """The key from a file, or from COTERIE_API_KEY. Errors: `ConfigError`."""
    if path is None:
        return os.environ.get("COTERIE_API_KEY") or None
    try:
        lines = Path(path).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not text"
        raise ConfigError(f"serve: the key file {path} cannot be read ({reason})") from None
    if not lines or len(lines[0]) < 8:
        raise ConfigError(f"serve: the first line of {path} must be a key of at least 8 characters")
    return lines[0]
