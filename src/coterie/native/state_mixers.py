"""Layers with a state as operations: short convolution, Gated DeltaNet, Mamba-2.

Legend: T tokens, C channels, H heads, K taps.
"""

from __future__ import annotations

import math

from torch import Tensor

from coterie.native import recurrent
from coterie.native.layers import linear
from coterie.native.mixers import Shared
from coterie.native.program import Rows, StepProgram, check_known
from coterie.nn.gated_delta import GatedDeltaNet
from coterie.nn.mamba2 import Mamba2
from coterie.nn.short_conv import ShortConv

_KNOWN_DELTA = {"kind", "num_key_heads", "num_value_heads", "key_dim", "value_dim", "kernel"}
_KNOWN_MAMBA2 = {
    "kind", "num_heads", "head_dim", "state", "groups", "kernel", "conv_bias", "bias", "step_low",
    "step_high",
}  # fmt: skip


def _taps(program: StepProgram, weight_CK: Tensor) -> int:
    """The address of a convolution's weight as (K, C) float32, tap after tap."""
    program.copied_from(weight_CK)
    return program.own(weight_CK.detach().float().t().contiguous())


def _bias(program: StepProgram, bias_C: Tensor | None) -> tuple[int, int]:
    return (0, 0) if bias_C is None else program.vector(bias_C)


def short_conv(program: StepProgram, shared: Shared, layer: ShortConv, index: int, x: Rows) -> Rows:
    """The result of a gated short convolution before its last projection."""
    num_channels, num_taps = layer.conv.shape
    place = shared.keep_state(index, (num_taps - 1, num_channels))
    bcx, out = program.rows(3 * num_channels), program.rows(num_channels)
    linear(program, layer.bcx, x, bcx)
    taps, bias = _taps(program, layer.conv), _bias(program, layer.conv_bias)
    program.add(
        recurrent.short_conv, place, bcx.address, bcx.stride, num_channels, taps, num_taps, *bias,
        out.address, out.stride,
    )  # fmt: skip
    return out


def _convolved(program: StepProgram, place: int, x: Rows, weight_CK: Tensor, bias_C: Tensor | None) -> Rows:
    """SiLU of the causal convolution."""
    num_channels, num_taps = weight_CK.shape
    out, taps, bias = program.rows(num_channels), _taps(program, weight_CK), _bias(program, bias_C)
    program.add(
        recurrent.convolve, place, x.address, x.stride, num_channels, taps, num_taps, *bias, out.address,
        out.stride, serial=False,
    )  # fmt: skip
    return out


def gated_delta(program: StepProgram, shared: Shared, layer: GatedDeltaNet, index: int, x: Rows) -> Rows:
    """The result of the gated delta rule before its last projection."""
    config = layer.config
    check_known(config, "a gated delta rule", _KNOWN_DELTA)
    heads, keys, values = config.num_value_heads, config.key_dim, config.value_dim
    place = shared.keep_state(index, (config.kernel - 1, config.channels), (heads, keys, values))
    qkv, z = program.rows(config.channels), program.rows(config.output_width)
    a, b = program.rows(heads), program.rows(heads)
    for own, rows in ((layer.z, z), (layer.a, a), (layer.b, b)):
        linear(program, own, x, rows, barrier=False)
    linear(program, layer.qkv, x, qkv)
    u, out = _convolved(program, place, qkv, layer.conv, None), program.rows(config.output_width)
    program.add(
        recurrent.delta, place, u.address, u.stride, a.address, a.stride, b.address, b.stride, z.address,
        z.stride, config.num_key_heads, heads, keys, values, *program.vector(layer.A_log),
        *program.vector(layer.dt_bias), *program.vector(layer.norm.weight), float(layer.norm.plus_one),
        float(layer.norm.eps), out.address, out.stride, serial=False,
    )  # fmt: skip
    return out


def mamba2(program: StepProgram, shared: Shared, layer: Mamba2, index: int, x: Rows) -> Rows:
    """The result of Mamba-2 before its last projection."""
    config = layer.config
    check_known(config, "Mamba-2", _KNOWN_MAMBA2)
    heads, width, size = config.num_heads, config.head_dim, config.state
    place = shared.keep_state(index, (config.kernel - 1, config.channels), (heads, size, width))
    xbc, z, dt = program.rows(config.channels), program.rows(config.output_width), program.rows(heads)
    linear(program, layer.z, x, z, barrier=False)
    linear(program, layer.dt, x, dt, barrier=False)
    linear(program, layer.xbc, x, xbc)
    u, out = _convolved(program, place, xbc, layer.conv, layer.conv_bias), program.rows(config.output_width)
    most = math.inf if config.step_high is None else config.step_high
    program.add(
        recurrent.scan, place, u.address, u.stride, dt.address, dt.stride, z.address, z.stride, heads, width,
        size, config.groups, *program.vector(layer.A_log), *program.vector(layer.dt_bias),
        *program.vector(layer.skip), float(config.step_low), float(most), out.address, out.stride,
        serial=False,
    )  # fmt: skip
    program.add(
        recurrent.group_norm, out.address, out.stride, config.groups, out.width // config.groups,
        *program.vector(layer.norm.weight), float(layer.norm.plus_one), float(layer.norm.eps),
    )  # fmt: skip
    return out
