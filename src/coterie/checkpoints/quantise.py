"""Round a model's frozen matrices to 8 or 4 bits, in memory or while its files are read.

Embedding, head, routers, norms and biases stay as they are, and so does every group that is trained in full.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from coterie.checkpoints.tensor_source import TensorSource
from coterie.config import AdapterConfig, ConfigError
from coterie.families import Slot
from coterie.nn.experts import ExpertLinear
from coterie.nn.linear import Linear
from coterie.nn.parameter_groups import module_groups
from coterie.nn.quantised_layers import QuantisedExpertLinear, QuantisedLinear, quantise_layer
from coterie.nn.quantised_tensor import BITS, QuantisedTensor
from coterie.nn.transformer import Transformer

_GROUPS = ("attention", "experts", "shared", "dense")


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


@torch.no_grad()
def read_quantised(stored: TensorSource, slot: Slot, target: QuantisedTensor) -> None:
    """Read one tensor from disk and round it into its place, expert by expert where it holds several."""
    whole = torch.empty(target.shape, device="meta")
    view = slot.view(whole)
    if view.stride(-1) == 1:  # the view selects leading dimensions only, so it selects the codes too
        target.store(slot.part(stored.read(slot.disk)), slot.view)
        return
    for expert in range(target.shape[0]):  # (E, in, out) on disk
        part = stored.read_part(slot.disk, expert).mT
        target.store(part, lambda tensor, expert=expert: tensor[expert])  # type: ignore[misc]


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
