"""Upcycling: a dense model becomes a mixture of experts that starts as the same function.

Copies: every expert is the dense feed-forward (arXiv 2212.05055). Split: the feed-forward is cut into G parts
and each expert holds one; the G parts of a copy share their row in the router, so that a token always gets
whole copies, and `down` is multiplied by G because the K chosen weights sum to 1 (virtual groups, arXiv
2410.07524). A shared expert, where the family has one in every layer, is a copy too and gives half of the
result: its gate lets half through, or its `down` is halved. Noise and drop (arXiv 2502.19261) make the routed
copies differ and give up equality at the start.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import torch
from torch import Tensor

from coterie.config import ConfigError
from coterie.nn.experts import Experts
from coterie.nn.moe import FeedForward, MoE
from coterie.nn.transformer import Transformer
from coterie.surgery.arguments import check_upcycle
from coterie.surgery.common import Layer, LayerwiseResult, blank, ffn_of, finished, require_plain

Variation = Literal["copy", "noise", "drop"]


def upcycle(
    model: Transformer,
    num_experts: int = 8,
    top_k: int = 2,
    split: int = 1,
    variation: Variation = "copy",
    amount: float | None = None,
    seed: int = 0,
) -> Transformer:
    """`upcycling`, in memory."""
    return upcycling(model, num_experts, top_k, split, variation, amount, seed).in_memory()


def upcycling(
    model: Transformer,
    num_experts: int = 8,
    top_k: int = 2,
    split: int = 1,
    variation: Variation = "copy",
    amount: float | None = None,
    seed: int = 0,
) -> LayerwiseResult:
    """A mixture of `num_experts` experts per layer with `top_k` chosen.

    `split`: each expert is 1/`split` of the dense feed-forward wide. `amount`: for `noise`, its size relative
    to the weights' own (default 0.05); for `drop`, the share of each expert's inner units that is drawn anew
    (default 0.5).
    Errors: `ConfigError` for numbers that do not fit, and for models that are routed already or of a family
    without a routed form.
    """
    config = check_upcycle(model.config, num_experts, top_k, split, variation)
    require_plain(model)
    if variation == "drop" and amount is not None and not 0 <= amount <= 1:
        raise ConfigError(f"upcycle: drop takes an amount from 0 to 1, not {amount:g}")

    def made(layer: int) -> Layer | None:
        dense = ffn_of(model, layer)
        if dense is None:
            return None
        moe = blank(model, config, layer)
        assert isinstance(dense, FeedForward) and isinstance(moe, MoE)
        digest = hashlib.sha256(f"{seed}:{layer}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        _fill(dense, moe, split, model.config.init_std, generator)
        for expert in range(num_experts if variation != "copy" else 0):
            _vary(moe, expert, variation, amount, generator)
        return finished(moe)

    return LayerwiseResult(model, config, map(made, range(config.num_layers)))


@torch.no_grad()
def _fill(dense: FeedForward, moe: MoE, split: int, std: float, generator: torch.Generator) -> None:
    num_experts, width = moe.config.router.num_experts, moe.config.expert_width
    copies = torch.randn(num_experts // split, moe.router.weight.shape[1], generator=generator) * std
    moe.router.weight.copy_(copies.repeat_interleave(split, dim=0))
    share = 1.0 if moe.shared is None else 0.5
    if moe.shared is not None:
        moe.shared.load_state_dict(dense.state_dict())
        if moe.shared_gate is None:
            moe.shared.down.weight.mul_(0.5)
        else:
            moe.shared_gate.weight.zero_()
    reading = [dense.up] if dense.gate is None else [dense.gate, dense.up]
    for expert in range(num_experts):
        part = slice((expert % split) * width, (expert % split + 1) * width)
        for half, layer in zip(moe.experts.first.weight[expert].split(width), reading, strict=True):
            half.copy_(layer.weight[part])
        moe.experts.down.weight[expert] = dense.down.weight[:, part] * (split * share)


@torch.no_grad()
def _vary(
    moe: MoE, expert: int, variation: Variation, amount: float | None, generator: torch.Generator
) -> None:
    assert isinstance(moe.experts, Experts)
    first_OD, down_DF = moe.experts.first.weight[expert], moe.experts.down.weight[expert]
    if variation == "noise":
        for matrix in (first_OD, down_DF):
            size = (0.05 if amount is None else amount) * float(matrix.float().std())
            matrix.copy_(matrix.float() + _draw(matrix.float(), 0.0, size, generator))
        return
    width = moe.config.expert_width
    num_dropped = round((0.5 if amount is None else amount) * width)
    units = torch.randperm(width, generator=generator)[:num_dropped]
    for part in (*first_OD.split(width), down_DF.t()):
        dropped = part[units].float()
        if num_dropped:
            part[units] = _draw(part[units], float(dropped.mean()), float(dropped.std()), generator)


def _draw(like: Tensor, mean: float, std: float, generator: torch.Generator) -> Tensor:
    return (torch.randn(like.shape, generator=generator) * std + mean).to(like.device, like.dtype)
