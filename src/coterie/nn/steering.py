"""Which experts single tokens may use, through `ForwardContext.steers`.

T tokens, E experts, K chosen experts per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from coterie.config.errors import ConfigError
from coterie.nn.router import Router, Steer


@dataclass(frozen=True)
class LayerControl:
    """One layer's part of a `RouterControl`.

    `masked`: experts that are never chosen. `bias`: (expert, number added to its logit).
    """

    masked: tuple[int, ...] = ()
    bias: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class RouterControl:
    """How one request changes the choice of experts.

    `layers`: (layer index, its control). `top_k`: experts per token (None: as trained). Controls are compared
    by value, so that a prefix cache can be kept apart by them.
    """

    layers: tuple[tuple[int, LayerControl], ...] = ()
    top_k: int | None = None

    def __bool__(self) -> bool:
        return bool(self.layers) or self.top_k is not None


def make_steers(
    routers: Sequence[tuple[int, Router]], controls: Sequence[tuple[RouterControl, int]], device: torch.device
) -> dict[int, Steer]:
    """How each token deviates, by layer. `controls`: (control, number of its tokens), in token order."""
    if not any(control for control, _ in controls):
        return {}
    counts_S = torch.tensor([count for _, count in controls], device=device)
    steers = {}
    for layer, router in routers:
        num_experts, trained = router.config.num_experts, router.config.top_k
        add_SE = torch.zeros(len(controls), num_experts)
        for row, (control, _) in enumerate(controls):
            own = dict(control.layers).get(layer, LayerControl())
            for expert, value in own.bias:
                add_SE[row, expert] += value
            add_SE[row, list(own.masked)] = float("-inf")
        top_S = torch.tensor([control.top_k or trained for control, _ in controls], device=device)
        most = max(control.top_k or trained for control, _ in controls)
        changed = bool(add_SE.any())
        if changed or most != trained or bool((top_S != trained).any()):
            add_TE = add_SE.to(device).repeat_interleave(counts_S, 0) if changed else None
            steers[layer] = Steer(add_TE, top_S.repeat_interleave(counts_S), most)
    return steers


def check_control(control: RouterControl, routers: Sequence[tuple[int, Router]]) -> None:
    """Check a control against the model.

    Errors: `ConfigError`, one line, for a layer without experts, an expert that does not exist, or fewer
    experts left than each token needs.
    """
    by_layer = dict(routers)
    if control and not by_layer:
        raise ConfigError("moe: the model is dense; it has no experts to choose among")
    own = dict(control.layers)
    for layer, part in control.layers:
        if layer not in by_layer:
            raise ConfigError(f"moe: layer {layer} has no experts; those that have: {_few(sorted(by_layer))}")
        experts = by_layer[layer].config.num_experts
        for expert in (*part.masked, *(number for number, _ in part.bias)):
            if not 0 <= expert < experts:
                raise ConfigError(f"moe: layer {layer} has experts 0 to {experts - 1}, not {expert}")
    for layer, router in routers:
        left = router.config.num_experts - len(set(own.get(layer, LayerControl()).masked))
        wanted = control.top_k or router.config.top_k
        if wanted > left:
            raise ConfigError(f"moe: layer {layer} has {left} experts left and each token needs {wanted}")


def _few(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:12])) + (" ..." if len(numbers) > 12 else "")
