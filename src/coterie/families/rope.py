"""Rotary positions in `config.json`, in both spellings, resolved as transformers 5 resolves them.

transformers 4 writes `rope_theta` and `rope_scaling`, transformers 5 `rope_parameters`. Directories often
have both: `rope_scaling` decides where it says anything, and a theta inside it wins over `rope_theta`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from coterie.config import ConfigError, RopeConfig, RopeScaling
from coterie.families.reader import Reader, head_dim

_KEYS = (
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "partial_rotary_factor",
    "original_max_position_embeddings",
)
_KINDS = ("llama3", "linear", "yarn", "longrope")
_ORIGINAL = "original_max_position_embeddings"
_FACTORS = {"short_factor": "short_factors", "long_factor": "long_factors"}


def read_rope(
    reader: Reader,
    default_theta: float,
    style: str = "half",
    unsaid: Mapping[str, Any] | None = None,
    partial: float | None = None,
    own: Collection[str] = (),
    width: int | None = None,
) -> RopeConfig:
    """The rotary positions of a model.

    `unsaid`: what its family uses where neither key is there. `partial`: the share of a head that rotates
    where the config does not say; None: this family rotates whole heads only. `own`: settings next to the
    common ones that the family reads itself. `width`: of a head, where the common keys do not say it.
    Errors: `ConfigError` for settings that change the model and are not supported, and for two places that
    disagree where transformers would use neither value.
    """
    reader.used.update(_KEYS)
    settings = rope_settings(reader.data, reader.where, unsaid)
    nested = next((key for key, value in settings.items() if isinstance(value, Mapping)), None)
    if nested is not None:
        raise ConfigError(
            f"{reader.where}: gives rope settings per layer type ('{nested}'), which is not supported here"
        )
    if settings.get("rope_theta") is None:
        settings["rope_theta"] = reader.get("rope_theta", default=None)
    if settings["rope_theta"] is None:
        settings["rope_theta"] = default_theta
        _check_lost_theta(reader, default_theta)
    return _resolved(reader, {k: v for k, v in settings.items() if k not in own}, style, partial, width)


def read_layer_ropes(
    reader: Reader,
    unsaid: Mapping[str, Mapping[str, Any]],
    theta_keys: Mapping[str, str],
    partial: float | None = None,
    head_dims: Mapping[str, int] | None = None,
) -> dict[str, RopeConfig]:
    """The rotary positions of each layer type: `rope_parameters` has an object for each one.

    `unsaid`: layer type -> what its family uses where the config says nothing, `rope_theta` included.
    `theta_keys`: layer type -> the key of its theta in transformers 4, whose `rope_scaling` is that of the
    layers with full attention. `head_dims`: layer type -> its width of a head, where they differ.
    Errors: as `read_rope`.
    """
    reader.used.update({*_KEYS, *theta_keys.values()})
    stored = reader.data.get("rope_parameters") or {}
    scaling = reader.data.get("rope_scaling") or {}
    for settings in (stored, scaling):
        if not isinstance(settings, Mapping):
            raise ConfigError(f"{reader.where}: rope settings must be an object, not {settings!r:.40}")
    flat = sorted(stored.keys() - unsaid.keys())
    if flat:
        raise ConfigError(
            f"{reader.where}: rope_parameters has '{flat[0]}' outside of the layer types; give it to each of "
            f"{', '.join(unsaid)}"
        )
    ropes = {}
    for kind, default in unsaid.items():
        said = dict(stored.get(kind) or {}) | (dict(scaling) if kind == "full_attention" else {})
        settings = {key: value for key, value in said.items() if value is not None}
        legacy = reader.get(theta_keys[kind], default=None) if kind in theta_keys else None
        whole = default if not settings else {"rope_theta": default["rope_theta"]}
        settings = {**whole, **({} if legacy is None else {"rope_theta": legacy}), **settings}
        width = None if head_dims is None else head_dims[kind]
        ropes[kind] = _resolved(reader, settings, "half", partial, width)
    return ropes


def _resolved(
    reader: Reader, settings: dict[str, Any], style: str, partial: float | None, width: int | None = None
) -> RopeConfig:
    """One `RopeConfig` from settings without nulls that have a theta."""
    _check(reader, settings, partial)
    kind = settings.pop("rope_type", None) or settings.pop("type", None) or "default"
    data = {"theta": settings.pop("rope_theta"), "style": style}
    share = settings.pop("partial_rotary_factor", reader.get("partial_rotary_factor", default=partial))
    if partial is not None:
        width = head_dim(reader) if width is None else width
        turning = 2 * int(share * width // 2) if kind == "proportional" else int(share * width)
        data |= {} if turning == width else {"rotated": turning, "proportional": kind == "proportional"}
    if kind == "default" or (
        kind == "proportional" and settings.get("factor", 1) == 1 and partial is not None
    ):
        return RopeConfig.from_dict(data, f"{reader.where}: rope")
    if kind not in _KINDS:
        raise ConfigError(
            f"{reader.where}: rope_type '{kind}' is not supported here; use default, {', '.join(_KINDS)}"
        )
    settings.pop("type", None)
    if kind == "linear":
        settings.pop(_ORIGINAL, None)
    else:
        longest = reader.get("max_position_embeddings")
        original = settings.setdefault(_ORIGINAL, reader.get(_ORIGINAL, default=longest))
        if kind in ("yarn", "longrope"):  # as transformers fills in what is left out
            settings.setdefault("factor", longest / original)
        if kind == "yarn":  # 0 is none
            for name in ("mscale", "mscale_all_dim"):
                if not settings.get(name):
                    settings.pop(name, None)
    names = {_ORIGINAL: "original_max_positions"} | _FACTORS
    scaling = {"kind": kind} | {names.get(key, key): value for key, value in settings.items()}
    return RopeConfig.from_dict(data | {"scaling": scaling}, f"{reader.where}: rope")


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


def _check(reader: Reader, settings: Mapping[str, Any], partial: float | None) -> None:
    """Refuse what has no meaning here, and an original context that is stated twice."""
    for source in (reader.data, settings):
        factor = source.get("partial_rotary_factor")
        if partial is None and factor not in (None, 1):
            raise ConfigError(
                f"{reader.where}: 'partial_rotary_factor' is {factor!r}; only 1 is supported here"
            )
    inner, outer = settings.get(_ORIGINAL), reader.data.get(_ORIGINAL)
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


def rope_to_hf(rope: RopeConfig, head_dim: int, partial: bool = False) -> dict[str, Any]:
    """`rope_theta`, `rope_scaling` for 4.x readers and llama.cpp, `rope_parameters` for transformers 5.

    `head_dim`: width of a head. `partial`: write the share of it that rotates in any case.
    """
    parameters = _parameters(rope, head_dim, partial)
    scaling = _scaling_to_hf(rope.scaling) if rope.scaling else None
    data = {"rope_theta": rope.theta, "rope_scaling": scaling, "rope_parameters": parameters}
    share = parameters.get("partial_rotary_factor")
    return data if share is None else data | {"partial_rotary_factor": share}


def layer_ropes_to_hf(
    ropes: Mapping[str, RopeConfig],
    head_dims: Mapping[str, int],
    theta_keys: Mapping[str, str],
    partial: bool = False,
) -> dict[str, Any]:
    """The same for `read_layer_ropes`, with an object per layer type."""
    data: dict[str, Any] = {"rope_scaling": None}
    for kind, rope in ropes.items():
        if kind in theta_keys:
            data[theta_keys[kind]] = rope.theta
        if kind == "full_attention" and rope.scaling is not None:
            data["rope_scaling"] = _scaling_to_hf(rope.scaling)
    parameters = {kind: _parameters(rope, head_dims[kind], partial) for kind, rope in ropes.items()}
    return data | {"rope_parameters": parameters}


def _parameters(rope: RopeConfig, head_dim: int, partial: bool) -> dict[str, Any]:
    kind = {"rope_type": "proportional" if rope.proportional else "default"}
    data = {"rope_theta": rope.theta} | (_scaling_to_hf(rope.scaling) if rope.scaling else kind)
    if rope.rotated is None and not partial:
        return data
    return data | {"partial_rotary_factor": (rope.rotated or head_dim) / head_dim}


def _scaling_to_hf(scaling: RopeScaling) -> dict[str, Any]:
    if scaling.kind == "linear":
        return {"rope_type": "linear", "factor": scaling.factor}
    if scaling.kind == "longrope":
        factors = {theirs: list(getattr(scaling, ours)) for theirs, ours in _FACTORS.items()}
        gain = {} if scaling.attention_factor is None else {"attention_factor": scaling.attention_factor}
        original = {_ORIGINAL: scaling.original_max_positions}
        return {"rope_type": "longrope", "factor": scaling.factor} | original | factors | gain
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
