"""What all operations share: an operation as one config and one layer after the other.

An operation never holds its result: it gives the result's config at once and each layer's feed-forward when
that is asked for, so that a writer needs one layer in memory in addition to the model. All other tensors are
the model's own. `LayerwiseResult.in_memory` makes a whole model, for healing and for Python.

T tokens, D width, E experts, F expert width.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from coterie.config import ConfigError, FeedForwardConfig, ModelConfig, MoEConfig
from coterie.data.progress import Ticker
from coterie.families import family, float32_parameters
from coterie.nn.materialise import materialise
from coterie.nn.moe import FeedForward, MoE, feed_forward
from coterie.nn.norm import NormKind
from coterie.nn.packed import layers_packed
from coterie.nn.router import Routing
from coterie.nn.transformer import Transformer
from coterie.surgery.arguments import routers_of
from coterie.surgery.configs import changed

Layer = FeedForward | MoE
Sequences = Sequence[Sequence[int]]
_FFN = re.compile(r"blocks\.(\d+)\.ffn\.(.+)")


@dataclass(eq=False)
class LayerwiseResult:
    """What an operation makes of `model`: a config, and feed-forwards that are made when they are asked for.

    `layers`: one per block, in order (None: the block has no feed-forward); a layer that stays is the model's
    own module. `details`: facts of the operation for its receipt, complete when all layers were made.
    """

    model: Transformer
    config: ModelConfig
    layers: Iterator[Layer | None]
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def carried(self) -> dict[str, Tensor]:
        """The carried tensors that the result keeps: without layers for multi-token prediction."""
        carried = self.model.carried
        if self.config is self.model.config:
            return dict(carried)
        dropped = family(self.model.config.family).predicts(self.model.config)
        return {name: tensor for name, tensor in carried.items() if not name.startswith(dropped or ("\0",))}

    @property
    def lost(self) -> list[str]:
        """Parts of the model that the result lacks, in words."""
        fewer = self.model.config.num_mtp_layers - self.config.num_mtp_layers
        missing = fewer or len(self.model.carried) - len(self.carried)
        return ["the layers for multi-token prediction"] if missing else []

    def tensors(self) -> Callable[[str], Tensor]:
        """The result's parameters and buffers by name, with the layers' own in ascending order of layers."""
        own = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        at, made = -1, dict[str, Tensor]()

        def tensor(name: str) -> Tensor:
            nonlocal at, made
            found = _FFN.fullmatch(name)
            if found is None:
                return own[name]
            layer = int(found[1])
            assert layer >= at, f"surgery: '{name}' is asked for after layer {at} was made"
            while at < layer:
                made = {}  # before the next one is made
                ffn, at = next(self.layers), at + 1
                made = {} if ffn is None else dict(ffn.named_parameters()) | dict(ffn.named_buffers())
            return made[found[2]]

        return tensor

    @torch.no_grad()
    def in_memory(self, dtype: torch.dtype | None = None) -> Transformer:
        """The result as a model that shares no memory with the original.

        `dtype`: of its weights; None: that of the original's.
        """
        parameter = next(self.model.parameters())
        with torch.device("meta"):
            new = Transformer(self.config, self.model.compute_dtype)
            for block in new.blocks:
                if block.ffn is not None:
                    block.ffn = torch.nn.Identity()
        wide = dict.fromkeys(float32_parameters(self.config), torch.float32)
        materialise(new, dtype or parameter.dtype, parameter.device, wide)
        tensors = self.tensors()
        for name, tensor in [*new.named_parameters(), *new.named_buffers()]:
            tensor.copy_(tensors(name))
        for block, before, ffn in zip(new.blocks, self.model.blocks, self.layers, strict=True):
            if ffn is not None:
                ffn = copy.deepcopy(ffn) if ffn is before.ffn else ffn
                block.ffn = ffn if dtype is None else ffn.to(dtype)
        new.carried = self.carried
        return new.eval()


def ffn_of(model: Transformer, layer: int) -> Layer | None:
    """The feed-forward of a layer; None where it has none."""
    ffn = model.blocks[layer].ffn
    assert ffn is None or isinstance(ffn, FeedForward | MoE)
    return ffn


def require_plain(model: Transformer) -> None:
    """Errors: `ConfigError` for a model with an adapter."""
    if model.adapter is not None:
        raise ConfigError("surgery: the model has an adapter; merge it first")


@torch.no_grad()
def blank(model: Transformer, config: ModelConfig, layer: int) -> Layer:
    """The feed-forward of a layer as `config` wants it; tensors of equal name and shape are the model's.

    All others are NaN until they are written; `finished` checks that none is left. The layer has one.
    """
    ffn, old = config.blocks[layer].ffn, ffn_of(model, layer)
    assert ffn is not None and old is not None
    with torch.device("meta"):
        new = feed_forward(config.width, ffn, NormKind.of_model(config))
    like = model.embed.weight
    place = f"blocks.{layer}.ffn."
    wide = [name.removeprefix(place) for name in float32_parameters(config) if name.startswith(place)]
    materialise(new, like.dtype, like.device, dict.fromkeys(wide, torch.float32))
    before = dict(old.named_parameters()) | dict(old.named_buffers())
    for name, tensor in [*new.named_parameters(), *new.named_buffers()]:
        if ".balance." in name or name.startswith("balance."):
            continue
        if name in before and before[name].shape == tensor.shape:
            tensor.copy_(before[name])
        elif isinstance(tensor, torch.nn.Parameter):
            tensor.fill_(float("nan"))
    return new.eval()


def finished(layer: Layer) -> Layer:
    """The layer itself, after a check that every weight was written.

    Errors: `AssertionError` naming a weight that an operation forgot, which is a bug of the operation.
    """
    for name, parameter in layer.named_parameters():
        assert not bool(parameter.isnan().any()), f"surgery left '{name}' unwritten"
    return layer


def moe_layers(model: Transformer, what: str) -> list[tuple[int, MoE]]:
    """(layer, module) of every mixture of experts; `what`: the operation, for the message.

    Errors: `ConfigError` for a dense model.
    """
    routers_of(model.config, what)
    return [(index, block.ffn) for index, block in enumerate(model.blocks) if isinstance(block.ffn, MoE)]


@torch.no_grad()
def combine_experts(old: MoE, new: MoE, mixture_NE: Tensor) -> None:
    """Write each of `new`'s N experts, with its row in the router, as `mixture`'s weighted sum of `old`'s E.

    A row of 0s with a single 1 copies one expert bit for bit.
    """
    pairs: list[tuple[Tensor | None, Tensor | None]] = [
        (old.router.weight, new.router.weight),
        (old.router.bias, new.router.bias),
    ]
    pairs.append((old.router.select_bias, new.router.select_bias))
    pairs.append((old.router.expert_scale, new.router.expert_scale))
    for name in (old.experts.first_name, "down"):
        before, after = getattr(old.experts, name), getattr(new.experts, name)
        pairs += [(before.weight, after.weight), (before.bias, after.bias)]
    for before, after in pairs:
        if before is None or after is None:
            continue
        for row, weights_E in enumerate(mixture_NE):
            chosen = weights_E.nonzero().flatten().tolist()
            if len(chosen) == 1 and float(weights_E[chosen[0]]) == 1.0:
                after[row] = before[chosen[0]]
            else:
                after[row] = sum(float(weights_E[e]) * before[e].float() for e in chosen)


class LayerSeen(NamedTuple):
    """What a mixture's experts read, what was chosen, what it gave, and what its router read, in one pass."""

    x_TD: Tensor
    routing: Routing
    y_TD: Tensor
    router_TD: Tensor


