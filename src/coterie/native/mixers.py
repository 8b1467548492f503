"""Attention as operations: grouped-query and latent.

Legend: T tokens, H query heads, G key/value heads, D head width, C latent and R rotated width.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from coterie.config.positions import RopeConfig, TemperatureConfig
from coterie.native import attention, rows
from coterie.native.layers import linear, norm
from coterie.native.program import PLAIN, CannotPlan, Rows, StepProgram, check_known
from coterie.nn.attention import Attention
from coterie.nn.mla import LatentAttention
from coterie.nn.quantised_layers import quantised_of
from coterie.nn.rope import inverse_frequencies, rotation_gain

_MASKS = {"causal": 0, "sliding": 1, "chunked": 2}
_KNOWN = {
    "kind", "num_heads", "num_kv_heads", "head_dim", "rope", "mask", "window", "qk_norm", "value_norm",
    "scale", "query_factor", "score_cap", "gate", "qkv_clip", "qkv_bias", "output_bias", "temperature",
    "sinks", "keys_as_values", "keys_of",
}  # fmt: skip
_KNOWN_LATENT = {
    "kind", "num_heads", "q_rank", "kv_rank", "nope_dim", "rope_dim", "value_dim", "rope", "latent_eps",
    "temperature",
}  # fmt: skip


@dataclass
class Shared:
    """What the layers of a model share: tables of angles, and which layer's keys are in which place.

    `kept`: (layer, shapes of a row of keys and of values) in the order of the context's table. `states`:
    (layer, shapes of the parts of its state), in the order of theirs.
    """

    cache_dtype: torch.dtype
    angles: dict[tuple[RopeConfig, int], tuple[int, int]] = field(default_factory=dict)
    kept: list[tuple[int, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    states: list[tuple[int, tuple[tuple[int, ...], ...]]] = field(default_factory=list)

    @property
    def kind(self) -> int:
        """Of the caches' numbers. Errors: `CannotPlan`."""
        if self.cache_dtype not in PLAIN:
            raise CannotPlan(f"keys in {self.cache_dtype}")
        return PLAIN[self.cache_dtype]

    def keep(self, layer: int, keys: tuple[int, ...], values: tuple[int, ...]) -> int:
        """The place of a layer that keeps keys and values of these shapes."""
        self.kept.append((layer, keys, values))
        return len(self.kept) - 1

    def keep_state(self, layer: int, *parts: tuple[int, ...]) -> int:
        """The place of a layer that keeps a state of these shapes: the tail, and perhaps the matrices."""
        self.states.append((layer, parts))
        return len(self.states) - 1

    def place(self, layer: int) -> int:
        """The place of an earlier layer."""
        return next(place for place, (index, *_) in enumerate(self.kept) if index == layer)


def turned(
    program: StepProgram, shared: Shared, rope: RopeConfig, x: Rows, heads: int, step: int, width: int
) -> None:
    """Rotate the first numbers of each head, `step` numbers from head to head, `width` of a head."""
    if (rope, width) not in shared.angles:
        short, long = (inverse_frequencies(rope, width, each).contiguous() for each in (False, True))
        far = rope.scaling is not None and rope.scaling.kind == "longrope"
        pairs, gain = short.numel(), rotation_gain(rope.scaling)
        out = program.floats(program.most, 2, pairs)
        program.add(rows.angles, program.own(short), program.own(long) if far else 0, pairs, float(gain), out)
        shared.angles[rope, width] = out, pairs
    out, pairs = shared.angles[rope, width]
    neighbours = int(rope.style == "pairs")
    program.add(rows.rotate, x.address, x.stride, heads, 4 * step, pairs, out, neighbours)


def heated(program: StepProgram, config: TemperatureConfig | None, x: Rows) -> None:
    """Queries times the factor of their positions."""
    if config is not None:
        check_known(config, "temperature", {"floor_scale", "scale", "offset"})
        program.add(
            rows.heat, x.address, x.stride, x.width, config.floor_scale, config.offset, float(config.scale)
        )


def attend(program: StepProgram, shared: Shared, layer: Attention, index: int, x: Rows) -> Rows:
    """The result of a layer before its last projection."""
    config = layer.config
    check_known(config, "attention", _KNOWN)
    heads, groups, width = config.num_heads, config.num_kv_heads, config.head_dim
    q = program.rows(heads * width)
    gate = None
    if config.gate != "none":
        gate = program.rows(q.width if config.gate == "full" else heads)
        linear(program, layer.gate, x, gate, barrier=False)
    linear(program, layer.q, x, q, barrier=config.keys_of is not None)
    if config.keys_of is None:
        place = shared.keep(index, (groups, width), (groups, width))
        _append(program, shared, layer, place, x)
    else:
        place = shared.place(config.keys_of)
    _placed(program, shared, layer, q, heads, "q_norm")
    heated(program, config.temperature, q)
    out = program.rows(q.width)
    sinks = (0, 0) if layer.sinks is None else program.vector(layer.sinks)
    kernel = attention.attend_bf16 if shared.kind else attention.attend_f32
    program.add(
        kernel, place, q.address, q.stride, heads, groups, width, out.address, out.stride,
        float(config.softmax_scale), float(config.score_cap or 0.0), _MASKS[config.mask], config.window or 0,
        *sinks, serial=False,
    )  # fmt: skip
    if gate is not None:
        each = 1 if config.gate == "full" else width
        program.add(rows.gate_rows, out.address, out.stride, out.width, gate.address, gate.stride, each)
    return out


