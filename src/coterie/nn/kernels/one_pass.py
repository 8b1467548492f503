"""Work on rows in one compiled pass where numba is there, else None: float32 and bfloat16 on CPU.

T tokens, N rows, R routed rows sorted by expert, D and F columns.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

_log = logging.getLogger(__name__)
DTYPES = (torch.float32, torch.bfloat16)
# Numbers from which a pass takes all threads: as many as PyTorch's own loops.
_SHARED = 1 << 16
# Numbers from which a pass over codes pays.
_WORTH_WIDENING = 1 << 15


def ready() -> bool:
    """Whether numba's passes can be called; the first call imports or compiles them."""
    return _passes() is not None


def swiglu(gate_NF: Tensor, up_NF: Tensor) -> Tensor:
    """`silu(gate) * up`."""
    y_NF = torch.empty_like(up_NF, memory_format=torch.contiguous_format)
    _run("swiglu", gate_NF, gate_NF.shape[1], *_place(gate_NF), *_place(up_NF), *_place(y_NF))
    return y_NF


def swiglu_gradient(
    gate_NF: Tensor, up_NF: Tensor, grad_NF: Tensor, grad_gate_NF: Tensor, grad_up_NF: Tensor
) -> Tensor:
    """Write the gradients of gate and up; returns `silu(gate) * up`. `grad_NF`: the gradient of that."""
    y_NF = torch.empty_like(up_NF, memory_format=torch.contiguous_format)
    places = [at for x in (gate_NF, up_NF, grad_NF, grad_gate_NF, grad_up_NF, y_NF) for at in _place(x)]
    _run("swiglu_gradient", gate_NF, gate_NF.shape[1], *places)
    return y_NF


def weighted_rows(
    grad_TD: Tensor, y_RD: Tensor, weights_TK: Tensor, token_R: Tensor, slot_R: Tensor
) -> tuple[Tensor, Tensor]:
    """Each row's token of `grad`, times its weight; and its product with the row of y (R,), float32."""
    out_RD, dots_R = torch.empty_like(y_RD), torch.empty(y_RD.shape[0], dtype=torch.float32)
    parts = (
        grad_TD.contiguous(),
        y_RD.contiguous(),
        weights_TK.contiguous(),
        token_R,
        slot_R,
        out_RD,
        dots_R,
    )
    _run("weighted_rows", y_RD, y_RD.shape[1], *(x.data_ptr() for x in parts))
    return out_RD, dots_R


def norm(x_ND: Tensor, weight_D: Tensor, eps: float, late: bool) -> tuple[Tensor, Tensor]:
    """RMSNorm and each row's factor (N,), float32. `weight_D`: float32, rounded as the product reads it."""
    y_ND, scale_N = torch.empty_like(x_ND), torch.empty(*x_ND.shape[:-1], 1, dtype=torch.float32)
    bits = ctypes.c_int64.from_buffer(ctypes.c_double(eps)).value
    places = (x.data_ptr() for x in (x_ND, weight_D, y_ND, scale_N))
    _run("norm", x_ND, x_ND.shape[-1], int(late), bits, *places)
    return y_ND, scale_N


def norm_gradient(x_ND: Tensor, weight_D: Tensor, scale_N: Tensor, grad_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the weight (float32)."""
    grad_x_ND = torch.empty_like(x_ND)
    sums = torch.empty(_blocks(), x_ND.shape[-1], dtype=torch.float32)
    parts = (x_ND, weight_D, scale_N, grad_ND, grad_x_ND, sums)
    _run("norm_gradient", x_ND, x_ND.shape[-1], *(x.data_ptr() for x in parts))
    return grad_x_ND, sums.sum(0)


def widens(codes: Tensor, scales: Tensor, num_numbers: int, dtype: torch.dtype) -> bool:
    """Whether `widen` makes numbers of `dtype` from blocks of codes: 2 to 8 times as fast as PyTorch.

    Decided here and not in `choose`, which reads of quantised weights.
    """
    if codes.device.type != "cpu" or num_numbers < _WORTH_WIDENING or dtype not in DTYPES:
        return False
    whole = codes.is_contiguous() and scales.is_contiguous() and scales.dtype in DTYPES
    return whole and not torch.compiler.is_compiling() and ready()


def widen(codes: Tensor, scales: Tensor, bits: int, block: int, y_NI: Tensor) -> None:
    """Write the numbers of blocks of codes, rounded once. `scales`: float32 or bfloat16."""
    places = (x.data_ptr() for x in (codes, scales, y_NI))
    _run("widen", y_NI, y_NI.shape[-1], bits, block, DTYPES.index(scales.dtype), *places)


def _place(x: Tensor) -> tuple[int, int]:
    """Address and bytes from row to row."""
    return x.data_ptr(), x.stride(0) * x.element_size()


def _run(name: str, x: Tensor, *fields: int) -> None:
    """Call a pass over the rows of x, on all of torch's threads where there is enough to do."""
    passes = _passes()
    assert passes is not None
    function, parallel, who = passes[name]
    threads = torch.get_num_threads() if parallel is not None and x.numel() >= _SHARED else 1
    kind = DTYPES.index(x.dtype)
    given = (threads, who, x.numel() // x.shape[-1], kind, *fields)
    context = (ctypes.c_int64 * len(given))(*given)
    if threads > 1:
        parallel(function.address, ctypes.addressof(context), threads, 0)
    else:
        function.ctypes(ctypes.addressof(context))


@functools.cache
def _passes() -> dict[str, tuple[Any, Any, int]] | None:
    """Name -> (compiled function, libgomp's way to run it in parallel, the address of a thread's number)."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return None
    try:
        from coterie.jit.compiled import c_function, folder
        from coterie.jit.openmp import thread_functions

        if not any(folder("coterie.nn.passes").glob("*/*.nbi")):
            _log.warning("passes over rows: compiling, a few seconds, once on this machine")
        functions = thread_functions()
        parallel = None
        if functions is not None:
            kinds = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
            parallel = ctypes.CFUNCTYPE(None, *kinds)(functions[0])
        found = {}
        for module, names in _MODULES.items():
            for name in names:
                kernel = getattr(import_module(f"coterie.nn.passes.{module}"), name)
                found[name] = c_function(kernel, 1), parallel, functions[2] if functions else 0
    except Exception as error:  # a missing or broken numba, or whatever a compiler may raise
        _log.warning("passes over rows: not usable (%s); PyTorch is used", type(error).__name__)
        return None
    return found


_MODULES = {
    "activation": ("swiglu", "swiglu_gradient"),
    "mixture": ("weighted_rows",),
    "norm": ("norm", "norm_gradient"),
    "widen": ("widen",),
}


def _blocks() -> int:
    return int(import_module("coterie.nn.passes.numbers").BLOCKS)
