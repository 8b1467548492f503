"""Feed-forwards as operations: dense ones, mixtures of experts, and inputs for each layer.

Legend: T tokens, D width, F inner width, E experts, K chosen per token, R = T K routed rows, N layers, P
width of a layer's own input.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from coterie.native import routing, rows
from coterie.native.layers import Sorted, copy, experts, linear, norm
from coterie.native.program import CannotPlan, Rows, StepProgram, check_known
from coterie.native.stored_experts import fetch
from coterie.nn.dispatch import LocalDispatcher
from coterie.nn.experts import ClampedExperts, Experts, RoutedExperts
from coterie.nn.lora import LoRARouter
from coterie.nn.moe import FeedForward, MoE
from coterie.nn.per_layer import PerLayerGate, PerLayerInputs
from coterie.nn.router import Router, Routing

_ACTIVATIONS = {"silu": rows.SILU, "gelu_tanh": rows.GELU, "relu2": rows.RELU2}
_KNOWN_MOE = {
    "kind", "expert_width", "router", "shared_width", "activation", "shared_gate", "clamped", "balance",
    "gated", "latent_width", "expert_norms",
}  # fmt: skip
_KNOWN_ROUTER = {
    "num_experts", "top_k", "score", "score_after_topk", "renormalize", "renormalize_eps", "renormalize_min",
    "scale", "bias", "select_bias", "num_groups", "top_groups", "group_score", "group_fill", "apply_to",
    "input_norm_eps", "expert_scale",
}  # fmt: skip


@dataclass(frozen=True)
class Choices:
    """The buffers of one layer's routing: (M, K) int64, (M, K) and (M, E) float32, M tokens at most."""

    ids: Tensor
    weights: Tensor
    scores: Tensor

    def of(self, num_tokens: int) -> Routing:
        """The choice of a step's tokens, copied."""
        return Routing(*(each[:num_tokens].clone() for each in (self.ids, self.weights, self.scores)))


def _activation(name: str) -> int:
    if name not in _ACTIVATIONS:
        raise CannotPlan(f"activation {name}")
    return _ACTIVATIONS[name]


def _activated(
    program: StepProgram,
    first: Rows,
    up: Rows | None,
    y: Rows,
    kind: int,
    limits: tuple[float, float] = (0.0, 0.0),
    count: int = 0,
) -> None:
    program.add(
        rows.activate, first.address, 0 if up is None else up.address, first.stride, y.width, y.address,
        y.stride, kind, *limits, count, serial=False,
    )  # fmt: skip


def dense(
    program: StepProgram,
    layer: FeedForward,
    x: Rows,
    y: Rows,
    factor: float,
    add: bool,
    gate: Rows | None = None,
) -> None:
    """`y (+)= factor * layer(x)`, or with `gate` (T, 1) its sigmoid times that."""
    if type(layer) is not FeedForward:
        raise CannotPlan(f"a feed-forward of kind {type(layer).__name__}")
    width = layer.up.out_features
    both, hidden = program.rows(2 * width), program.rows(width)
    up, kind = both.part(width, width), _activation(layer.activation)
    if layer.gate is None:
        linear(program, layer.up, x, up)
        _activated(program, up, None, hidden, kind)
    else:
        linear(program, layer.gate, x, both.part(0, width), barrier=False)
        linear(program, layer.up, x, up)
        _activated(program, both.part(0, width), up, hidden, kind)
    if gate is not None:
        if layer.down.bias is not None:
            raise CannotPlan("a gated feed-forward with a bias")
        program.add(
            rows.gate_rows, hidden.address, hidden.stride, hidden.width, gate.address, gate.stride, width
        )
    linear(program, layer.down, hidden, y, factor, add)


