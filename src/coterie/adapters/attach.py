"""Adapters in a model: attach fresh ones by intent, take them out as tensors, put them back, merge, drop.

A layer is replaced in place by its adapted form, which keeps the frozen weight under the same name and adds
`lora_A`, `lora_B` and (DoRA) `lora_magnitude`. Adapters in files: `adapters/apply.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from coterie.checkpoints.quantise import quantise_model, quantised_parts
from coterie.config import AdapterConfig, ConfigError, ExpertSelection
from coterie.nn.experts import ExpertLinear
from coterie.nn.linear import Linear
from coterie.nn.lora import LoRAExpertLinear, LoRALinear, LoRARouter
from coterie.nn.parameter_groups import Group, module_groups, parameter_groups
from coterie.nn.router import Router
from coterie.nn.transformer import Transformer


@dataclass(frozen=True)
class Factors:
    """One layer's factors: `a (*, r, I)`, `b (*, O, r)`, `magnitude (*, O)` with DoRA.

    They change the weight by alpha / r times b a. For experts `*` is their dimension, and `chosen` says which
    experts those are (None: all).
    """

    a: Tensor
    b: Tensor
    alpha: float
    magnitude: Tensor | None = None
    chosen: tuple[int, ...] | None = None

    @property
    def rank(self) -> int:
        return self.a.shape[-2]


@dataclass(frozen=True)
class Adapter:
    """An adapter separate from its model: factors by layer, and weights trained in full by parameter name.

    `repeated`: weights of the base that the adapter's file repeats; those of the model must be the same.
    `unties`: a head that was the embedding becomes a separate matrix, at first a copy of it.
    """

    factors: dict[str, Factors]
    full: dict[str, Tensor] = field(default_factory=dict)
    repeated: dict[str, Tensor] = field(default_factory=dict)
    unties: bool = False


def is_factor(name: str) -> bool:
    """Whether a parameter of this name is part of an adapter's factors."""
    return name.rpartition(".")[2].startswith("lora_")


def is_trained(name: str, treatment: str) -> bool:
    """Whether a parameter of a group with this treatment has a gradient."""
    if treatment == "bias":
        return name.endswith(".router.bias")
    return treatment == "full" or (treatment == "lora" and is_factor(name))


def attach(model: Transformer, config: AdapterConfig, experts: ExpertSelection | None = None) -> None:
    """Replace layers and set `requires_grad` of every parameter to exactly what `config.train` says.

    `experts`: the routed experts that get factors; other experts get none (default: all get them). Groups
    outside the config (multi-token prediction) are frozen. With `config.quant` the base is quantised first.
    Errors: `ConfigError` for a model that has an adapter, a wrong selection, or an intent that reaches no
    parameter.
    """
    if model.adapter is not None or any(True for _ in adapted_layers(model)):
        raise ConfigError("adapter: the model has one already; merge it or load the base again")
    if experts is not None:
        if config.train["experts"] != "lora":
            raise ConfigError("experts: a selection limits factors; it needs train.experts=lora")
        experts.check(model.config)
    if config.precision is not None:
        quantise_model(model, config.precision)
    treatments: dict[Group, str] = {**config.train}  # type: ignore[dict-item]
    modules = module_groups(model)
    for name, layer in list(_adaptable(model)):
        if treatments.get(modules[name]) == "lora":
            _attach_one(model, name, layer, config, experts)
    groups = parameter_groups(model)
    for name, parameter in model.named_parameters():
        treatment = treatments.get(groups[name], "freeze")
        parameter.requires_grad_(is_trained(name, treatment))
    moved = config.train["router"] == "bias" and any(r.select_bias is not None for _, r in model.routers())
    if not moved and not any(parameter.requires_grad for parameter in model.parameters()):
        wanted = ", ".join(f"{group}={how}" for group, how in config.train.items() if how != "freeze")
        raise ConfigError(f"adapter: {wanted} reaches no parameter of this {model.config.family} model")
    model.adapter = config


