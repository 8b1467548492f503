"""Reading `config.json` key by key: what is used, kept for the round trip, or must not be ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import ConfigError, RopeConfig, RopeScaling, suggest

_MISSING: Any = object()


class Reader:
    """Takes keys out of a Hugging Face config mapping; what nobody took is `rest()`."""

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self.data = data
        self.where = where
        self.used: set[str] = {"model_type", "architectures"}

    def get(self, *names: str, default: Any = _MISSING) -> Any:
        """The value of the first name present and not null; `default`, or an error naming the key."""
        self.used.update(names)
        for name in names:
            if self.data.get(name) is not None:
                return self.data[name]
        if default is _MISSING:
            hint = suggest(names[0], set(self.data) - self.used)
            raise ConfigError(f"{self.where}: '{names[0]}' is missing{hint}")
        return default

    def expect(self, name: str, *allowed: Any) -> None:
        """Refuse a key that changes the mathematics unless it is absent or has an `allowed` value."""
        self.used.add(name)
        if name in self.data and self.data[name] not in allowed:
            options = " or ".join(repr(value) for value in allowed)
            raise ConfigError(
                f"{self.where}: '{name}' is {self.data[name]!r}; only {options} is supported here"
            )

    def rest(self) -> dict[str, Any]:
        """Keys that were not taken, kept so that saving writes them back."""
        return {key: value for key, value in self.data.items() if key not in self.used}

    def rope(self, default_theta: float, style: str = "half") -> RopeConfig:
        """Both spellings: `rope_parameters` (transformers 5) and `rope_theta` with `rope_scaling` (4.x)."""
        parameters = dict(
            self.get("rope_parameters", default=None) or self.get("rope_scaling", default=None) or {}
        )
        self.used.update(("rope_parameters", "rope_scaling"))
        theta = parameters.pop("rope_theta", None) or self.get("rope_theta", default=default_theta)
        self.used.add("rope_theta")
        kind = parameters.pop("rope_type", None) or parameters.pop("type", None) or "default"
        parameters.pop("type", None)
        if kind == "default":
            return RopeConfig.from_dict({"theta": theta, "style": style}, self.where)
        if kind not in ("llama3", "linear", "yarn"):
            raise ConfigError(
                f"{self.where}: rope_type '{kind}' is not supported here; use default, llama3, linear or yarn"
            )
        parameters = {key: value for key, value in parameters.items() if value is not None}
        if kind == "yarn":  # as transformers fills in what is left out
            longest = self.get("max_position_embeddings")
            original = parameters.setdefault("original_max_position_embeddings", longest)
            parameters.setdefault("factor", longest / original)
        names = {"original_max_position_embeddings": "original_max_positions"}
        scaling = {"kind": kind} | {names.get(key, key): value for key, value in parameters.items()}
        return RopeConfig.from_dict(
            {"theta": theta, "style": style, "scaling": scaling}, f"{self.where}: rope"
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
