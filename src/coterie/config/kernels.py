"""Which kernels a decoding step runs on, as a setting."""

from __future__ import annotations

from typing import Literal

# `auto`: the native step where the model has one and it pays. `native`: it, or an error. `torch`: PyTorch.
Kernels = Literal["auto", "native", "torch"]