def _attach_one(
    model: Transformer, name: str, layer: nn.Module, config: AdapterConfig, experts: ExpertSelection | None
) -> None:
    rank: int = config.rank
    chosen: tuple[int, ...] | None = None
    if isinstance(layer, ExpertLinear):
        index = int(name.split(".")[1])
        if experts is not None:
            chosen = experts.experts.get(index)
            if chosen is None:
                return
        router = dict(model.config.moe_layers())[index].router
        rank = config.expert_rank(router.num_experts, router.top_k)
    adapted = make_adapted(layer, rank, config.alpha, config.dropout, config.dora, chosen)
    # The seed of each layer depends on its name, so a layer starts the same whatever else is adapted.
    digest = hashlib.sha256(f"{config.seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    bound = adapted.lora_A.shape[-1] ** -0.5
    with torch.no_grad():
        adapted.lora_A.copy_((torch.rand(adapted.lora_A.shape, generator=generator) * 2 - 1) * bound)
    model.set_submodule(name, adapted)


def make_adapted(
    layer: nn.Module, rank: int, alpha: float, dropout: float, dora: bool, chosen: Sequence[int] | None = None
) -> LoRALinear | LoRAExpertLinear | LoRARouter:
    """The adapted form of a layer, sharing its parameters."""
    if isinstance(layer, ExpertLinear):
        return LoRAExpertLinear(layer, rank, alpha, dropout, dora, chosen)
    if isinstance(layer, Router):
        return LoRARouter(layer, rank, alpha, dropout, dora)
    assert isinstance(layer, Linear)
    return LoRALinear(layer, rank, alpha, dropout, dora)


def _adaptable(model: Transformer) -> Iterator[tuple[str, nn.Module]]:
    for name, layer in model.named_modules():
        if isinstance(layer, Linear | ExpertLinear | Router) and not name.startswith("mtp."):
            yield name, layer


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, LoRALinear | LoRAExpertLinear | LoRARouter]]:
    """(name, layer) of every layer with factors, in the model's order."""
    for name, layer in model.named_modules():
        if isinstance(layer, LoRALinear | LoRAExpertLinear | LoRARouter):
            yield name, layer


def adapter_state(model: Transformer) -> dict[str, Tensor]:
    """The tensors of the adapter by our parameter names: factors, and weights that are trained in full.

    Where routers are trained in full, or only their biases, the selection bias (a buffer) belongs to it too.
    """
    state = {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad or is_factor(name)
    }
    biases = model.adapter is not None and model.adapter.train["router"] == "bias"
    for name, buffer in model.named_buffers():
        if name.endswith(".router.select_bias") and (biases or f"{name.rpartition('.')[0]}.weight" in state):
            state[name] = buffer
    return state


def take_adapter(model: Transformer) -> Adapter:
    """The adapter of a model, its tensors shared with it."""
    factors = {}
    for name, layer in adapted_layers(model):
        magnitude = layer.lora_magnitude.detach() if layer.lora_magnitude is not None else None
        partial = isinstance(layer, LoRAExpertLinear) and len(layer.chosen) < layer.num_experts
        chosen = layer.chosen if isinstance(layer, LoRAExpertLinear) and partial else None
        factors[name] = Factors(layer.lora_A.detach(), layer.lora_B.detach(), layer.alpha, magnitude, chosen)
    full = {name: t for name, t in adapter_state(model).items() if not is_factor(name)}
    return Adapter(factors, full)


