"""Memory for modules that were built on the meta device, where only names and shapes exist."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import nn

from coterie.nn.router import Router


def materialise(
    module: nn.Module,
    dtype: torch.dtype,
    device: str | torch.device,
    types: Mapping[str, torch.dtype] = MappingProxyType({}),
) -> None:
    """Give a module built on the meta device memory, uninitialised; router statistics start fresh.

    `types`: names of parameters that have another type than `dtype`, with their types.
    """
    # `to_empty` would do, but imports a symbolic algebra system on its way
    for prefix, part in list(module.named_modules()):
        for name, parameter in list(part.named_parameters(recurse=False)):
            kept = types.get(f"{prefix}.{name}" if prefix else name, dtype)
            empty = torch.empty(parameter.shape, dtype=kept, device=device)
            setattr(part, name, nn.Parameter(empty, requires_grad=parameter.requires_grad))
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=device))
        if isinstance(part, Router) and part.select_bias is not None:
            bias = part.select_bias
            part.select_bias.data = torch.zeros(bias.shape, dtype=torch.float32, device=bias.device)
    for part in module.modules():
        if isinstance(part, Router):
            part.balance.reset()
