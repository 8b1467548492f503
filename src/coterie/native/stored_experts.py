"""Experts that lie in files as an operation: what a step chose is read before its products."""

from __future__ import annotations

import ctypes

from coterie.native import routing
from coterie.native.layers import Sorted
from coterie.native.program import CannotPlan, StepProgram
from coterie.nn.experts import RoutedExperts
from coterie.nn.stored_experts import LayerExperts

_CALLED = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)


def fetch(program: StepProgram, experts: RoutedExperts, order: Sorted, top_k: int) -> None:
    """Have the chosen experts in memory; nothing for experts that are there anyway.

    What fails is raised where the step ends: no exception can pass through it.
    """
    layer = experts.on_disk
    if layer is None:
        return
    assert isinstance(layer, LayerExperts)
    most = min(layer.num_experts, program.most * top_k)
    if layer.pool.num_places < most:
        raise CannotPlan(
            f"memory for {layer.pool.num_places} experts where a step may choose {most} of a layer"
        )
    store = layer.store
    program.add(
        routing.fetch, order.active, order.num_active, order.starts, layer.table.data_ptr(),
        layer.uses.data_ptr(), store.weight.data_ptr(), store.growth, store.figures.data_ptr(),
        program.calls(_CALLED(_reading(layer))),
    )  # fmt: skip


def _reading(layer: LayerExperts):  # type: ignore[no-untyped-def]
    """What a step calls with the address and the number of the chosen experts."""

    def read(active: int, num_active: int) -> None:
        try:
            layer.require(list((ctypes.c_int64 * num_active).from_address(active)))
        except BaseException as error:
            layer.store.failure = error

    return read