def _append(program: StepProgram, shared: Shared, layer: Attention, place: int, x: Rows) -> None:
    """The new token's keys and values, into the cache."""
    config = layer.config
    groups = config.num_kv_heads
    k = program.rows(groups * config.head_dim)
    v = program.rows(k.width)
    linear(program, layer.k, x, k, barrier=config.keys_as_values)
    if not config.keys_as_values:
        linear(program, layer.v, x, v)
    else:
        program.add(rows.copy, k.address, k.stride, k.width, v.address, v.stride, 1.0, 0)
    if config.qkv_clip is not None:
        program.add(rows.limit, v.address, v.stride, v.width, float(config.qkv_clip))
    if config.value_norm:
        norm(program, None, v, v, groups, layer.norm_eps)
    _placed(program, shared, layer, k, groups, "k_norm")
    program.add(
        attention.append, place, k.address, k.stride, k.width, v.address, v.stride, v.width, shared.kind
    )


def _placed(program: StepProgram, shared: Shared, layer: Attention, x: Rows, heads: int, name: str) -> None:
    """Queries or keys normed and rotated, in place."""
    config = layer.config
    kind = config.qk_norm
    own = getattr(layer, name) if kind in ("head", "head_after", "full") else None
    if kind == "full":
        norm(program, own, x, x)
    if config.qkv_clip is not None:
        program.add(rows.limit, x.address, x.stride, x.width, float(config.qkv_clip))
    if kind in ("head", "weightless_before"):
        norm(program, own, x, x, heads, layer.norm_eps)
    if config.rope is not None:
        turned(program, shared, config.rope, x, heads, config.head_dim, config.head_dim)
    if kind in ("head_after", "weightless"):
        norm(program, own, x, x, heads, layer.norm_eps)


def attend_latent(program: StepProgram, shared: Shared, layer: LatentAttention, index: int, x: Rows) -> Rows:
    """The result of latent attention before its last projection, in the absorbed form."""
    config = layer.config
    check_known(config, "latent attention", _KNOWN_LATENT)
    heads, nope, latent, rotated = config.num_heads, config.nope_dim, config.kv_rank, config.rope_dim
    place = shared.keep(index, (1, latent), (1, rotated))
    q = program.rows(heads * config.head_dim)
    if config.q_rank is None:
        linear(program, layer.q, x, q)
    else:
        thin = program.rows(config.q_rank)
        linear(program, layer.q_a, x, thin)
        norm(program, layer.q_a_norm, thin, thin)
        linear(program, layer.q_b, thin, q)
    kv = program.rows(latent + rotated)
    linear(program, layer.kv_a, x, kv)
    c, k = kv.part(0, latent), kv.part(latent, rotated)
    norm(program, layer.kv_a_norm, c, c)
    turned(program, shared, config.rope, k, 1, rotated, rotated)
    of_q = q.part(nope, rotated)
    turned(program, shared, config.rope, of_q, heads, config.head_dim, rotated)
    heated(program, config.temperature, q)
    program.add(
        attention.append, place, c.address, c.stride, latent, k.address, k.stride, rotated, shared.kind
    )
    weight, kind = _up_projection(program, layer)
    read, seen = program.rows(heads * latent), program.rows(heads * latent)
    value, step = config.value_dim, 4 * config.head_dim
    program.add(
        attention.absorb, q.address, q.stride, heads, step, nope, weight, kind, latent, value, read.address,
        serial=False,
    )  # fmt: skip
    kernel = attention.attend_latent_bf16 if shared.kind else attention.attend_latent_f32
    program.add(
        kernel, place, read.address, of_q.address, q.stride, step, heads, latent, rotated, seen.address,
        float(layer.scale), serial=False,
    )  # fmt: skip
    out = program.rows(heads * value)
    program.add(
        attention.expand, seen.address, heads, nope, weight, kind, latent, value, out.address, out.stride,
        serial=False,
    )  # fmt: skip
    return out


def _up_projection(program: StepProgram, layer: LatentAttention) -> tuple[int, int]:
    """Address and kind of the (H, N + V, C) matrix; a plain one is read in place."""
    own = layer.kv_b
    if own.bias is not None:
        raise CannotPlan("latent attention with a bias")
    if type(own).__name__ == "Linear" and own.weight.dtype in PLAIN and own.weight.is_contiguous():
        return program.of(own.weight), PLAIN[own.weight.dtype]
    quantised = quantised_of(own)
    if quantised is not None:
        program.copied_from(quantised.codes, quantised.scales)
    program.copied_from(*own.parameters())
    return program.own(own.effective_weight().detach().float().contiguous()), 0
