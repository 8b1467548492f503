"""Codes that make up for each other's rounding, by what a model's matrices are multiplied with in a text.

I input features, E experts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from coterie.checkpoints.quantise import MatrixRounding
from coterie.checkpoints.quantised.encoded import packed, packed_words
from coterie.checkpoints.tensor_source import TensorSource
from coterie.data.progress import Ticker
from coterie.families import Slot
from coterie.nn.experts import RoutedExperts
from coterie.nn.kernels.weights import Counts, segments
from coterie.nn.packed import layers_packed
from coterie.nn.quantised_tensor import QuantisedTensor
from coterie.nn.rounding import compensated_codes, searched_scales
from coterie.nn.transformer import Transformer

_log = logging.getLogger("coterie")
_DAMPING = 0.01
# The damping of few rows: their moments say nothing of most directions, and rounding would move errors there.
_UNSEEN = 0.1  # times I over the number of rows


@dataclass
class Moments:
    """The sum of `x x^T` over `rows` inputs x of a matrix; None before the first."""

    sum_II: Tensor | None = None
    rows: int = 0

    def add(self, x_RI: Tensor) -> None:
        """Count some inputs."""
        x_RI = x_RI.detach().reshape(-1, x_RI.shape[-1]).float()
        self.sum_II = x_RI.T @ x_RI if self.sum_II is None else self.sum_II.addmm_(x_RI.T, x_RI)
        self.rows += len(x_RI)


@dataclass
class Calibrated:
    """What calibrating made.

    `parts`: tensors on disk -> words (O, W) and scales (O, B) of their codes. `matrices`: their number.
    `unseen`: those of them that no token reached, which are rounded without statistics.
    """

    parts: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    matrices: int = 0
    unseen: int = 0


@torch.no_grad()
def calibrate(
    model: Transformer,
    targets: Mapping[str, QuantisedTensor],
    slots: Iterable[Slot],
    source: TensorSource,
    sequences: Sequence[Sequence[int]],
    rounding: MatrixRounding,
) -> Calibrated:
    """Round the matrices of all blocks by GPTQ, layer by layer, with the inputs that the unrounded model has.

    `targets`: our names of the matrices that are to be in codes, and the bits and blocks of each. `slots`:
    where they are on disk. `rounding` counts what becomes of them. What is in no block is left out.
    """
    by_name: dict[str, list[Slot]] = {}
    for slot in slots:
        if slot.name in targets:
            by_name.setdefault(slot.name, []).append(slot)
    watch, result = _Watch(model, targets), Calibrated()
    ticker = Ticker("calibrating: layers")
    try:
        for layer, _ in enumerate(layers_packed(model, sequences)):
            for name, moments in watch.taken():
                matrix = model.get_submodule(name.removesuffix(".weight")).weight
                assert isinstance(matrix, Tensor)
                codes, scales = _rounded(matrix, targets[name], moments, result)
                _count(rounding, matrix, codes, scales)
                _to_disk(result, by_name[name], source, targets[name].bits, codes, scales)
            ticker(layer + 1, len(model.blocks))
    finally:
        watch.end()
    return result


class _Watch:
    """Gathers the moments of every matrix that runs, one for each expert."""

    def __init__(self, model: Transformer, targets: Mapping[str, QuantisedTensor]) -> None:
        self._moments: dict[str, list[Moments]] = {}
        self._last: tuple[Tensor, Moments] | None = None  # several matrices read the same input
        self._experts: list[RoutedExperts] = []
        self._hooks = []
        for name, module in model.named_modules():
            if isinstance(module, RoutedExperts):
                names = [f"{name}.{part}.weight" for part in (module.first_name, "down")]
                if targets.keys() & set(names):
                    module.observer = partial(self._experts_read, names, module.down.num_experts)
                    self._experts.append(module)
            elif f"{name}.weight" in targets:
                self._hooks.append(module.register_forward_pre_hook(partial(self._read, f"{name}.weight")))
        self._targets = targets

    def _read(self, name: str, module: nn.Module, given: tuple[Tensor, ...]) -> None:
        if self._last is None or self._last[0] is not given[0]:
            own = self._moments[name][0] if name in self._moments else Moments()
            own.add(given[0])
            self._last = given[0], own
        self._moments[name] = [self._last[1]]

    def _experts_read(
        self, names: Sequence[str], count: int, x_RD: Tensor, hidden_RF: Tensor, counts: Counts
    ) -> None:
        real_R = x_RD.any(-1)  # experts may get rows of zeros up to a round number
        for name, rows_RI in zip(names, (x_RD, hidden_RF), strict=True):
            if name in self._targets:
                own = self._moments.setdefault(name, [Moments() for _ in range(count)])
                for expert, rows in segments(counts):
                    own[expert].add(rows_RI[rows][real_R[rows]])

    def taken(self) -> list[tuple[str, list[Moments]]]:
        """What was gathered since the last call."""
        found, self._moments, self._last = list(self._moments.items()), {}, None
        return found

    def end(self) -> None:
        """Watch no longer."""
        for hook in self._hooks:
            hook.remove()
        for experts in self._experts:
            experts.observer = None


def _rounded(
    weight: Tensor, target: QuantisedTensor, moments: Sequence[Moments], result: Calibrated
) -> tuple[Tensor, Tensor]:
    """Codes (*, O, I) and scales (*, O, B)."""
    width, made = weight.shape[-1], []
    for matrix_OI, own in zip(weight.view(-1, *weight.shape[-2:]), moments, strict=True):
        sum_II = torch.zeros(width, width) if own.sum_II is None else own.sum_II
        counts_I = sum_II.diagonal() if own.rows else None
        scales_OB = searched_scales(matrix_OI, target.bits, target.block, counts_I)
        damping = _DAMPING + _UNSEEN * width / max(1, own.rows)
        made.append((compensated_codes(matrix_OI, scales_OB, target.bits, sum_II, damping), scales_OB))
        result.matrices += 1
        result.unseen += own.rows == 0
    codes, scales = (torch.stack(part) for part in zip(*made, strict=True))
    return codes.view(weight.shape), scales.view(*weight.shape[:-1], -1)


def _count(rounding: MatrixRounding, weight: Tensor, codes: Tensor, scales: Tensor) -> None:
    stacked = (tensor.reshape(-1, *tensor.shape[-2:]) for tensor in (weight, codes, scales))
    for part, own, factors in zip(*stacked, strict=True):
        wide = (own.float().unflatten(-1, (factors.shape[-1], -1)) * factors.float()[..., None]).flatten(-2)
        rounding.error += float((wide - part.float()).square().sum())
        rounding.size += float(part.float().square().sum())
        rounding.rounded += 1


def _to_disk(
    result: Calibrated, slots: Sequence[Slot], source: TensorSource, bits: int, codes: Tensor, scales: Tensor
) -> None:
    """Put codes where the tensors on disk have them: a matrix may be part of one, or be several."""
    for slot in slots:
        rows, columns = source.shape(slot.disk)
        if slot.disk not in result.parts:
            words = torch.empty(rows, packed_words(columns, bits), dtype=torch.int32)
            result.parts[slot.disk] = words, torch.empty(rows, scales.shape[-1], dtype=torch.bfloat16)
        words, own = result.parts[slot.disk]
        slot.part(words).copy_(packed(slot.view(codes), bits))
        slot.part(own).copy_(slot.view(scales))
