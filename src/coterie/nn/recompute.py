"""Blocks that run again in the backward pass, so that their activations are not kept (arXiv 1604.06174)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

from torch import Tensor
from torch.utils.checkpoint import checkpoint

_again: ContextVar[bool] = ContextVar("recomputing", default=False)


def recomputed(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function(x)`; of what it computes only `x` is kept, and it runs again in the backward pass.

    Random draws are repeated. What counts events must leave the second run out: it asks `recomputing`.
    """
    result: Tensor = checkpoint(function, x, use_reentrant=False, context_fn=_contexts)
    return result


def recomputing() -> bool:
    """Whether this is the second run, in the backward pass."""
    return _again.get()


def _contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _second()


@contextmanager
def _second() -> Iterator[None]:
    token = _again.set(True)
    try:
        yield
    finally:
        _again.reset(token)
