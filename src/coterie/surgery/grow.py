"""More or other experts: add some that do nothing yet, or take one from another model of the same shape."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from coterie.config import ConfigError
from coterie.nn.moe import MoE
from coterie.nn.transformer import Transformer
from coterie.surgery.arguments import check_add, check_swap
from coterie.surgery.common import (
    Sequences,
    finished,
    moe_layers,
    rebuilt,
    watch,
    with_mixtures,
)

NEVER = -1e4  # added to an expert's score so that no token chooses it; finite, so training can undo it


def add_experts(model: Transformer, sequences: Sequences, count: int = 1, source: int = 0) -> Transformer:
    """The model with `count` more experts in every layer that do nothing at first.

    A new expert is a copy of `source` with `down` 0, and its router row keeps it from being chosen: by the
    bias where the router has one, otherwise by a row that scores less than the mean of the others on the
    tokens of `sequences`. The receipt measures the remaining change.
    Errors: `ConfigError` for a dense model or a router that chooses in groups.
    """
    check_add(model.config, count, source)
    layers = moe_layers(model, "add-expert")
    mixtures = {}
    for layer, moe in layers:
        same = torch.eye(moe.config.router.num_experts, dtype=torch.float64)
        mixtures[layer] = torch.cat([same, same[[source] * count]])
    new = with_mixtures(model, mixtures)
    rows = _quiet_rows(model, layers, sequences)
    for layer, moe in layers:
        after, num = new.blocks[layer].ffn, moe.config.router.num_experts
        assert isinstance(after, MoE)
        with torch.no_grad():
            after.experts.down.weight[num:] = 0
            if after.experts.down.bias is not None:
                after.experts.down.bias[num:] = 0
            after.router.weight[num:] = rows[layer]
            if after.router.bias is not None:
                after.router.weight[num:] = 0
                after.router.bias[num:] = NEVER
            elif after.router.select_bias is not None:
                after.router.select_bias[num:] = NEVER
    return finished(new)


@torch.no_grad()
def _quiet_rows(model: Transformer, layers: list[tuple[int, MoE]], sequences: Sequences) -> dict[int, Tensor]:
    """Layer -> `(D,)`: the mean row minus a multiple of the direction that all tokens have most in common.

    The direction `u` is the least-squares solution of `x u = 1`; the multiple is the one, out of four, that
    leaves the least weight with the new expert.
    """
    seen: dict[int, list[Tensor]] = {layer: [] for layer, _ in layers}
    for part in watch(model, sequences):
        for layer, x_TD in part.inputs.items():
            seen[layer].append(x_TD.float())
    rows = {}
    for layer, moe in layers:
        x_TD = torch.cat(seen[layer])
        weight_ED = moe.router.weight.float()
        gram = x_TD.T @ x_TD
        gram += 1e-3 * gram.diagonal().mean() * torch.eye(len(gram), device=gram.device)
        u_D = torch.linalg.solve(gram, x_TD.sum(0))
        logits_TE = x_TD @ weight_ED.T
        candidates = [weight_ED.mean(0) - size * logits_TE.std() * u_D for size in (0.0, 4.0, 16.0, 64.0)]
        rows[layer] = min(candidates, key=lambda row_D: _disturbance(x_TD @ row_D, logits_TE, moe))
    return rows


def _disturbance(new_T: Tensor, logits_TE: Tensor, moe: MoE) -> float:
    """How much an added expert with these logits changes: its share of the tokens, and of the softmax."""
    router = moe.config.router
    chosen_T = new_T > logits_TE.topk(router.top_k, dim=-1).values[:, -1]
    share_T = torch.sigmoid(new_T - logits_TE.logsumexp(-1))
    in_softmax = router.score == "softmax" and not router.renormalize and not router.score_after_topk
    return float(chosen_T.float().mean() + (share_T.mean() if in_softmax else 0.0))


@torch.no_grad()
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
    other_layer = layer if other_layer is None else other_layer
    other_expert = expert if other_expert is None else other_expert
    check_swap(model.config, other.config, layer, expert, other_layer, other_expert)
    new = rebuilt(model, model.config)
    target, source = _place(new, layer, expert), _place(other, other_layer, other_expert)
    same = target.config.clamped == source.config.clamped
    if not same or target.experts.down.weight.shape[1:] != source.experts.down.weight.shape[1:]:
        raise ConfigError(
            f"swap-expert: experts are {tuple(target.experts.down.weight.shape[1:])} here and "
            f"{tuple(source.experts.down.weight.shape[1:])} there, or of another kind; "
            "they cannot be exchanged"
        )
    pairs: list[tuple[Any, Any]] = [(target.router, source.router)] if with_router else []
    pairs += [(target.experts.gate_up, source.experts.gate_up), (target.experts.down, source.experts.down)]
    for ours, theirs in pairs:
        for name in ("weight", "bias"):
            if getattr(ours, name) is not None:
                getattr(ours, name)[expert] = getattr(theirs, name)[other_expert]
    return finished(new)


def _place(model: Transformer, layer: int, expert: int) -> MoE:
    ffn = model.blocks[layer].ffn
    assert isinstance(ffn, MoE)
    return ffn