@torch.no_grad()
def put_adapter(model: Transformer, adapter: Adapter, config: AdapterConfig) -> None:
    """Insert an adapter into a plain model: the tensor-level counterpart of `take_adapter`.

    Factors and full weights are trainable afterwards; everything else is frozen. Errors: `ConfigError` naming
    a layer or parameter that the model lacks or has in another shape.
    """
    if model.adapter is not None:
        raise ConfigError("adapter: the model has one already; merge it or load the base again")
    if adapter.unties:
        untie(model)
    layers = dict(_adaptable(model))
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, factors in adapter.factors.items():
        _check_fits(name, layers.get(name), factors)
    for name, tensor in adapter.full.items():
        if name in quantised_parts(model):
            raise ConfigError(
                f"adapter: it replaces '{name}' whole, which is in codes here; load the base with quant none"
            )
        if name not in own or own[name].shape != tensor.shape:
            raise ConfigError(
                f"adapter: '{name}' {tuple(tensor.shape)} does not fit this {model.config.family} model"
            )
    for name, tensor in adapter.repeated.items():
        if name not in own or not torch.equal(own[name], tensor.to(own[name])):
            raise ConfigError(
                f"adapter: its file repeats the base's '{name}' with other values than this model has; give "
                "the base that it was trained on"
            )
    model.requires_grad_(False)
    for name, factors in adapter.factors.items():
        dora = factors.magnitude is not None
        adapted = make_adapted(
            layers[name], factors.rank, factors.alpha, config.dropout, dora, factors.chosen
        )
        adapted.lora_A.copy_(factors.a)
        adapted.lora_B.copy_(factors.b)
        if adapted.lora_magnitude is not None and factors.magnitude is not None:
            adapted.lora_magnitude.copy_(factors.magnitude)
        model.set_submodule(name, adapted)
    for name, tensor in adapter.full.items():
        own[name].copy_(tensor)
        if isinstance(own[name], nn.Parameter):
            own[name].requires_grad_(True)
    model.adapter = config


@torch.no_grad()
def untie(model: Transformer) -> None:
    """Give a model whose head is its embedding a separate head with the same values."""
    if model.head is not None:
        return
    model.head = Linear(model.config.width, model.config.vocab_size).to(model.embed.weight)
    model.head.weight.copy_(model.embed.weight)
    model.config = model.config.model_copy(update={"tie_embeddings": False})
    model.untied = True


def _check_fits(name: str, layer: nn.Module | None, factors: Factors) -> None:
    if layer is None:
        raise ConfigError(f"adapter: the model has no layer '{name}'; the adapter was made for another model")
    if isinstance(layer, Router):
        expected: tuple[int, ...] = tuple(layer.weight.shape)
    else:
        assert isinstance(layer, Linear | ExpertLinear)
        expected = (layer.out_features, layer.in_features)
    if isinstance(layer, ExpertLinear):
        chosen = factors.chosen if factors.chosen is not None else range(layer.num_experts)
        expected = (len(chosen), *expected)
    found = (*factors.b.shape[:-1], factors.a.shape[-1])
    if found != expected or factors.b.shape[-1] != factors.rank:
        raise ConfigError(
            f"adapter: the factors of '{name}' are for a weight {found}, the model has {expected}"
        )


def merge_adapter(model: Transformer) -> None:
    """Fold every factor into its weight and restore the plain layers; all parameters are frozen afterwards.

    Quantised weights with factors are widened to float32, those without stay as they are.
    """
    for name, layer in list(adapted_layers(model)):
        model.set_submodule(name, layer.merged())
    model.requires_grad_(False)
    model.adapter, model.untied = None, False


@torch.no_grad()
def drop_adapter(model: Transformer, full: Mapping[str, Tensor] | None = None) -> None:
    """Restore the plain layers without their factors.

    `full`: the base's values of weights that the adapter had replaced.
    """
    for name, layer in list(adapted_layers(model)):
        model.set_submodule(name, layer.plain())
    if model.untied:
        model.head, model.untied = None, False
        model.config = model.config.model_copy(update={"tie_embeddings": True})
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, tensor in (full or {}).items():
        own[name].copy_(tensor)
    model.requires_grad_(False)
    model.adapter = None