def mixture(program: StepProgram, layer: MoE, x: Rows, h: Rows, y: Rows, factor: float, add: bool) -> Choices:
    """`y (+)= factor * layer(x)`; `h`: the stream that x is the norm of."""
    config = layer.config
    check_known(config, "experts", _KNOWN_MOE)
    if type(layer) is not MoE or type(layer.experts) not in (Experts, ClampedExperts):
        raise CannotPlan(f"experts of kind {type(layer.experts).__name__}")
    if type(layer.experts.dispatcher) is not LocalDispatcher:
        raise CannotPlan("experts in several processes")
    read = x
    if layer.expert_norm is not None:
        read = program.rows(h.width)
        norm(program, layer.expert_norm, h, read)
    choices = _routed(program, layer.router, x if layer.expert_norm is None else h)
    if layer.latent_in is not None:
        full, read = read, program.rows(layer.latent_in.out_features)
        linear(program, layer.latent_in, full, read)
    plain = layer.latent_out is None and layer.expert_post_norm is None
    given = y if plain else program.rows(read.width)
    _combined(program, layer, choices, read, given, *((factor, add) if plain else (1.0, False)))
    if not plain:
        if layer.latent_out is not None:
            narrow, given = given, program.rows(y.width)
            linear(program, layer.latent_out, narrow, given)
        if layer.expert_post_norm is not None:
            norm(program, layer.expert_post_norm, given, given)
        copy(program, given, y, factor, add)
    if layer.shared is not None:
        _shared(program, layer, x, y, factor)
    return choices


def _shared(program: StepProgram, layer: MoE, x: Rows, y: Rows, factor: float) -> None:
    """Add what the always-on expert gives."""
    assert layer.shared is not None
    gate = None
    if layer.shared_gate is not None:
        gate = program.rows(1)
        linear(program, layer.shared_gate, x, gate)
    if layer.shared_post_norm is None:
        dense(program, layer.shared, x, y, factor, True, gate)
        return
    given = program.rows(y.width)
    dense(program, layer.shared, x, given, 1.0, False, gate)
    norm(program, layer.shared_post_norm, given, given)
    copy(program, given, y, factor, True)


def _combined(
    program: StepProgram, layer: MoE, choices: Choices, x: Rows, y: Rows, factor: float, add: bool
) -> None:
    """`y (+)= factor * sum_k w_k expert_k(x)`."""
    config = layer.config
    top_k = config.router.top_k
    places = program.whole(program.most, top_k)
    order = _sorted(program, choices, config.router.num_experts, top_k, places)
    fetch(program, layer.experts, order, top_k)
    on_input = config.router.apply_to == "input"
    weights = choices.weights.data_ptr()
    sorted_rows = program.rows(x.width, order.most)
    program.add(
        routing.gather, x.address, x.stride, x.width, top_k, places, sorted_rows.address, sorted_rows.stride,
        weights if on_input else 0,
    )  # fmt: skip
    given = _experts(program, layer.experts, sorted_rows, order, config.expert_width)
    program.add(
        routing.combine, given.address, given.stride, given.width, top_k, places, 0 if on_input else weights,
        y.address, y.stride, float(factor), int(add), serial=False,
    )  # fmt: skip


def _experts(program: StepProgram, layer: RoutedExperts, x: Rows, order: Sorted, width: int) -> Rows:
    first = program.rows(layer.first.out_features, order.most)
    hidden = program.rows(width, order.most)
    experts(program, layer.first, x, first, order)
    if isinstance(layer, ClampedExperts):
        limits = float(layer.config.alpha), float(layer.config.limit)
        _activated(program, first, None, hidden, rows.CLAMPED, limits, order.count)
    else:
        assert isinstance(layer, Experts)
        up = first.part(width, width) if layer.first_name == "gate_up" else None
        _activated(program, first, up, hidden, _activation(layer.activation), count=order.count)
    given = program.rows(x.width, order.most)
    experts(program, layer.down, hidden, given, order)
    return given


