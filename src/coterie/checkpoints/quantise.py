"""Hold a model's matrices in the form that a `Precision` names, in memory or while its files are read.

Routers, norms and biases stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from coterie.checkpoints.quantised.encoded import Grid
from coterie.checkpoints.tensor_source import TensorSource
from coterie.config import ConfigError, Precision
from coterie.config.precision import WEIGHT_CLASSES
from coterie.families import Slot
from coterie.families.mapping import View
from coterie.nn.experts import ExpertLinear
from coterie.nn.linear import Linear, TokenEmbedding
from coterie.nn.parameter_groups import module_groups
from coterie.nn.quantised_layers import QuantisedExpertLinear, QuantisedLinear, quantise_layer
from coterie.nn.quantised_tensor import QuantisedTensor
from coterie.nn.stored_experts import StoredExpertLinear
from coterie.nn.transformer import Transformer

_SAMPLE = 64  # rows of a matrix; each is rounded by itself
_ROWS = 8192  # of a head that are rounded at once
_BLOCK = 32  # stored codes in other blocks are widened unless they are asked for: they are slow to read
_TYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}


def _matrices(model: Transformer) -> Iterator[tuple[str, str, nn.Module]]:
    """(name, class, layer) of every layer whose weight can be held in a form that a `Precision` names."""
    groups = module_groups(model)
    for name, layer in list(model.named_modules()):
        if groups.get(name) in WEIGHT_CLASSES and isinstance(layer, Linear | ExpertLinear | TokenEmbedding):
            yield name, groups[name], layer


@torch.no_grad()
def quantise_model(model: Transformer, precision: Precision) -> None:
    """Round every matrix of the classes that `precision` holds in 8 or 4 bits, one layer at a time.

    A model on the meta device only gets the places for the codes. Layers that are quantised already stay as
    they are. A head that is the embedding becomes a second, rounded copy of it (`round_head`).
    Errors: `ConfigError` for a model that has an adapter, or none of whose weights is of a named class.
    """
    if model.adapter is not None:
        raise ConfigError("quant: the model has an adapter; quantise the base before it is attached")
    bits = precision.bits("head")
    if model.head is None and bits is not None:
        with torch.device("meta"):
            head = Linear(model.config.width, model.config.vocab_size)
        shape = (model.config.vocab_size, model.config.width)
        codes = QuantisedTensor(shape, bits, precision.block, model.embed.weight.device)
        model.head = QuantisedLinear(head, codes)
        round_head(model)
    reached = set[str]()
    for name, group, layer in list(_matrices(model)):
        reached.add(group)
        bits = precision.bits(group)
        if bits is not None and type(layer) in (Linear, ExpertLinear):
            assert isinstance(layer, Linear | ExpertLinear)
            model.set_submodule(name, quantise_layer(layer, bits, precision.block))
    if precision.named and not reached & precision.named.keys():
        raise ConfigError(f"quant: {precision} names no weight of this {model.config.family} model")


@torch.no_grad()
def round_head(model: Transformer) -> None:
    """Give a head in codes the embedding's numbers where the two are one; nothing for other models."""
    if (
        model.config.tie_embeddings
        and isinstance(model.head, QuantisedLinear)
        and not model.embed.weight.is_meta
    ):
        for first in range(0, model.config.vocab_size, _ROWS):
            rows = slice(first, first + _ROWS)
            model.head.quantised.store(model.embed.weight[rows], lambda tensor, rows=rows: tensor[rows])  # type: ignore[misc]


def types_of(model: Transformer, precision: Precision) -> dict[str, torch.dtype]:
    """Our names of the weights that `precision` holds in a floating-point type, and the type of each."""
    found = {name: precision.form(group) for name, group, _ in _matrices(model)}
    return {
        f"{name}.weight": _TYPES[form] for name, form in found.items() if form is not None and form in _TYPES
    }


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


def is_rounded(model: Transformer) -> bool:
    """Whether any weight of the model is kept in fewer bits that are not those of its files."""
    return any(isinstance(module, QuantisedTensor) and not module.kept for module in model.modules())


def hold_as(model: Transformer, precision: Precision, source: TensorSource, slots: Iterable[Slot]) -> None:
    """Give a model on the meta device the places for what `precision` names, before it is filled.

    Every matrix in codes whose stored codes fit into its bits gets the blocks and the scales of the file. It
    then holds the stored numbers exactly, in place of rounding them again. A matrix has one form, so all its
    parts (experts, gate and up) must have the same grid. Errors: as `quantise_model`.
    """
    quantise_model(model, precision)
    parts: dict[str, list[Slot]] = {}
    for slot in slots:
        parts.setdefault(slot.name, []).append(slot)
    for name, group, layer in list(_matrices(model)) if precision.stored and source.quantised else []:
        if precision.form(group) is None and type(layer) in (Linear, ExpertLinear):
            assert isinstance(layer, Linear | ExpertLinear)
            grid = _grid(parts[f"{name}.weight"], tuple(layer.weight.shape), source)
            if grid is not None and grid.block % _BLOCK == 0:
                model.set_submodule(name, quantise_layer(layer, grid.bits, grid.block))
    for name, target in quantised_parts(model).items():
        grid = _grid(parts.get(name, ()), target.shape, source)
        if grid is not None and grid.bits <= target.bits:
            target.keep(grid.block, grid.scales)


def _grid(slots: Iterable[Slot], shape: tuple[int, ...], source: TensorSource) -> Grid | None:
    """The grid that holds all parts of a matrix exactly; None where they have none, or several."""
    found = {source.grid(slot.disk) if of_rows(slot, shape, source) else None for slot in slots}
    return found.pop() if len(found) == 1 else None


def of_rows(slot: Slot, shape: tuple[int, ...], source: TensorSource) -> bool:
    """Whether a slot selects rows alone, in the parameter and on disk, so that it selects codes too."""
    width, stored = shape[-1], source.shape(slot.disk)
    views = slot.view(torch.empty(shape, device="meta")), slot.part(torch.empty(stored, device="meta"))
    return len(stored) == 2 and all(view.shape[-1] == width and view.stride(-1) == 1 for view in views)


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


def held_forms(model: Transformer) -> dict[str, str]:
    """What the weights of each class are held in, in words: `int4 in blocks of 64`, `bf16`."""
    groups = module_groups(model)
    found: dict[str, dict[str, None]] = {}
    for name, layer in model.named_modules():
        group = groups[name]
        if isinstance(layer, QuantisedLinear | QuantisedExpertLinear):
            codes = layer.quantised
            form = f"int{codes.bits} in blocks of {codes.block}"
        elif isinstance(layer, StoredExpertLinear):
            form = layer.form.words(_NAMES)
        elif isinstance(layer, Linear | ExpertLinear | TokenEmbedding):
            form = _NAMES.get(layer.weight.dtype, str(layer.weight.dtype))
        else:
            continue
        if group in WEIGHT_CLASSES:
            found.setdefault(group, {})[form] = None
    return {group: " and ".join(found[group]) for group in WEIGHT_CLASSES if group in found}


def in_words(held: Mapping[str, str]) -> str:
    """`held_forms` as one text: classes of the same form together."""
    by_form: dict[str, list[str]] = {}
    for group, form in held.items():
        by_form.setdefault(form, []).append(group)
    return "; ".join(f"{', '.join(groups)} in {form}" for form, groups in by_form.items())
