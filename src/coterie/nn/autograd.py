"""Autograd functions that cost nothing extra where no gradient is wanted."""

from __future__ import annotations

from typing import Any

import torch


class _NoContext:
    """Stands in for the autograd context: accepts everything that `forward` saves and drops it."""

    def save_for_backward(self, *tensors: Any) -> None:
        pass

    def __setattr__(self, name: str, value: Any) -> None:
        pass


_NO_CONTEXT = _NoContext()


class GradFunction(torch.autograd.Function):
    """An autograd function called by `call`: while gradients are off its `forward` is called directly.

    `apply` costs about 10 us per call, a large share of the time of one decoded token.
    """

    @classmethod
    def call(cls, *inputs: Any) -> Any:
        """`apply`, or the bare `forward` when gradients are off."""
        return cls.apply(*inputs) if torch.is_grad_enabled() else cls.forward(_NO_CONTEXT, *inputs)
