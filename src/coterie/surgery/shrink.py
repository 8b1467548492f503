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
    Sequences,
    expert_output,
    moe_layers,
    rows_of_expert,
    watch,
    with_mixtures,
)

PruneMethod = Literal["reap", "freq", "random"]


def prune(
    model: Transformer, keep: float, method: PruneMethod = "reap", sequences: Sequences = (), seed: int = 0
) -> tuple[Transformer, dict[int, list[int]]]:
    """The model with the share `keep` of each layer's experts (rounded up), and which ones stayed, by layer.

    `reap` and `freq` look at `sequences`. Routers with groups keep as many of each group.
    Errors: `ConfigError` for a share that leaves fewer experts than a token chooses.
    """
    layers = moe_layers(model, "prune")
    check_prune(model.config, keep, method)
    draw = random.Random(seed)
    scores = {layer: [draw.random() for _ in range(moe.config.router.num_experts)] for layer, moe in layers}
    if method != "random":
        scores = {layer: values.tolist() for layer, values in expert_scores(model, sequences)[method].items()}
    kept = {layer: _best(scores[layer], moe, keep) for layer, moe in layers}
    return with_mixtures(model, {layer: _identity(moe)[kept[layer]] for layer, moe in layers}), kept


@torch.no_grad()
def expert_scores(model: Transformer, sequences: Sequences) -> dict[str, dict[int, Tensor]]:
    """`{"freq": {layer: (E,)}, "reap": {layer: (E,)}}`: share of assignments, and REAP's score."""
    layers = moe_layers(model, "surgery")
    count = {layer: torch.zeros(moe.config.router.num_experts, dtype=torch.float64) for layer, moe in layers}
    total = {layer: torch.zeros_like(values) for layer, values in count.items()}
    for seen in watch(model, sequences):
        for layer, moe in layers:
            x_TD, routing = seen.inputs[layer], seen.routing[layer]
            on_input = moe.config.router.apply_to == "input"
            for expert in range(len(count[layer])):
                rows, weights = rows_of_expert(routing, expert)
                if not len(rows):
                    continue
                length = expert_output(moe, expert, x_TD[rows], weights).float().norm(dim=-1)
                count[layer][expert] += len(rows)
                total[layer][expert] += float((length if on_input else length * weights).double().sum())
    return {
        "freq": {layer: values / values.sum() for layer, values in count.items()},
        "reap": {layer: values / count[layer].clamp_min(1) for layer, values in total.items()},
    }


def merge_experts(
    model: Transformer, keep: float, sequences: Sequences
) -> tuple[Transformer, dict[int, list[list[int]]]]:
    """The model with its experts merged to the share `keep` (rounded up), and the clusters, by layer.

    Errors: `ConfigError` as for `prune`, and for routers that choose among groups.
    """
    check_merge(model.config, keep)
    layers = moe_layers(model, "merge-experts")
    frequency = expert_scores(model, sequences)["freq"]
    outputs = mean_outputs(model, sequences)
    mixtures, clusters = {}, {}
    for layer, moe in layers:
        found = _cluster(outputs[layer], kept_experts(moe.config.router, keep))
        weights = frequency[layer].clamp_min(1e-6)
        mixture = torch.zeros(len(found), len(weights), dtype=torch.float64)
        for row, members in enumerate(found):
            mixture[row, members] = weights[members] / weights[members].sum()
        mixtures[layer], clusters[layer] = mixture, found
    return with_mixtures(model, mixtures), clusters


@torch.no_grad()
def mean_outputs(model: Transformer, sequences: Sequences) -> dict[int, Tensor]:
    """Layer -> `(E, D)`: each expert's output averaged over all tokens, chosen for them or not."""
    layers = moe_layers(model, "surgery")
    sums: dict[int, Tensor] = {}
    for seen in watch(model, sequences):
        for layer, moe in layers:
            x_TD = seen.inputs[layer]
            each = [expert_output(moe, e, x_TD).double().sum(0) for e in range(moe.config.router.num_experts)]
            sums[layer] = sums.get(layer, torch.zeros(())) + torch.stack(each)
    return sums


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
