"""The groups by which users select what to train. Every parameter belongs to exactly one."""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn

from coterie.nn.attention import Attention
from coterie.nn.mla import LatentAttention
from coterie.nn.moe import FeedForward, MoE
from coterie.nn.mtp import MTPLayer
from coterie.nn.norm import RMSNorm
from coterie.nn.per_layer import PerLayerGate, PerLayerInputs
from coterie.nn.recurrent import RecurrentMixer
from coterie.nn.router import Router

Group = Literal[
    "attention", "experts", "shared", "dense", "router", "norm", "embedding", "head", "mtp", "extra"
]
GROUPS: tuple[Group, ...] = get_args(Group)


def parameter_groups(model: nn.Module) -> dict[str, Group]:
    """Group of every parameter by its name, from the modules that hold it.

    `attention`: projections, sinks and the norms inside (query, key and latent ones); all of a mixer with a
    state. `experts`: routed experts. `shared`: the always-on expert and its gate. `dense`: the feed-forward
    of layers without experts, and what is made of per-layer inputs (their table is an `embedding`).
    `norm`: the norms of blocks, around their parts and in a mixture. `head`: the output matrix where it is
    not tied to `embedding`. `mtp`: layers for multi-token prediction, whole. `extra`: everything else.
    """
    modules = module_groups(model)
    return {
        f"{prefix}.{name}" if prefix else name: modules[prefix]
        for prefix, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False)
    }


def module_groups(model: nn.Module) -> dict[str, Group]:
    """Group of the parameters that each module holds directly, by the module's name."""
    found: dict[str, Group] = {}
    _walk(model, "", "extra", found)
    return found


def _walk(module: nn.Module, name: str, group: Group, found: dict[str, Group]) -> None:
    found[name] = group
    for part, child in module.named_children():
        _walk(child, f"{name}.{part}" if name else part, _group_of(module, part, child, group), found)


def _group_of(parent: nn.Module, name: str, child: nn.Module, group: Group) -> Group:
    """Group of the parameters in `child`. A group once entered is kept, except inside an `MoE`."""
    if isinstance(parent, MTPLayer) or group == "mtp":
        return "mtp"
    if isinstance(child, Attention | LatentAttention | RecurrentMixer):
        return "attention"
    if isinstance(child, Router):
        return "router"
    if isinstance(parent, MoE):
        return "experts" if name == "experts" else "norm" if isinstance(child, RMSNorm) else "shared"
    if isinstance(child, FeedForward | PerLayerGate) or (
        isinstance(parent, PerLayerInputs) and name == "projection"
    ):
        return "dense"
    if group != "extra":
        return group
    if isinstance(child, RMSNorm):
        return "norm"
    if isinstance(child, nn.Embedding):
        return "embedding"
    return "head" if name == "head" else group
