"""A check of the compiled products and draws on this machine, before a plan is used."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np
import torch

from coterie.native import draws, layout
from coterie.native.layers import CODED, matrix, product
from coterie.native.program import Rows, StepProgram
from coterie.native.runner import run
from coterie.native.vectors import BF16, F32
from coterie.nn.quantised_tensor import QuantisedTensor

_OUTPUTS, _INPUTS, _ROWS = 67, 128, 7
# 128 products of float32 numbers, each rounded once, and their sum.
_TOLERANCE = 128 * 2.0**-24


def check_products(kinds: Iterable[int]) -> None:
    """Errors: `RuntimeError` where a product of one of these kinds is not what float64 says."""
    for kind in kinds:
        _check(kind)


@functools.cache
def _check(kind: int) -> None:
    generator = torch.Generator().manual_seed(kind)
    weight = torch.randn(_OUTPUTS, _INPUTS, generator=generator)
    x = torch.randn(_ROWS, _INPUTS, generator=generator)
    program = StepProgram(_ROWS)
    if kind in (F32, BF16):
        plain = weight.to(torch.float32 if kind == F32 else torch.bfloat16)
        exact, weights = plain.double(), matrix(program, plain)
    else:
        bits, rounded, block = next(form for form, own in CODED.items() if own == kind)
        held = QuantisedTensor((_OUTPUTS, _INPUTS), bits, block or 48)
        held.store(weight)
        if not rounded:
            held.scales = held.scales.float()
        exact, weights = held.dequantise().double(), matrix(program, held)
    y = torch.zeros(_ROWS, _OUTPUTS)
    read = Rows(program.own(x), 4 * _INPUTS, _INPUTS)
    written = Rows(program.own(y), 4 * _OUTPUTS, _OUTPUTS)
    product(program, weights, read, written)
    table = program.table()
    context = torch.zeros(layout.CONTEXT, dtype=torch.int64)
    for index, value in (
        (layout.TOKENS, _ROWS), (layout.THREADS, 1), (layout.OPS, table.data_ptr()),
        (layout.NUM_OPS, len(table)),
    ):  # fmt: skip
        context[index] = value
    run(context.data_ptr())
    error = (y.double() - x.double() @ exact.T).abs()
    bound = _TOLERANCE * (x.double().abs() @ exact.abs().T)
    if not bool((error <= bound).all()):
        raise RuntimeError(f"a product of kind {kind} is wrong by {float(error.max()):.2g}")


@functools.cache
def check_draws() -> None:
    """Errors: `RuntimeError` where a token that is drawn is not the one of its share."""
    scores = np.log(np.array([[1, 8, 2, 4]], np.float32)).repeat(2, 0)
    settings = np.array([[scores.max(), 1.0, top_k, 1.0, 0.1, 0.8] for top_k in (4, 3)])
    found = draws.draw(scores, settings).tolist()
    if found != [3, 3]:
        raise RuntimeError(f"tokens 3 and 3 are drawn as {found}")