MixtureOf = Callable[[int, MoE, list[LayerSeen]], Tensor]


def mixed(
    model: Transformer,
    count_of: Callable[[MoEConfig], int],
    mixture_of: MixtureOf,
    sequences: Sequences | None,
) -> LayerwiseResult:
    """Other experts in every layer: `mixture_of(layer, module, seen)` is the (N, E) of `combine_experts`.

    `count_of`: N, known before. `sequences`: what the layers are shown first; None: nothing.
    Errors: `ConfigError` when the model's family cannot have these numbers of experts.
    """
    require_plain(model)

    def other_number(_: int, ffn: FeedForwardConfig | MoEConfig) -> FeedForwardConfig | MoEConfig:
        if not isinstance(ffn, MoEConfig):
            return ffn
        router = ffn.router.model_copy(update={"num_experts": count_of(ffn)})
        return ffn.model_copy(update={"router": router})

    config = changed(model.config, other_number)

    @torch.no_grad()
    def made(layer: int, old: Layer | None, seen: list[LayerSeen]) -> Layer | None:
        if not isinstance(old, MoE):
            return old
        new = blank(model, config, layer)
        assert isinstance(new, MoE)
        combine_experts(old, new, mixture_of(layer, old, seen))
        return finished(new)

    return LayerwiseResult(model, config, itertools.starmap(made, watch(model, sequences)))


@torch.no_grad()
def watch(
    model: Transformer, sequences: Sequences | None
) -> Iterator[tuple[int, Layer | None, list[LayerSeen]]]:
    """Every layer with its feed-forward; for a mixture, what it read, chose and gave for the sequences.

    The sequences go through one layer after the other. None: no text is read.
    Errors: `ConfigError` without any sequence.
    """
    if sequences is None:
        yield from ((layer, ffn_of(model, layer), []) for layer in range(model.config.num_layers))
        return
    if not any(len(sequence) for sequence in sequences):
        raise ConfigError("surgery: no text to look at; give --data")
    limit = model.config.max_positions
    pieces = [s[at : at + limit] for s in sequences for at in range(0, len(s), limit)]
    ticker = Ticker("surgery: layers")
    for layer, passes in enumerate(layers_packed(model, pieces)):
        ffn, seen = ffn_of(model, layer), list[LayerSeen]()
        if isinstance(ffn, MoE):
            seen = [
                LayerSeen(part.inputs[layer], part.routing[layer], part.outputs[layer], part.seen[layer])
                for part in passes
            ]
        yield layer, ffn, seen
        del seen  # before the next layer runs
        ticker(layer + 1, len(model.blocks))


def expert_output(module: MoE, expert: int, x_TD: Tensor, weights_T: Tensor | None = None) -> Tensor:
    """`(T, D)`: one expert's output for these rows, their input weighted where the router weights inputs."""
    if module.latent_in is not None:
        x_TD = module.latent_in(x_TD)
    if module.config.router.apply_to == "input" and weights_T is not None:
        x_TD = x_TD * weights_T[:, None].to(x_TD.dtype)
    counts = [0] * module.config.router.num_experts
    counts[expert] = len(x_TD)
    y_TD = module.experts(x_TD, tuple(counts))
    return y_TD if module.latent_out is None else module.latent_out(y_TD)


def rows_of_expert(routing: Routing, expert: int) -> tuple[Tensor, Tensor]:
    """(token numbers that chose the expert, the weights they gave it)."""
    rows, slots = (routing.ids_TK == expert).nonzero(as_tuple=True)
    return rows, routing.weights_TK[rows, slots]
