"""Published models by name: their configs, and the sizes that their makers state."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from coterie.config import CheckpointError, ConfigError, suggest

_FILE = Path(__file__).parent / "published.json"


@dataclass(frozen=True)
class Published:
    """One published model. `total`, `active`: parameters as `source` states them, by its definitions.

    `config`: keys of its config.json, or None for a model that was announced and never released.
    """

    name: str
    title: str
    total: int
    active: int
    source: str
    config: dict[str, Any] | None
    note: str = ""


@cache
def published_models() -> dict[str, Published]:
    """All published models by name, such as `llama-4-scout-17b-16e`."""
    data = json.loads(_FILE.read_text(encoding="utf-8"))
    return {
        entry["name"]: Published(**entry | {"config": data["configs"].get(entry["config"])})
        for entry in data["models"]
    }


def find_published(name: str) -> Published | None:
    """The model of a name or of an unambiguous beginning (`llama-4-scout`); None for any other name.

    Errors: `ConfigError` for a beginning of several names, and for a model whose config was never published.
    """
    models = published_models()
    key = _key(name)
    matches = [key] if key in models else [known for known in models if key and known.startswith(key + "-")]
    if not matches:
        return None
    if len(matches) > 1:
        raise ConfigError(
            f"{name}: is the beginning of several published models: {', '.join(matches)}; name one"
        )
    found = models[matches[0]]
    if found.config is None:
        raise ConfigError(
            f"{found.name}: was announced ({found.source}) and never released; its config is not known"
        )
    return found


def named_published(name: str) -> Published:
    """As `find_published`, for a name that is not a directory.

    Errors: also `CheckpointError` for a name that is not a published one.
    """
    published = find_published(name)
    if published is None:
        raise CheckpointError(
            f"{name}: no such directory, and no published model of that name{suggest_published(name)}; "
            "give a directory, a hub id such as owner/name, or a name such as llama-4-scout"
        )
    return published


def suggest_published(name: str) -> str:
    """` (did you mean 'llama-4-scout'?)` for the closest name or beginning of one, or an empty string."""
    parts = [known.split("-") for known in published_models()]
    beginnings = {"-".join(words[:count]): None for words in parts for count in range(1, len(words) + 1)}
    return suggest(_key(name), beginnings)


def _key(name: str) -> str:
    return name.strip().lower().replace(" ", "-").replace("_", "-")
