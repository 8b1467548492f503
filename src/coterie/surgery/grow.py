"""More or other experts: add some that do nothing yet, or take one from another model of the same shape."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from coterie.config import ConfigError
from coterie.nn.moe import MoE
from coterie.nn.transformer import Transformer
from coterie.surgery.arguments import check_add, check_swap
from coterie.surgery.common import (
    Layer,
    LayerSeen,
    LayerwiseResult,
    Sequences,
    blank,
    ffn_of,
    finished,
    mixed,
    require_plain,
)

NEVER = -1e4  # added to an expert's score so that no token chooses it; finite, so training can undo it


def add_experts(model: Transformer, sequences: Sequences, count: int = 1, source: int = 0) -> Transformer:
    """`adding_experts`, in memory."""
    return adding_experts(model, sequences, count, source).in_memory()


def adding_experts(
    model: Transformer, sequences: Sequences, count: int = 1, source: int = 0
) -> LayerwiseResult:
    """`count` more experts in every layer that do nothing at first.

    A new expert is a copy of `source` with `down` 0, and its router row keeps it from being chosen: by the
    bias where the router has one, otherwise by a row that scores less than the mean of the others on the
    tokens of `sequences`. The receipt measures the remaining change.
    Errors: `ConfigError` for a dense model or a router that chooses in groups.
    """
    check_add(model.config, count, source)
    rows: dict[int, Tensor] = {}

    def grown(layer: int, moe: MoE, seen: list[LayerSeen]) -> Tensor:
        rows[layer] = _quiet_row(moe, seen)
        same = torch.eye(moe.config.router.num_experts, dtype=torch.float64)
        return torch.cat([same, same[[source] * count]])

    result = mixed(model, lambda moe: moe.router.num_experts + count, grown, sequences)

    def silenced(layer: int, new: Layer | None) -> Layer | None:
        if isinstance(new, MoE):
            _silence(new, new.config.router.num_experts - count, rows.pop(layer))
        return new

    result.layers = itertools.starmap(silenced, enumerate(result.layers))
    return result


@torch.no_grad()
def _silence(moe: MoE, num: int, row_D: Tensor) -> None:
    """Let the experts from `num` on do nothing and not be chosen."""
    moe.experts.down.weight[num:] = 0
    if moe.experts.down.bias is not None:
        moe.experts.down.bias[num:] = 0
    moe.router.weight[num:] = row_D
    if moe.router.bias is not None:
        moe.router.weight[num:] = 0
        moe.router.bias[num:] = NEVER
    elif moe.router.select_bias is not None:
        moe.router.select_bias[num:] = NEVER


@torch.no_grad()
def _quiet_row(moe: MoE, seen: list[LayerSeen]) -> Tensor:
    """`(D,)`: the mean row minus a multiple of the direction that all tokens have most in common.

    The direction `u` is the least-squares solution of `x u = 1`; the multiple is the one, out of four, that
    leaves the least weight with the new expert.
    """
    x_TD = torch.cat([moe.router.read(part.router_TD) for part in seen])
    weight_ED = moe.router.weight.float()
    gram = x_TD.T @ x_TD
    gram += 1e-3 * gram.diagonal().mean() * torch.eye(len(gram), device=gram.device)
    u_D = torch.linalg.solve(gram, x_TD.sum(0))
    logits_TE = x_TD @ weight_ED.T
    candidates = [weight_ED.mean(0) - size * logits_TE.std() * u_D for size in (0.0, 4.0, 16.0, 64.0)]
    return min(candidates, key=lambda row_D: _disturbance(x_TD @ row_D, logits_TE, moe))


def _disturbance(new_T: Tensor, logits_TE: Tensor, moe: MoE) -> float:
    """How much an added expert with these logits changes: its share of the tokens, and of the softmax."""
    router = moe.config.router
    chosen_T = new_T > logits_TE.topk(router.top_k, dim=-1).values[:, -1]
    share_T = torch.sigmoid(new_T - logits_TE.logsumexp(-1))
    in_softmax = router.score == "softmax" and not router.renormalize and not router.score_after_topk
    return float(chosen_T.float().mean() + (share_T.mean() if in_softmax else 0.0))


def swap_expert(
    model: Transformer,
    other: Transformer,
    layer: int,
    expert: int,
    other_layer: int | None = None,
    other_expert: int | None = None,
    with_router: bool = False,
) -> Transformer:
    """The model with one expert taken from `other`; `with_router` takes its row in the router too.

    Errors: `ConfigError` for a place that does not exist, or experts of another shape or kind.
    """
    check_swap(model.config, other.config, layer, expert, other_layer, other_expert)
    source = other.blocks[layer if other_layer is None else other_layer].ffn
    assert isinstance(source, MoE)
    return swapping(model, source, layer, expert, other_expert, with_router).in_memory()


def swapping(
    model: Transformer,
    source: MoE,
    layer: int,
    expert: int,
    other_expert: int | None = None,
    with_router: bool = False,
) -> LayerwiseResult:
    """`swap_expert` with the layer `source` that the expert is taken from."""
    target = model.blocks[layer].ffn
    assert isinstance(target, MoE)
    alike = ("clamped", "gated", "activation")
    same = all(getattr(target.config, name) == getattr(source.config, name) for name in alike)
    same = same and target.config.latent_width is None and source.config.latent_width is None
    if not same or target.experts.down.weight.shape[1:] != source.experts.down.weight.shape[1:]:
        raise ConfigError(
            f"swap-expert: experts are {tuple(target.experts.down.weight.shape[1:])} here and "
            f"{tuple(source.experts.down.weight.shape[1:])} there, or of another kind; "
            "they cannot be exchanged"
        )
    require_plain(model)

    def made(index: int) -> Layer | None:
        if index != layer:
            return ffn_of(model, index)
        new = blank(model, model.config, index)
        assert isinstance(new, MoE)
        _take(new, expert, source, expert if other_expert is None else other_expert, with_router)
        return finished(new)

    return LayerwiseResult(model, model.config, map(made, range(model.config.num_layers)))


@torch.no_grad()
def _take(moe: MoE, expert: int, source: MoE, other_expert: int, with_router: bool) -> None:
    pairs: list[tuple[Any, Any]] = [(moe.router, source.router)] if with_router else []
    pairs += [(moe.experts.first, source.experts.first), (moe.experts.down, source.experts.down)]
    for ours, theirs in pairs:
        for name in ("weight", "bias", "expert_scale"):
            if getattr(ours, name, None) is not None:
                getattr(ours, name)[expert] = getattr(theirs, name)[other_expert]
