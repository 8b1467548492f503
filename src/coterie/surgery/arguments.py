"""What an operation's arguments and the model's config already say: checked before any weight is read.

The operations ask the same functions, so that a model in memory is refused for the same reasons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from coterie.config import ConfigError, FeedForwardConfig, ModelConfig
from coterie.config.feed_forward import MoEConfig, RouterConfig
from coterie.families import FAMILIES, dense_forms, family, routed_form, unwrapped
from coterie.surgery.configs import routed


def check_arguments(kind: str, config: ModelConfig, settings: Mapping[str, Any]) -> None:
    """Refuse what the operation `kind` would refuse of a model of this config.

    `settings`: the operation's own; for `swap-expert`, `other` is the other model's config.
    Errors: `ConfigError`, one line.
    """
    own = {name: value for name, value in settings.items() if name not in ("seed", "amount", "with_router")}
    CHECKS[kind](config, **own)


def routers_of(config: ModelConfig, what: str) -> dict[int, RouterConfig]:
    """The router of each layer with experts. Errors: `ConfigError` for a dense model."""
    found = {layer: moe.router for layer, moe in config.moe_layers()}
    if not found:
        raise ConfigError(f"{what}: this {config.family} model is dense; give a mixture of experts")
    return found


def kept_experts(router: RouterConfig, keep: float) -> int:
    """How many experts the share `keep` leaves, the same number in each group.

    Errors: `ConfigError` for a share that leaves too few.
    """
    if not 0 < keep <= 1:
        raise ConfigError(f"--keep {keep:g}: give a share of the experts above 0 and up to 1")
    count = math.ceil(keep * router.num_experts / router.num_groups) * router.num_groups
    if router.top_groups * (count // router.num_groups) < router.top_k:
        raise ConfigError(
            f"--keep {keep:g} leaves {count} experts, too few for the {router.top_k} that a token chooses; "
            "keep more"
        )
    return count


def check_prune(config: ModelConfig, keep: float, method: str = "reap") -> None:
    """Errors: `ConfigError`."""
    for router in routers_of(config, "prune").values():
        kept_experts(router, keep)
    if method not in ("reap", "freq", "random"):
        raise ConfigError(f"prune: unknown method '{method}'; choose reap, freq or random")


def check_merge(config: ModelConfig, keep: float) -> None:
    """Errors: `ConfigError`."""
    for layer, router in routers_of(config, "merge-experts").items():
        if router.num_groups > 1:
            raise ConfigError(
                f"merge-experts: layer {layer} chooses among groups of experts; prune it instead"
            )
        kept_experts(router, keep)


def check_add(config: ModelConfig, count: int = 1, source: int = 0) -> None:
    """Errors: `ConfigError`."""
    for layer, router in routers_of(config, "add-expert").items():
        if router.num_groups > 1:
            raise ConfigError(
                f"add-expert: layer {layer} chooses among groups of equal size; it takes no further one"
            )
        if not 0 <= source < router.num_experts:
            raise ConfigError(
                f"add-expert: layer {layer} has no expert {source} to copy; choose another --source"
            )
    if count < 1:
        raise ConfigError(f"add-expert: {count} experts; add one at least")


def check_densify(config: ModelConfig, width: int | None = None) -> None:
    """Errors: `ConfigError`."""
    routers_of(config, "densify")
    for layer, block in enumerate(config.blocks):
        ffn = block.ffn
        if isinstance(ffn, MoEConfig):
            if ffn.clamped is not None:
                raise ConfigError(
                    f"densify: the experts of layer {layer} are clamped and biased, which no dense form has"
                )
            if ffn.expert_norms:
                raise ConfigError(
                    f"densify: the experts of layer {layer} have norms around them, which no dense form has; "
                    "prune or merge experts instead"
                )
            if ffn.latent_width is not None:
                raise ConfigError(
                    f"densify: the experts of layer {layer} work in a space of {ffn.latent_width} numbers, "
                    "which no dense form has; prune or merge experts instead"
                )
            most = ffn.router.num_experts * ffn.expert_width + (ffn.shared_width or 0)
            if width is not None and not 1 <= width <= most:
                raise ConfigError(
                    f"densify: width {width}: layer {layer} has {most} inner units to choose from"
                )
        elif width is not None and ffn is not None and ffn.width > width:
            raise ConfigError(
                f"densify: width {width} is less than the {ffn.width} of dense layer {layer}; give more"
            )


def check_swap(
    config: ModelConfig,
    other: ModelConfig,
    layer: int,
    expert: int,
    other_layer: int | None = None,
    other_expert: int | None = None,
) -> None:
    """Errors: `ConfigError`."""
    place = (layer if other_layer is None else other_layer, expert if other_expert is None else other_expert)
    for model, (at, number) in ((config, (layer, expert)), (other, place)):
        moe = dict(model.moe_layers()).get(at)
        if moe is None or not 0 <= number < moe.router.num_experts:
            raise ConfigError(
                f"swap-expert: there is no expert {number} in layer {at} of this {model.family} model"
            )


def check_upcycle(
    config: ModelConfig, num_experts: int = 8, top_k: int = 2, split: int = 1, variation: str = "copy"
) -> ModelConfig:
    """The config of the result. Errors: `ConfigError`."""
    if config.is_moe:
        raise ConfigError("upcycle: the model is a mixture of experts already; give a dense one")
    target = routed_form(config.family)
    if target is None:
        raise ConfigError(f"upcycle: {_unrouted(config)}")
    if split < 1 or num_experts % split or top_k % split or top_k > num_experts:
        raise ConfigError(
            f"upcycle: {num_experts} experts and {top_k} chosen must be multiples of split {split}, "
            "and at least as many experts as chosen"
        )
    if variation not in ("copy", "noise", "drop"):
        raise ConfigError(f"upcycle: unknown variation '{variation}'; choose copy, noise or drop")
    for layer, block in enumerate(config.blocks):
        ffn = block.ffn
        if ffn is None:
            continue
        assert isinstance(ffn, FeedForwardConfig)
        if ffn.width % split or ffn.bias:
            reason = "has biases" if ffn.bias else f"of width {ffn.width} cannot be cut into {split} parts"
            raise ConfigError(
                f"upcycle: the feed-forward of layer {layer} {reason}; choose another split or model"
            )
    return routed(config, target, num_experts, top_k, split)


def _unrouted(config: ModelConfig) -> str:
    """Why there is no mixture of this family, and what to do."""
    text = unwrapped(config).family
    if routed_form(text) is not None:
        return (
            f"a {config.family} model has more around its text model; take that out first "
            f"(coterie convert --to {text} --drop vision)"
        )
    known = ", ".join(dict.fromkeys(name for target in FAMILIES for name in dense_forms(target)))
    return f"no routed form of {config.family}: {family(text).unrouted}; choose one of {known}"


CHECKS: dict[str, Callable[..., object]] = {
    "upcycle": check_upcycle,
    "prune": check_prune,
    "merge-experts": check_merge,
    "densify": check_densify,
    "add-expert": check_add,
    "swap-expert": check_swap,
}