def _sorted(program: StepProgram, choices: Choices, num_experts: int, top_k: int, places: int) -> Sorted:
    order = Sorted(
        starts=program.whole(num_experts + 1),
        active=program.whole(num_experts),
        num_active=program.whole(1),
        count=program.whole(1),
        most=program.most * top_k,
    )
    program.add(
        routing.sort, choices.ids.data_ptr(), num_experts, top_k, order.starts, order.active,
        order.num_active, places, order.count,
    )  # fmt: skip
    return order


def _routed(program: StepProgram, router: Router, x: Rows) -> Choices:
    config = router.config
    check_known(config, "router", _KNOWN_ROUTER)
    if type(router) not in (Router, LoRARouter):
        raise CannotPlan(f"a router of kind {type(router).__name__}")
    most, num_experts, top_k = program.most, config.num_experts, config.top_k
    logits, factor = program.rows(num_experts), 1.0
    if config.input_norm_eps is not None:
        if router.bias is not None or router.input_scale is None:
            raise CannotPlan("a router with a normed input and a bias")
        read, (scale, kind) = program.rows(x.width), program.vector(router.input_scale)
        program.add(
            rows.norm, x.address, x.stride, 1, x.width, scale, kind, 0.0, float(config.input_norm_eps),
            read.address, read.stride,
        )  # fmt: skip
        x, factor = read, x.width**-0.5
    linear(program, router, x, logits, factor)
    each = (0, 0) if router.expert_scale is None else program.vector(router.expert_scale)
    choices = Choices(
        torch.zeros(most, top_k, dtype=torch.int64), torch.zeros(most, top_k), torch.zeros(most, num_experts)
    )
    for tensor in (choices.ids, choices.weights, choices.scores):
        program.own(tensor)
    bias = (0, 0) if router.select_bias is None else program.vector(router.select_bias)
    program.add(
        routing.route, logits.address, choices.scores.data_ptr(), program.floats(most, num_experts),
        num_experts, top_k, int(config.score == "softmax"), int(config.score_after_topk), *bias,
        config.num_groups, config.top_groups, int(config.group_score == "top2sum"),
        0.0 if config.group_fill == "zero" else float("-inf"), int(config.renormalize),
        float(config.renormalize_eps), float(config.renormalize_min), float(config.scale),
        choices.ids.data_ptr(), choices.weights.data_ptr(), program.floats(most, config.num_groups),
        *each,
    )  # fmt: skip
    return choices


def layer_inputs(program: StepProgram, layer: PerLayerInputs, h: Rows, dtype: torch.dtype) -> Rows:
    """(T, N P): what each token brings to every layer, from its id and its embedding `h`.

    `dtype`: of the module's activations, to which a factor is rounded.
    """
    width = layer.num_layers * layer.per_layer_width
    known, seen = program.rows(width), program.rows(width)
    scale = float(torch.tensor(layer.per_layer_width**0.5, dtype=dtype))
    program.add(rows.embed, *program.vector(layer.embed.weight), width, known.address, known.stride, scale)
    linear(program, layer.projection, h, seen, layer.width**-0.5)
    norm(program, layer.norm, seen, seen, layer.num_layers)
    copy(program, seen, seen, 2.0**-0.5)
    copy(program, known, seen, 2.0**-0.5, True)
    return seen


def add_layer_input(program: StepProgram, layer: PerLayerGate, given: Rows, h: Rows) -> None:
    """`h += norm(projection(activation(gate h) * given))`."""
    # The kernel wants the gate and what it multiplies in rows of the same distance.
    gate = Rows(program.floats(program.most, given.stride // 4), given.stride, given.width)
    hidden, y = program.rows(given.width), program.rows(h.width)
    linear(program, layer.gate, h, gate)
    _activated(program, gate, given, hidden, _activation(layer.activation))
    linear(program, layer.projection, hidden, y)
    norm(program, layer.norm, y, y)
    copy(program, y, h, 1.0, True)
