"""Rotary positions in `config.json`, in both spellings, resolved as transformers 5 resolves them.

transformers 4 writes `rope_theta` and `rope_scaling`, transformers 5 `rope_parameters`. Directories often
have both: `rope_scaling` decides where it says anything, and a theta inside it wins over `rope_theta`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import ConfigError, RopeConfig, RopeScaling
from coterie.families.reader import Reader

_KEYS = (
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "partial_rotary_factor",
    "original_max_position_embeddings",
)
_KINDS = ("llama3", "linear", "yarn")
_ORIGINAL = "original_max_position_embeddings"


def read_rope(
    reader: Reader, default_theta: float, style: str = "half", unsaid: Mapping[str, Any] | None = None
) -> RopeConfig:
    """The rotary positions of a model. `unsaid`: what its family uses where neither key is there.

    Errors: `ConfigError` for settings that change the model and are not supported, and for two places that
    disagree where transformers would use neither value.
    """
    reader.used.update(_KEYS)
    parameters = rope_settings(reader.data, reader.where, unsaid)
    _check(reader, parameters)
    theta = parameters.pop("rope_theta", None)
    if theta is None:
        theta = reader.get("rope_theta", default=None)
    if theta is None:
        theta = default_theta
        _check_lost_theta(reader, theta)
    kind = parameters.pop("rope_type", None) or parameters.pop("type", None) or "default"
    if kind == "default":
        return RopeConfig.from_dict({"theta": theta, "style": style}, reader.where)
    if kind not in _KINDS:
        raise ConfigError(
            f"{reader.where}: rope_type '{kind}' is not supported here; use default, llama3, linear or yarn"
        )
    for name in ("type", "partial_rotary_factor"):
        parameters.pop(name, None)
    if kind == "linear":
        parameters.pop(_ORIGINAL, None)
    else:
        longest = reader.get("max_position_embeddings")
        original = parameters.setdefault(_ORIGINAL, reader.get(_ORIGINAL, default=longest))
        if kind == "yarn":  # as transformers fills in what is left out; 0 is none
            parameters.setdefault("factor", longest / original)
            for name in ("mscale", "mscale_all_dim"):
                if not parameters.get(name):
                    parameters.pop(name, None)
    names = {_ORIGINAL: "original_max_positions"}
    scaling = {"kind": kind} | {names.get(key, key): value for key, value in parameters.items()}
    return RopeConfig.from_dict({"theta": theta, "style": style, "scaling": scaling}, f"{reader.where}: rope")


def rope_settings(
    data: Mapping[str, Any], where: str = "config.json", unsaid: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The settings that decide, without nulls. Errors: `ConfigError` unless they are an object."""
    chosen = data.get("rope_scaling") or data.get("rope_parameters")
    if chosen is None:
        chosen = unsaid or {}
    if not isinstance(chosen, Mapping):
        raise ConfigError(f"{where}: rope settings must be an object, not {chosen!r:.40}")
    return {key: value for key, value in chosen.items() if value is not None}


def _check(reader: Reader, parameters: Mapping[str, Any]) -> None:
    """Refuse what has no meaning here, and an original context that is stated twice."""
    nested = next((key for key, value in parameters.items() if isinstance(value, Mapping)), None)
    if nested is not None:
        raise ConfigError(
            f"{reader.where}: gives rope settings per layer type ('{nested}'), which is not supported here"
        )
    for source in (reader.data, parameters):
        factor = source.get("partial_rotary_factor")
        if factor not in (None, 1):
            raise ConfigError(
                f"{reader.where}: 'partial_rotary_factor' is {factor!r}; only 1 is supported here"
            )
    inner, outer = parameters.get(_ORIGINAL), reader.data.get(_ORIGINAL)
    if None not in (inner, outer) and inner != outer:
        raise ConfigError(
            f"{reader.where}: '{_ORIGINAL}' is {outer!r}, but {inner!r} in the rope settings; give one of "
            f"them"
        )


def _check_lost_theta(reader: Reader, default: float) -> None:
    """Refuse a theta in the key that loses, where the winner has none: transformers takes its default."""
    loser = reader.data.get("rope_parameters")
    lost = loser.get("rope_theta") if isinstance(loser, Mapping) else None
    if lost not in (None, default):
        raise ConfigError(
            f"{reader.where}: rope_scaling has no rope_theta and hides that of rope_parameters ({lost}), so "
            f"transformers uses {default:g}; add rope_theta to rope_scaling, or write all settings into "
            "rope_parameters"
        )


def rope_to_hf(rope: RopeConfig) -> dict[str, Any]:
    """`rope_theta`, `rope_scaling` for 4.x readers and llama.cpp, `rope_parameters` for transformers 5."""
    scaling = _scaling_to_hf(rope.scaling) if rope.scaling else None
    parameters = {"rope_theta": rope.theta} | (scaling or {"rope_type": "default"})
    return {"rope_theta": rope.theta, "rope_scaling": scaling, "rope_parameters": parameters}


def _scaling_to_hf(scaling: RopeScaling) -> dict[str, Any]:
    if scaling.kind == "linear":
        return {"rope_type": "linear", "factor": scaling.factor}
    if scaling.kind == "yarn":
        gains = {name: getattr(scaling, name) for name in ("mscale", "mscale_all_dim", "attention_factor")}
        return {
            "rope_type": "yarn",
            "factor": scaling.factor,
            "original_max_position_embeddings": scaling.original_max_positions,
            "beta_fast": scaling.beta_fast,
            "beta_slow": scaling.beta_slow,
            "truncate": scaling.truncate,
        } | {name: value for name, value in gains.items() if value is not None}
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_max_positions,
    }
