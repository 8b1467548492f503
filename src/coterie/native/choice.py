"""Whether a model has a native plan: the one place that decides, with the reason where it has none."""

from __future__ import annotations

import logging
import os
from importlib import import_module
from typing import TYPE_CHECKING

import torch

from coterie.config.kernels import Kernels
from coterie.nn.transformer import Transformer

if TYPE_CHECKING:
    from coterie.native.plan import NativePlan

_log = logging.getLogger(__name__)
# Below this, a step is so short that reading the kernels from numba's cache takes longer than most replies.
SMALL = 4_000_000


def plan_for(model: Transformer, kernels: Kernels = "auto") -> NativePlan | str:
    """The native plan of a model, or in one line why it has none.

    `auto` leaves small models to PyTorch, `native` does not, `torch` leaves all to it. The kernels are
    compiled at the first call on a machine and come from numba's cache later.
    """
    reason = _unsuited(model, kernels, model.embed.weight.device.type)
    if reason is not None:
        return reason
    try:
        from coterie.jit.compiled import folder
        from coterie.native.plan import NativePlan
        from coterie.native.program import CannotPlan
        from coterie.native.self_test import check_draws, check_products
    except Exception as error:  # a missing or broken numba
        return f"numba cannot be imported ({_line(error)})"
    if not any(folder("coterie.native").glob("*/*.nbi")):
        _log.warning("native kernels: compiling, 10 to 30 seconds, once on this machine")
    try:
        plan = NativePlan(model)
        check_products(plan.kinds)
        check_draws()
    except CannotPlan as error:
        return f"the native step does not know {error}"
    except Exception as error:  # whatever a compiler may raise
        return f"the kernels cannot be compiled here ({_line(error)})"
    return plan


def foreseen(model: Transformer, device: str = "cpu") -> str:
    """What `describe` would say of a model that is on the meta device, once it is on `device`.

    Nothing is compiled.
    """
    reason = _unsuited(model, "auto", device)
    if reason is not None:
        return describe(reason)
    try:
        lowering, program = (import_module(f"coterie.native.{name}") for name in ("lowering", "program"))
    except Exception as error:
        return describe(f"numba cannot be imported ({_line(error)})")
    try:
        return f"native ({lowering.Lowering(model, 1, compiles=False).stored})"
    except program.CannotPlan as error:
        return describe(f"the native step does not know {error}")


def _unsuited(model: Transformer, kernels: Kernels, device: str) -> str | None:
    """Why a model is not planned, before its layers are looked at; None where nothing speaks against it."""
    if kernels == "torch":
        return "PyTorch's products were asked for"
    if device != "cpu":
        return f"the model is on {device}"
    size = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    size += 0 if model.store is None else model.store.num_numbers
    if kernels == "auto" and size < SMALL:
        return f"the model is small ({size:,} numbers)"
    if model.training and any(getattr(module, "dropout", 0.0) for module in model.modules()):
        return "the model is in training, with dropout"
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return "NUMBA_DISABLE_JIT is set"
    try:
        threads = import_module("coterie.native.runner").thread_functions()
    except Exception as error:  # a missing or broken numba
        return f"numba cannot be imported ({_line(error)})"
    if kernels == "auto" and torch.get_num_threads() > 1 and threads is None:
        return "torch's threads cannot be shared here (it has no libgomp); OMP_NUM_THREADS=1 allows it"
    return None


def readiness() -> str:
    """`ready`, or in one line why no model can have a native plan on this machine."""
    try:
        import_module("coterie.native.self_test").check_products([0])
    except Exception as error:
        return f"not usable ({_line(error)}); PyTorch is used"
    return "ready"


def describe(plan: NativePlan | str) -> str:
    """One line for people."""
    return f"torch: {plan}" if isinstance(plan, str) else f"native ({plan.stored})"


def _line(error: Exception) -> str:
    """The kind of an error and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__
