"""Fewer experts: prune those that matter least, or merge those that do similar things.

REAP (arXiv 2510.13999) scores an expert by the mean, over the tokens that chose it, of its gate weight times
the length of its output. Merging (HC-SMoE, arXiv 2410.08589) clusters experts by their mean outputs on all
tokens and averages each cluster, an expert counting as often as it was chosen.
"""

from __future__ import annotations

import random
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from coterie.nn.moe import MoE
from coterie.nn.transformer import Transformer
from coterie.surgery.arguments import check_merge, check_prune, kept_experts
from coterie.surgery.common import (
    LayerSeen,
    LayerwiseResult,
    Sequences,
    expert_output,
    mixed,
    moe_layers,
    rows_of_expert,
    watch,
)

PruneMethod = Literal["reap", "freq", "random"]


def prune(
    model: Transformer, keep: float, method: PruneMethod = "reap", sequences: Sequences = (), seed: int = 0
) -> tuple[Transformer, dict[int, list[int]]]:
    """`pruning` in memory, and the experts that stayed, by layer."""
    found = pruning(model, keep, method, sequences, seed)
    return found.in_memory(), {int(layer): kept for layer, kept in found.details["kept"].items()}


def pruning(
    model: Transformer, keep: float, method: PruneMethod = "reap", sequences: Sequences = (), seed: int = 0
) -> LayerwiseResult:
    """The share `keep` of each layer's experts (rounded up); `details`: which ones stay, by layer.

    `reap` and `freq` look at `sequences`. Routers with groups keep as many of each group.
    Errors: `ConfigError` for a share that leaves fewer experts than a token chooses.
    """
    layers = moe_layers(model, "prune")
    check_prune(model.config, keep, method)
    draw = random.Random(seed)
    scores = {layer: [draw.random() for _ in range(moe.config.router.num_experts)] for layer, moe in layers}
    kept: dict[str, list[int]] = {}

    def best_of(layer: int, moe: MoE, seen: list[LayerSeen]) -> Tensor:
        found = scores[layer] if method == "random" else _scores(moe, seen)[method].tolist()
        kept[str(layer)] = _best(found, moe, keep)
        return _identity(moe)[kept[str(layer)]]

    result = mixed(
        model,
        lambda moe: kept_experts(moe.router, keep),
        best_of,
        None if method == "random" else sequences,
    )
    result.details["kept"] = kept
    return result


def expert_scores(model: Transformer, sequences: Sequences) -> dict[str, dict[int, Tensor]]:
    """`{"freq": {layer: (E,)}, "reap": {layer: (E,)}}`: share of assignments, and REAP's score."""
    found: dict[str, dict[int, Tensor]] = {"freq": {}, "reap": {}}
    for layer, moe, seen in watch(model, sequences):
        if isinstance(moe, MoE):
            for name, values in _scores(moe, seen).items():
                found[name][layer] = values
    return found


@torch.no_grad()
def _scores(moe: MoE, seen: list[LayerSeen]) -> dict[str, Tensor]:
    """`expert_scores` of one layer."""
    count = torch.zeros(moe.config.router.num_experts, dtype=torch.float64)
    total = torch.zeros_like(count)
    on_input = moe.config.router.apply_to == "input"
    for x_TD, routing, *_ in seen:
        for expert in range(len(count)):
            rows, weights = rows_of_expert(routing, expert)
            if not len(rows):
                continue
            length = expert_output(moe, expert, x_TD[rows], weights).float().norm(dim=-1)
            count[expert] += len(rows)
            total[expert] += float((length if on_input else length * weights).double().sum())
    return {"freq": count / count.sum(), "reap": total / count.clamp_min(1)}


def merge_experts(
    model: Transformer, keep: float, sequences: Sequences
) -> tuple[Transformer, dict[int, list[list[int]]]]:
    """`expert_merging` in memory, and the clusters, by layer."""
    found = expert_merging(model, keep, sequences)
    return found.in_memory(), {int(layer): members for layer, members in found.details["clusters"].items()}


def expert_merging(model: Transformer, keep: float, sequences: Sequences) -> LayerwiseResult:
    """Experts merged to the share `keep` (rounded up); `details`: the clusters, by layer.

    Errors: `ConfigError` as for `pruning`, and for routers that choose among groups.
    """
    check_merge(model.config, keep)
    clusters: dict[str, list[list[int]]] = {}

    def merged(layer: int, moe: MoE, seen: list[LayerSeen]) -> Tensor:
        found = _cluster(_mean_outputs(moe, seen), kept_experts(moe.config.router, keep))
        weights = _scores(moe, seen)["freq"].clamp_min(1e-6)
        mixture = torch.zeros(len(found), len(weights), dtype=torch.float64)
        for row, members in enumerate(found):
            mixture[row, members] = weights[members] / weights[members].sum()
        clusters[str(layer)] = found
        return mixture

    result = mixed(model, lambda moe: kept_experts(moe.router, keep), merged, sequences)
    result.details["clusters"] = clusters
    return result


@torch.no_grad()
def _mean_outputs(moe: MoE, seen: list[LayerSeen]) -> Tensor:
    """`(E, D)`: each expert's output, added up over all tokens, chosen for them or not."""
    experts = range(moe.config.router.num_experts)
    return torch.stack([_sums(moe, expert, seen) for expert in experts]) / sum(
        len(part.x_TD) for part in seen
    )


def _sums(moe: MoE, expert: int, seen: list[LayerSeen]) -> Tensor:
    return torch.stack([expert_output(moe, expert, part.x_TD).double().sum(0) for part in seen]).sum(0)


def _cluster(outputs_ED: Tensor, num: int) -> list[list[int]]:
    """Average linkage by Euclidean distance; clusters in the order of their first members."""
    from scipy.cluster.hierarchy import fcluster, linkage

    if num == len(outputs_ED):
        return [[expert] for expert in range(num)]
    tree = linkage(outputs_ED.cpu().numpy(), method="average")
    labels = fcluster(tree, num, criterion="maxclust")
    found = [np.flatnonzero(labels == label).tolist() for label in dict.fromkeys(labels.tolist())]
    # fcluster joins all experts at the same distance at once, which may leave too few clusters.
    while len(found) < num:
        largest = max(found, key=len)
        found.append([largest.pop()])
    return sorted(found)


def _identity(moe: MoE) -> Tensor:
    return torch.eye(moe.config.router.num_experts, dtype=torch.float64)


def _best(scores: list[float], moe: MoE, keep: float) -> list[int]:
    """The best experts of each group, in their old order."""
    groups = moe.config.router.num_groups
    size, per_group = len(scores) // groups, kept_experts(moe.config.router, keep) // groups
    kept: list[int] = []
    for group in range(groups):
        members = range(group * size, (group + 1) * size)
        kept += sorted(sorted(members, key=lambda e: (-scores[e], e))[:per_group])
    return kept
