"""`coterie tune`."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coterie.config.base import apply_overrides, read_yaml
from coterie.config.errors import ConfigError
from coterie.config.tune import TuneConfig, parse_train
from coterie.recipes.tune import run_tune


def run(
    arguments: Sequence[str],
    given: dict[str, Any],
    train: str | None,
    config: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Put the settings together (file, options, key=value) and tune."""
    overrides = [text for text in arguments if "=" in text and not Path(text).exists()]
    sources = [text for text in arguments if text not in overrides]
    settings = read_yaml(config) if config is not None else {}
    if sources:
        given = given | {"data": sources}
    if "data" not in given and "data" not in settings:
        raise ConfigError("tune: no examples given; name a file after the model, 'starter' or 'tools'")
    if train is not None:
        given = given | {"train": parse_train(train)}
    if isinstance(given.get("eval"), str):
        given["eval"] = _share(given["eval"])
    chosen = TuneConfig.from_dict(apply_overrides(settings | given, overrides), config or "tune")
    result = run_tune(chosen, shlex.join(["coterie", *sys.argv[1:]]), dry_run)
    if as_json:
        print(json.dumps(result.to_dict()))
    elif result.path is not None:
        print(result.path)


def _share(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
