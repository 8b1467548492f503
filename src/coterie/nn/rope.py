"""Rotary position embedding (arXiv 2104.09864) and its scalings for long contexts.

See docs/design/families.md, "Rotary positions". T tokens, H heads, D head width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from coterie.config.positions import RopeConfig, RopeScaling
from coterie.nn.autograd import GradFunction
from coterie.nn.forward_context import ForwardContext


def inverse_frequencies(config: RopeConfig, head_dim: int, long: bool = False) -> Tensor:
    """fp32 angles per position, scaled for long contexts where the config says so.

    (D/2,) `theta^(-2j/D)`. With `rotated` R numbers of a head (R/2,) `theta^(-2j/R)`, or where `proportional`
    (D/2,) with zeros for the pairs that do not rotate. `long`: for a sequence beyond the original context,
    which counts for `longrope` alone.
    """
    width = head_dim if config.rotated is None or config.proportional else config.rotated
    exponent = torch.arange(0, width, 2, dtype=torch.float32) / width
    inverse = 1.0 / (config.theta**exponent)
    if config.proportional and config.rotated is not None:
        inverse[config.rotated // 2 :] = 0.0
    if config.scaling is None:
        return inverse
    if config.scaling.kind == "linear":
        return inverse / config.scaling.factor
    if config.scaling.kind == "yarn":
        return _yarn(inverse, config.theta, width, config.scaling)
    if config.scaling.kind == "longrope":
        factors = config.scaling.long_factors if long else config.scaling.short_factors
        return inverse / torch.tensor(factors, dtype=torch.float32)
    return _llama3(inverse, config.scaling)


def _yarn(inverse: Tensor, theta: float, head_dim: int, scaling: RopeScaling) -> Tensor:
    """YaRN (arXiv 2309.00071): fast dimensions keep their frequency, slow ones are divided by the factor.

    Fast ones turn `beta_fast` times or more within the original context, slow ones `beta_slow` times or less.
    """

    def dimension(turns: float) -> float:
        return (
            head_dim
            * math.log(scaling.original_max_positions / (turns * 2 * math.pi))
            / (2 * math.log(theta))
        )

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    ramp = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    return inverse / scaling.factor * ramp + inverse * (1 - ramp)


def yarn_gain(factor: float, mscale: float = 1.0) -> float:
    """YaRN's g(m) = 0.1 m ln(factor) + 1 (1 where nothing is stretched)."""
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def rotation_gain(scaling: RopeScaling | None) -> float:
    """What cos and sin are multiplied by: 1 except for YaRN and LongRoPE (arXiv 2402.13753)."""
    if scaling is None or scaling.kind not in ("yarn", "longrope"):
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.kind == "longrope":
        stretched = max(0.0, math.log(scaling.factor)) / math.log(scaling.original_max_positions)
        return math.sqrt(1 + stretched)
    if scaling.mscale and scaling.mscale_all_dim:
        return yarn_gain(scaling.factor, scaling.mscale) / yarn_gain(scaling.factor, scaling.mscale_all_dim)
    return yarn_gain(scaling.factor)


def _llama3(inverse: Tensor, scaling: RopeScaling) -> Tensor:
    wavelength = 2 * math.pi / inverse
    low = scaling.original_max_positions / scaling.low_freq_factor
    high = scaling.original_max_positions / scaling.high_freq_factor
    divided = torch.where(wavelength > low, inverse / scaling.factor, inverse)
    if scaling.high_freq_factor == scaling.low_freq_factor:
        return divided  # Scout: both factors are 1, the middle band is empty
    span = scaling.high_freq_factor - scaling.low_freq_factor
    smooth = (scaling.original_max_positions / wavelength - scaling.low_freq_factor) / span
    blended = (1 - smooth) * inverse / scaling.factor + smooth * inverse
    in_band = (wavelength <= low) & (wavelength >= high)
    return torch.where(in_band, blended, divided)


def cos_sin(
    context: ForwardContext, config: RopeConfig, head_dim: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """cos and sin (T, 1, D/2) of every token's angles, made once per context and shared between layers."""
    key = ("rope", config, head_dim, dtype)
    if key not in context.memo:
        angles = context.positions_T.float()[:, None] * _frequencies(context, config, head_dim)
        gain = rotation_gain(config.scaling)
        context.memo[key] = (
            (angles.cos() * gain)[:, None].to(dtype),
            (angles.sin() * gain)[:, None].to(dtype),
        )
    return context.memo[key]


def _frequencies(context: ForwardContext, config: RopeConfig, head_dim: int) -> Tensor:
    """(D/2,), or (T, D/2) where they depend on the length of each token's sequence."""
    device = context.positions_T.device
    inverse = inverse_frequencies(config, head_dim).to(device)
    if config.scaling is None or config.scaling.kind != "longrope":
        return inverse
    original = config.scaling.original_max_positions
    long = torch.tensor([length > original for length in context.sequence_lengths()], device=device)
    long_T1 = long.repeat_interleave(torch.tensor(context.lengths, device=device))[:, None]
    return torch.where(long_T1, inverse_frequencies(config, head_dim, long=True).to(device), inverse)


class _Rotate(GradFunction):
    """A rotation of pairs (times YaRN's gain); its gradient is the rotation back, with the same gain."""

    @staticmethod
    def forward(ctx: Any, x_THD: Tensor, cos: Tensor, sin: Tensor, style: str) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.style = style
        return _rotate(x_THD, cos, sin, style)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(grads[0], cos, -sin, ctx.style), None, None, None


def _rotate(x_THD: Tensor, cos: Tensor, sin: Tensor, style: str) -> Tensor:
    if style == "half":
        first, second = x_THD.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    first, second = x_THD[..., 0::2], x_THD[..., 1::2]
    rotated = torch.stack((first * cos - second * sin, first * sin + second * cos), dim=-1)
    return rotated.flatten(-2).to(x_THD.dtype)


def rotate(x_THD: Tensor, context: ForwardContext, config: RopeConfig) -> Tensor:
    """Queries or keys (T, H, D) rotated by their positions; `pairs` in fp32, `half` in the input's dtype."""
    dtype = torch.float32 if config.style == "pairs" else x_THD.dtype
    cos, sin = cos_sin(context, config, x_THD.shape[-1], dtype)
    width = 2 * cos.shape[-1]
    rotated_THD: Tensor = _Rotate.call(x_THD[..., :width], cos, sin, config.style)
    if width == x_THD.shape[-1]:
        return rotated_THD
    return torch.cat((rotated_THD, x_THD[..., width:]), dim=-1)
