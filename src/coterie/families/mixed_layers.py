"""Families whose layers are of two kinds: attention, and a mixer with a state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from coterie.config import AttentionConfig, ConfigError, ModelConfig
from coterie.families.base import grouped_query
from coterie.families.reader import Reader

M = TypeVar("M")


def read_kinds(reader: Reader, known: Mapping[str, object], usual: Sequence[str]) -> list[str]:
    """`layer_types`, or `usual` where they are not there.

    Errors: `ConfigError` unless there are layers of every `known` kind, and no others.
    """
    types: list[str] = reader.get("layer_types", default=None) or list(usual)
    if len(types) != len(usual) or set(types) != set(known):
        raise ConfigError(
            f"{reader.where}: 'layer_types' needs {len(usual)} entries, both {' and '.join(known)}"
        )
    return types


def step_limits(reader: Reader) -> tuple[float, float | None]:
    """`time_step_limit` of Mamba-2: the smallest and the largest time step (None: no limit)."""
    limits = reader.get("time_step_limit", default=None)
    low, high = (0.0, None) if limits is None else (_limit(limit) for limit in limits)
    return low or 0.0, high


def _limit(limit: Any) -> float | None:
    """None for infinity, which transformers writes as an object."""
    number = float(limit["__float__"] if isinstance(limit, Mapping) else limit)
    return None if number == float("inf") else number


def first_of_both(config: ModelConfig, mixer: type[M]) -> tuple[AttentionConfig, M]:
    """The first attention and the first mixer of this kind.

    Errors: `ConfigError` for a layer of another kind, and for a model that lacks one of the two.
    """
    mixers = [block.attention for block in config.blocks]
    others = [block for block in config.blocks if not isinstance(block.attention, mixer)]
    attentions = [grouped_query(config, block) for block in others]
    first = next((one for one in mixers if isinstance(one, mixer)), None)
    if not attentions or first is None:
        raise ConfigError(f"a {config.family} model needs layers with attention and layers with a state")
    return attentions[0], first


def kinds_of(config: ModelConfig, known: Mapping[str, type]) -> list[str]:
    """`layer_types` of a model."""
    names = {kind: name for name, kind in known.items()}
    return [names[type(block.attention)] for block in config.blocks]
