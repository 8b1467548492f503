"""Scaled positions of a GGUF file as `rope_parameters` of config.json."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from coterie.checkpoints.gguf_model.keys import GgufKeys, shortest
from coterie.config import CheckpointError, RopeConfig, RopeScaling
from coterie.llamacpp.key_tables import LONG_FACTORS, ROPE_FACTORS, SHORT_FACTORS
from coterie.llamacpp.targets import Target
from coterie.nn.rope import inverse_frequencies, yarn_gain

# Sets of llama3 scaling, the published first: low and high factor, original context. Another set with equal
# divisors is the same model.
_SETS = [(1.0, 4.0, 8192), (1.0, 1.0, 8192)] + [
    (1.0, high, 1 << power) for high in (4.0, 1.0) for power in range(4, 21)
]


def rope_parameters(file: GgufKeys, target: Target, width: int) -> dict[str, Any]:
    """`rope_parameters` of an architecture that rotates `width` numbers of every head.

    Errors: `CheckpointError` for a scaling that is not read here, or that the architecture does not have.
    """
    theta = file.get("rope.freq_base", 10000.0)
    kind = file.get("rope.scaling.type", "none")
    plain = {"rope_type": "default", "rope_theta": theta}
    if LONG_FACTORS in file.shapes:
        return plain | _longrope(file, target, kind)
    divisors = file.divisors(ROPE_FACTORS)
    if divisors is not None:
        if kind != "none":
            raise file.unusable("rope.scaling.type", kind, "none next to the tensor rope_freqs")
        return plain | _llama3(file, divisors, theta, width)
    old = file.get("rope.scale_linear", 1.0)
    factor = file.get("rope.scaling.factor", old)
    original = file.count("rope.scaling.original_context_length", None)
    if kind == "linear" or (kind == "none" and factor != 1.0):
        return plain | {"rope_type": "linear", "factor": factor}
    if kind == "none":
        return plain
    if kind != "yarn":
        raise file.unusable("rope.scaling.type", kind, "none, linear or yarn")
    file.expect("rope.scaling.yarn_ext_factor", 1.0)
    yarn = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original or file.count("context_length"),
        "beta_fast": file.get("rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": file.get("rope.scaling.yarn_beta_slow", 1.0),
        "truncate": file.get("rope.scaling.yarn_truncate", target.yarn_truncate),
    }
    return plain | yarn | _gains(file, target, factor)


def _longrope(file: GgufKeys, target: Target, kind: str) -> dict[str, Any]:
    """LongRoPE: two tensors of factors, and a gain that follows from the lengths or is stated."""
    long, short = file.divisors(LONG_FACTORS), file.divisors(SHORT_FACTORS)
    if long is None or short is None or not target.longrope or kind not in ("none", "longrope"):
        raise CheckpointError(
            f"{file.where}: has the tensor '{LONG_FACTORS}', which is read here next to '{SHORT_FACTORS}' in "
            f"'phi3' models without another scaling"
        )
    file.expect("rope.scaling.factor", 1.0)
    longest = file.count("context_length")
    original = file.count("rope.scaling.original_context_length", longest)
    gain = file.get("rope.scaling.attn_factor", 1.0)
    usual = math.sqrt(1 + max(0.0, math.log(longest / original)) / math.log(original))
    own = {} if shortest(usual) == gain else {"attention_factor": gain}
    return own | {
        "rope_type": "longrope",
        "original_max_position_embeddings": original,
        "long_factor": shortest(long.tolist()),
        "short_factor": shortest(short.tolist()),
    }


def _gains(file: GgufKeys, target: Target, factor: float) -> dict[str, Any]:
    """The gain of cos and sin, and with latents of the softmax: `architectures._yarn_gains` reversed."""
    attn, stated = (file.get(f"rope.scaling.{name}attn_factor", None) for name in ("", "yarn_"))
    full = yarn_gain(factor)
    logarithm = file.get("rope.scaling.yarn_log_multiplier", None) if target.yarn_multiplier else None
    if stated is not None and not target.latent:
        return {"attention_factor": stated}  # llama.cpp's converter writes that of config.json here
    if not logarithm and not target.latent:
        if attn is None:
            return {}
        return {"attention_factor": _meant(attn * full, lambda gain: gain / full, attn)}
    if full == 1:
        return {}
    if target.yarn_divides:
        return _divided(attn, logarithm or 0.0, factor, target)
    if logarithm is None:
        gain = softmax = full * (1.0 if attn is None else attn)
        mscale = (softmax - 1) / (full - 1)
    else:
        gain = 1.0 if attn is None else attn
        softmax = gain * (1 + 10 * logarithm * (full - 1))
        mscale = _meant(
            (softmax - 1) / (full - 1),
            lambda one: 0.1 * (yarn_gain(factor, one) / gain - 1) / (full - 1),
            logarithm,
        )
    if logarithm is not None and attn is None:
        return {"mscale": mscale, "mscale_all_dim": mscale}
    return {"attention_factor": gain, "mscale_all_dim": mscale}


def _divided(attn: float | None, logarithm: float, factor: float, target: Target) -> dict[str, Any]:
    """The same for a target that divides by g(L): cos and sin A g / g(L), with latents the softmax A g."""
    full, mscale = yarn_gain(factor), logarithm / target.yarn_multiplier
    divisor = yarn_gain(factor, mscale)
    if not target.latent:
        if attn is None:
            return {"mscale": 1.0, "mscale_all_dim": shortest(mscale)}
        return {"attention_factor": attn * full / divisor, "mscale_all_dim": shortest(mscale)}
    if attn is None and abs(mscale - 1) < 1e-6:
        return {"mscale": 1.0, "mscale_all_dim": 1.0}
    stored = 1.0 if attn is None else attn
    all_dim = _meant((stored * full - 1) / (full - 1), lambda one: yarn_gain(factor, one) / full, stored)
    return {"attention_factor": yarn_gain(factor, all_dim) / divisor, "mscale_all_dim": all_dim}


def _meant(value: float, written: Callable[[float], float], stored: float) -> float:
    """The shortest decimal near `value` that a writer would have stored as the 32-bit float `stored`."""
    for digits in range(1, 12):
        candidate = float(f"{value:.{digits}g}")
        if shortest(written(candidate)) == stored:
            return candidate
    return value


def _llama3(file: GgufKeys, divisors: Tensor, theta: float, width: int) -> dict[str, Any]:
    """The llama3 scaling with these divisors of the frequencies (D/2,)."""
    factor = float(f"{float(divisors.max()):.6g}")
    for low, high, original in _SETS:
        scaling = RopeScaling(
            kind="llama3",
            factor=factor,
            low_freq_factor=low,
            high_freq_factor=high,
            original_max_positions=original,
        )
        made = llama3_divisors(RopeConfig(theta=theta, scaling=scaling), width)
        if made.shape == divisors.shape and torch.allclose(made, divisors, rtol=2e-6, atol=0):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }
    raise CheckpointError(
        f"{file.where}: the factors in 'rope_freqs.weight' are no llama3 scaling that is known here "
        f"({divisors.numel()} factors from {float(divisors.min()):g} to {float(divisors.max()):g})"
    )


def llama3_divisors(rope: RopeConfig, width: int) -> Tensor:
    """(D/2,) what each plain frequency is divided by under a llama3 scaling."""
    return inverse_frequencies(RopeConfig(theta=rope.theta), width) / inverse_frequencies(rope, width)
