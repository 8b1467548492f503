"""Round a model's frozen matrices to 8 or 4 bits, in memory or while its files are read.

Embedding, head, routers, norms and biases stay as they are, and so does every group that is trained in full.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from coterie.checkpoints.tensor_source import TensorSource
from coterie.config import AdapterConfig, ConfigError
from coterie.families import Slot
from coterie.families.mapping import View
from coterie.nn.experts import ExpertLinear
from coterie.nn.linear import Linear
from coterie.nn.parameter_groups import module_groups
from coterie.nn.quantised_layers import QuantisedExpertLinear, QuantisedLinear, quantise_layer
from coterie.nn.quantised_tensor import BITS, QuantisedTensor
from coterie.nn.transformer import Transformer

_GROUPS = ("attention", "experts", "shared", "dense")
_SAMPLE = 64  # rows of a matrix; each is rounded by itself


def quantise_model(model: Transformer, config: AdapterConfig) -> None:
    """Round every matrix of attention, experts, shared and dense feed-forwards that is not trained in full.

    One layer at a time; a model on the meta device only gets the places for the codes. Layers that are
    quantised already stay as they are.
    Errors: `ConfigError` without `quant`, or for a model that has an adapter.
    """
    if config.quant == "none":
        raise ConfigError("quant: is none; give int8 or int4")
    if model.adapter is not None:
        raise ConfigError("quant: the model has an adapter; quantise the base before it is attached")
    groups = module_groups(model)
    for name, layer in list(model.named_modules()):
        plain = type(layer) in (Linear, ExpertLinear)
        group = groups.get(name, "extra")
        if plain and group in _GROUPS and config.train[group] != "full":  # type: ignore[index]
            assert isinstance(layer, Linear | ExpertLinear)
            model.set_submodule(name, quantise_layer(layer, BITS[config.quant], config.quant_block))


def quantised_parts(model: Transformer) -> dict[str, QuantisedTensor]:
    """Our parameter names -> the codes that replace them."""
    return {
        f"{name}.weight": layer.quantised
        for name, layer in model.named_modules()
        if isinstance(layer, QuantisedLinear | QuantisedExpertLinear)
    }


def is_quantised(model: Transformer) -> bool:
    """Whether any weight of the model is kept in fewer bits."""
    return any(isinstance(module, QuantisedTensor) for module in model.modules())


def keep_codes(source: TensorSource, slots: Iterable[Slot], model: Transformer) -> None:
    """Give every matrix whose stored codes fit into its bits the blocks and the scales of the file.

    It then holds the stored numbers exactly, in place of rounding them again. A matrix has one form, so all
    its parts (experts, gate and up) must have the same grid. `model`: on the meta device.
    """
    parts: dict[str, list[Slot]] = {}
    for slot in slots:
        parts.setdefault(slot.name, []).append(slot)
    for name, target in quantised_parts(model).items():
        grids = {
            source.grid(slot.disk) if _of_rows(slot, target, source) else None for slot in parts[name]
        }  # fmt: skip
        grid = grids.pop() if len(grids) == 1 else None
        if grid is not None and grid.bits <= target.bits:
            target.keep(grid.block, grid.scales)


def _of_rows(slot: Slot, target: QuantisedTensor, source: TensorSource) -> bool:
    """Whether a slot selects rows alone, in the parameter and on disk, so that it selects codes too."""
    width, shape = target.shape[-1], source.shape(slot.disk)
    views = slot.view(torch.empty(target.shape, device="meta")), slot.part(torch.empty(shape, device="meta"))
    return len(shape) == 2 and all(view.shape[-1] == width and view.stride(-1) == 1 for view in views)


@dataclass
class MatrixRounding:
    """What reading made of a model's matrices: `kept` as they are stored, or `rounded`.

    `error` and `size`: sums of squares of the change and of the numbers, over samples of what was rounded.
    """

    kept: int = 0
    rounded: int = 0
    error: float = 0.0
    size: float = 0.0

    def __str__(self) -> str:
        """In words, such as `196 matrices are kept code for code (lossless)`."""
        kept = f"{self.kept} matrices are kept code for code (lossless)"
        if not self.rounded:
            return kept
        change = (self.error / self.size) ** 0.5 if self.size else 0.0
        rounded = (
            f"{self.rounded} matrices are rounded, which changes them by {change:.2%} (root mean square)"
        )
        return f"{kept}, {rounded}" if self.kept else rounded


@torch.no_grad()
def read_quantised(
    source: TensorSource, slot: Slot, target: QuantisedTensor, rounding: MatrixRounding
) -> None:
    """Read one tensor from disk into its place, as its codes or rounded; `rounding` counts it.

    What holds all experts is read expert by expert.
    """
    if target.kept:
        codes, scales = source.codes(slot.disk)
        target.store_codes(slot.part(codes), slot.part(scales), slot.view)
        rounding.kept += 1
        return
    rounding.rounded += 1
    whole = torch.empty(target.shape, device="meta")
    if slot.view(whole).stride(-1) == 1:  # the view selects leading dimensions only, so it selects codes too
        _round(target, slot.part(source.read(slot.disk)), slot.view, rounding)
        return
    for expert in range(target.shape[0]):  # (E, in, out) on disk
        part = source.read_part(slot.disk, expert).mT
        _round(target, part, lambda tensor, expert=expert: tensor[expert], rounding)  # type: ignore[misc]


def _round(target: QuantisedTensor, weight: Tensor, view: View, rounding: MatrixRounding) -> None:
    target.store(weight, view)
    rows = weight.reshape(-1, weight.shape[-1])
    sample = rows[:: max(1, len(rows) // _SAMPLE)].float()
    small = QuantisedTensor(tuple(sample.shape), target.bits, target.block)
    small.store(sample)
    rounding.error += float((small.dequantise() - sample).square().sum())
    rounding.size += float(sample.square().sum())


@dataclass
class GroupWeights:
    """How many numbers a group of weights holds, and in how many bytes."""

    numbers: int = 0
    bytes: int = 0

    @property
    def bits(self) -> float:
        """Effective bits per number."""
        return 8 * self.bytes / self.numbers


def weights_by_group(model: Transformer) -> dict[str, GroupWeights]:
    """The weights of each parameter group as they are in memory, without LoRA factors."""
    groups = module_groups(model)
    table: dict[str, GroupWeights] = {}
    for name, module in model.named_modules():
        row = table.setdefault(groups[name.removesuffix(".quantised")], GroupWeights())
        if isinstance(module, QuantisedTensor):
            row.numbers += torch.Size(module.shape).numel()
            row.bytes += module.nbytes
        for own, parameter in module.named_parameters(recurse=False):
            if not own.startswith("lora_"):
                row.numbers += parameter.numel()
                row.bytes += parameter.nbytes
    return {group: row for group, row in table.items() if row.numbers}
