"""Reading `config.json` key by key: what is used, kept for the round trip, or must not be ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import ConfigError, suggest

_MISSING: Any = object()
# Values with which these keys change nothing.
_MASKS: dict[str, tuple[Any, ...]] = {
    "is_causal": (None, True),
    "use_bidirectional_attention": (None, False),
    "per_layer_config": (None, {}),
}
# Readers build one entry for each of these before `ModelConfig` checks anything.
_MOST = {"num_hidden_layers": 10_000, "num_nextn_predict_layers": 1_000}


class Reader:
    """Takes keys out of a Hugging Face config mapping; what nobody took is `rest()`."""

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self.data = data
        self.where = where
        self.used: set[str] = {"model_type", "architectures"}
        self.inert: set[str] = set()  # found to change nothing: kept for the round trip, and not refused

    def get(self, *names: str, default: Any = _MISSING) -> Any:
        """The value of the name present and not null; `default`, or an error naming the key.

        Several names are spellings of one setting. Errors: `ConfigError` where two of them disagree.
        """
        self.used.update(names)
        found = {name: self.data[name] for name in names if self.data.get(name) is not None}
        if found:
            first, *others = found
            for other in others:
                if found[other] != found[first]:
                    raise ConfigError(
                        f"{self.where}: '{first}' is {found[first]!r:.60} and '{other}' is "
                        f"{found[other]!r:.60}, which "
                        "are names of one setting; remove one"
                    )
            most = _MOST.get(first)
            if most is not None and not (type(found[first]) is int and 0 <= found[first] <= most):
                shown = f"'{first}' is {str(found[first])[:60]}"
                raise ConfigError(f"{self.where}: {shown}; a whole number up to {most:,} was expected")
            return found[first]
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
                f"{self.where}: '{name}' is {self.data[name]!r:.80}; only {options} is supported here"
            )

    def flag(self, name: str, default: bool) -> bool:
        """A switch; null means off, as in transformers, and absent means `default`."""
        self.used.add(name)
        return bool(self.data.get(name, default))

    def refuse_unread(self) -> None:
        """Refuse settings that transformers reads for every family and this one did not take.

        They would change the mask: a window that is shorter than the model's positions, other kinds of
        layers, layers with separate settings. Errors: `ConfigError`.
        """
        for name, allowed in _MASKS.items():
            if name not in self.used and self.data.get(name) not in allowed:
                raise ConfigError(
                    f"{self.where}: '{name}' is {self.data[name]!r}, which is not supported here"
                )
        for name in ("sliding_window", "attention_chunk_size"):
            window = self.data.get(name)
            # Families with a switch for the window have checked the switch.
            switched = name == "sliding_window" and "use_sliding_window" in self.used
            if window is None or name in self.used | self.inert or switched:
                continue
            if type(window) is not int or not window >= self.get("max_position_embeddings") > 0:
                raise ConfigError(
                    f"{self.where}: '{name}' is {window!r}, and {self.data['model_type']} models attend "
                    f"to all "
                    "positions; remove it, or give a number from max_position_embeddings up"
                )
        types = self.data.get("layer_types")
        if types is not None and "layer_types" not in self.used and set(types) - {"full_attention"}:
            raise ConfigError(
                f"{self.where}: 'layer_types' names {min(set(types) - {'full_attention'})!r}; "
                f"{self.data['model_type']} models have full attention in every layer"
            )

    def rest(self) -> dict[str, Any]:
        """Keys that were not taken, kept so that saving writes them back."""
        return {key: value for key, value in self.data.items() if key not in self.used}


def head_dim(reader: Reader, unsaid: int | None = None) -> int:
    """Width of an attention head: stated, or `unsaid`, or the model's width shared between the heads."""
    stated = reader.get("head_dim", default=unsaid)
    width: int = reader.get("hidden_size") // reader.get("num_attention_heads") if stated is None else stated
    return width
