"""Which kernels a decoding step runs on, as a setting."""

from __future__ import annotations

from typing import Literal, cast, get_args

from coterie.config.errors import ConfigError

# `auto`: the native step where the model has one and it pays. `native`: it, or an error. `torch`: PyTorch.
Kernels = Literal["auto", "native", "torch"]


def check_kernels(name: str) -> Kernels:
    """The setting of this name. Errors: `ConfigError` for another one."""
    if name not in get_args(Kernels):
        raise ConfigError(f"kernels '{name}' is not known; use one of {', '.join(get_args(Kernels))}")
    return cast(Kernels, name)
