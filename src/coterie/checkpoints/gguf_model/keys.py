"""What a GGUF file says about its model, key by key: what is used, harmless, or must not be ignored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from coterie.checkpoints.tensor_source import TensorSource
from coterie.config import CheckpointError
from coterie.llamacpp.fused import QKV
from coterie.llamacpp.key_tables import Key

_MISSING: Any = object()
# Keys that change nothing in a decoder that is read from its tensors.
_HARMLESS = frozenset(
    "vocab_size pooling_type tensor_data_layout use_parallel_residual rope.scaling.finetuned "
    "rope.dimension_count".split()
)


class GgufKeys:
    """The keys of an architecture, without its prefix, and the shapes of the file's tensors.

    `where`: the file, for messages. Errors of all methods: `CheckpointError`, one line, naming the key.
    """

    def __init__(self, where: str, metadata: Mapping[str, Any], tensors: TensorSource) -> None:
        self.where, self.metadata, self._tensors = where, metadata, tensors
        self.shapes = {name: tensors.shape(name) for name in tensors}
        self.arch = str(metadata.get("general.architecture"))
        prefix = f"{self.arch}."
        self.keys = {
            name.removeprefix(prefix): value for name, value in metadata.items() if name.startswith(prefix)
        }
        self._used = set(_HARMLESS)

    def get(self, name: str, default: Any = _MISSING) -> Any:
        """The value of a key, floats as the shortest decimal that the file's 32 bits can mean."""
        self._used.add(name)
        if name in self.keys:
            return shortest(self.keys[name])
        if default is _MISSING:
            raise CheckpointError(f"{self.where}: has no key '{self.arch}.{name}', which the model needs")
        return default

    def count(self, name: str, default: Any = _MISSING) -> Any:
        """A whole number, or one number repeated for every layer."""
        value = self.get(name, default)
        if isinstance(value, list) and value and all(one == value[0] for one in value):
            value = value[0]
        if value is default or (type(value) is int and 0 <= value < 2**40):
            return value
        raise self.unusable(name, value, "a whole number")

    def per_layer(self, name: str, layers: int, default: Any = _MISSING) -> list[Any]:
        """A value for each of `layers` layers, stated once or one by one (further layers left out)."""
        value = self.get(name, default)
        if not isinstance(value, list):
            return [value] * layers
        if len(value) < layers:
            raise self.unusable(name, value, f"{layers} values")
        return value[:layers]

    def layer_types(self, every: int) -> list[str]:
        """`layer_types`: stated layer by layer or as a period, else every n-th layer attends to all."""
        name = "attention.sliding_window_pattern"
        stated = self.get(name, None)
        if isinstance(stated, list):
            sliding = [bool(one) for one in self.per_layer(name, self.layers)]
        else:
            period = self.count(name, every)
            sliding = [period == 0 or index % period < period - 1 for index in range(self.layers)]
        return ["sliding_attention" if one else "full_attention" for one in sliding]

    def stated(self, keys: Iterable[Key], names: Mapping[str, str]) -> dict[str, Any]:
        """The config.json keys that the file's keys state. `names`: place in our config -> key there.

        Errors: two keys of the file that disagree about one place.
        """
        found: dict[str, Any] = {}
        by: dict[str, str] = {}
        for key in keys:
            theirs = names.get(key.place)
            if theirs is None or key.name not in self.keys:
                continue
            value = self.get(key.name)
            try:
                value = key.read(value)
            except (KeyError, TypeError):
                known = ", ".join(str(code) for code in (key.codes or {}).values())
                raise self.unusable(key.name, value, f"one of {known}") from None
            if isinstance(value, list):
                value = self.count(key.name)
            if theirs in found and found[theirs] != value:
                raise CheckpointError(
                    f"{self.where}: '{self.arch}.{by[theirs]}' is {found[theirs]} and "
                    f"'{self.arch}.{key.name}' {value}, which must be equal in this architecture here"
                )
            found[theirs], by[theirs] = value, key.name
        return found

    def expect(self, name: str, *allowed: Any) -> None:
        """Refuse a key that changes the mathematics unless it is absent or has an `allowed` value."""
        value = self.get(name, None)
        if value is not None and value not in allowed:
            options = " or ".join(str(one) for one in allowed)
            raise self.unusable(name, value, options)

    def has(self, tensor: str) -> bool:
        """Whether the file holds a tensor, in the first layer for names without a layer's number."""
        return tensor in self.shapes or f"blk.0.{tensor}" in self.shapes

    def shape(self, tensor: str) -> tuple[int, ...]:
        """The shape of a tensor that the model needs."""
        if tensor not in self.shapes:
            raise CheckpointError(f"{self.where}: the tensor '{tensor}' is missing")
        return self.shapes[tensor]

    @property
    def biased(self) -> bool:
        """Whether queries, keys and values have biases."""
        # The first layer may be one that keeps a state.
        return any(name.endswith((".attn_q.bias", f".{QKV}.bias")) for name in self.shapes)

    def divisors(self, name: str) -> Tensor | None:
        """(n/2,) float32: what the frequencies of rope are divided by; None where the file has none."""
        return self._tensors.read(name).float() if name in self.shapes else None

    @property
    def layers(self) -> int:
        """Layers of the decoder: `block_count` includes those that predict further tokens."""
        total, extra = self.count("block_count"), self.count("nextn_predict_layers", 0)
        if not 0 < total - extra <= 10_000:
            raise self.unusable("block_count", total, "from 1 to 10,000 layers")
        return int(total - extra)

    def unusable(self, name: str, value: Any, wanted: str) -> CheckpointError:
        """The error for a value that cannot be used."""
        return CheckpointError(
            f"{self.where}: '{self.arch}.{name}' is {str(value)[:60]}; {wanted} can be read here"
        )

    def refuse_unread(self) -> None:
        """Refuse keys of the architecture that nobody asked for: they may change the model."""
        for name, value in self.keys.items():
            if name not in self._used:
                raise CheckpointError(
                    f"{self.where}: '{self.arch}.{name}' is {str(value)[:60]}, which is not read here and "
                    f"may change the model; to read the file without it, convert it with --set "
                    f"{self.arch}.{name}=null"
                )


def shortest(value: Any) -> Any:
    """A float as the shortest decimal with the same 32 bits, which was meant; other values unchanged."""
    if isinstance(value, float):
        return float(str(np.float32(value)))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [shortest(one) for one in value]
    return value
