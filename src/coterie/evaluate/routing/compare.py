"""How a model routes by domain, and how far tuning moved it: two models on the same tokens.

T tokens, D width, K chosen experts per token, E experts, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from coterie.config import ConfigError
from coterie.data.heldout import HeldoutDocument
from coterie.evaluate.routing.trace import TracedText, require_experts, trace
from coterie.nn.load import load_statistics
from coterie.nn.logprobs import token_logprobs
from coterie.nn.router import Routing
from coterie.nn.transformer import Transformer
from coterie.results.routing import (
    ExpertPair,
    LayerDrift,
    LayerRouting,
    ModelRouting,
    RoutingDrift,
    RoutingRecord,
    specialisation,
)

_ROWS = 256  # tokens whose logits of both models are in memory at once
_PAIRS = 8
_NAMES: tuple[Literal["base", "tuned"], ...] = ("base", "tuned")


class _Tally:
    """Sums of one model: assignments by layer, domain and expert, pairs chosen together, nats by domain."""

    def __init__(self, sizes: Mapping[int, int], domains: Sequence[str]) -> None:
        self.domains = list(domains)
        self.counts = {layer: np.zeros((len(domains), size)) for layer, size in sizes.items()}
        self.pairs = {layer: np.zeros((size, size)) for layer, size in sizes.items()}
        self.nats = np.zeros(len(domains))
        self.predicted = np.zeros(len(domains))

    def add(self, model: Transformer, text: TracedText) -> None:
        row = self.domains.index(text.domain)
        for layer, routing in text.routing.items():
            size = self.counts[layer].shape[1]
            ids_TK = routing.ids_TK.cpu()
            self.counts[layer][row] += np.bincount(ids_TK.flatten().numpy(), minlength=size)
            chosen_TE = torch.zeros(ids_TK.shape[0], size).scatter_(1, ids_TK, 1.0)
            self.pairs[layer] += (chosen_TE.t() @ chosen_TE).double().numpy()
        keep_T = _predicted(text)
        if bool(keep_T.any()):
            targets_T = text.ids_T.roll(-1)[keep_T]
            logp_T = token_logprobs(text.h_TD[keep_T], model.head_weight, targets_T, cap=model.logit_cap)
            self.nats[row] -= float(logp_T.double().sum())
            self.predicted[row] += int(keep_T.sum())

    def summary(self) -> ModelRouting:
        nats = self.nats / np.maximum(1, self.predicted)
        return ModelRouting(
            layers={
                layer: layer_routing(counts, self.pairs[layer], self.domains)
                for layer, counts in self.counts.items()
            },
            nats_per_token=dict(zip(self.domains, nats.tolist(), strict=True)),
        )


def layer_routing(counts: np.ndarray, pairs: np.ndarray, domains: Sequence[str]) -> LayerRouting:
    """One layer's figures.

    `counts` (domains, E): assignments. `pairs` (E, E): tokens that chose both experts; on the diagonal, the
    expert.
    """
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    total = counts.sum(0)
    load = load_statistics(total.tolist())
    return LayerRouting(
        share=(total / total.sum()).tolist(),
        entropy=load.entropy,
        worst_overload=load.overload,
        max_vio=load.overload - 1,
        dead=list(load.dead),
        specialisation=specialisation(shares.tolist()),
        by_domain=dict(zip(domains, shares.tolist(), strict=True)),
        together=chosen_together(pairs),
    )


def chosen_together(pairs: np.ndarray) -> list[ExpertPair]:
    """The pairs of experts that most tokens chose together, most first. `pairs`: as in `layer_routing`."""
    tokens = np.diag(pairs)
    found = []
    for a in range(len(pairs)):
        for b in range(a + 1, len(pairs)):
            if pairs[a, b]:
                share = float(pairs[a, b] / min(tokens[a], tokens[b]))
                found.append(ExpertPair(a=a, b=b, tokens=int(pairs[a, b]), share=share))
    return sorted(found, key=lambda pair: (-pair.tokens, pair.a, pair.b))[:_PAIRS]


def overlap(a: Routing, b: Routing) -> Tensor:
    """(T,): share of the chosen experts that both routings chose."""
    same_TKK = a.ids_TK[:, :, None] == b.ids_TK[:, None, :]
    return same_TKK.sum((1, 2)).double() / max(a.ids_TK.shape[1], b.ids_TK.shape[1])


def weight_distance(a: Routing, b: Routing) -> Tensor:
    """(T,): total variation between two routings' weights of a token's experts, 0 (alike) to 1 (disjoint)."""
    spread = []
    for routing in (a, b):
        weights_TK = routing.weights_TK.double().abs()
        weights_TK = weights_TK / weights_TK.sum(1, keepdim=True).clamp_min(1e-30)
        spread.append(
            torch.zeros_like(routing.scores_TE, dtype=torch.float64).scatter_(1, routing.ids_TK, weights_TK)
        )
    return (spread[0] - spread[1]).abs().sum(1) / 2


def logit_kl(a: Transformer, a_TD: Tensor, b: Transformer, b_TD: Tensor) -> Tensor:
    """(T,): Kullback-Leibler divergence of `b`'s next-token distribution from `a`'s, in nats."""
    parts = []
    for h_a, h_b in zip(a_TD.split(_ROWS), b_TD.split(_ROWS), strict=True):
        p_TV, q_TV = a.logits(h_a).log_softmax(-1), b.logits(h_b).log_softmax(-1)
        parts.append((p_TV.exp() * (p_TV - q_TV)).sum(-1).clamp_min(0))
    return torch.cat(parts).double()


@torch.no_grad()
def routing_report(
    base: Transformer, documents: Sequence[HeldoutDocument], tuned: Transformer | None = None
) -> RoutingRecord:
    """How `base` and `tuned` route `documents`, and what differs between them token by token.

    Errors: `ConfigError` for dense models, or models whose experts or vocabularies do not match.
    """
    sizes = require_experts(base, "base")
    models = [base] if tuned is None else [base, tuned]
    if tuned is not None:
        _check_comparable(base, tuned, sizes)
    domains = list(dict.fromkeys(document.slice for document in documents))
    tallies = [_Tally(sizes, domains) for _ in models]
    tokens = dict.fromkeys(domains, 0)
    moved = _Moved(sizes, domains)
    for texts in trace(models, documents):
        tokens[texts[0].domain] += len(texts[0].ids_T)
        for tally, model, text in zip(tallies, models, texts, strict=True):
            tally.add(model, text)
        if tuned is not None:
            moved.add(base, texts[0], tuned, texts[1])
    return RoutingRecord(
        tokens=tokens,
        domains=domains,
        models={name: tally.summary() for name, tally in zip(_NAMES, tallies, strict=False)},
        drift=None if tuned is None else moved.summary(tokens),
    )


def _check_comparable(base: Transformer, tuned: Transformer, sizes: Mapping[int, int]) -> None:
    if require_experts(tuned, "tuned") != sizes:
        raise ConfigError(
            "routing: the two models have other experts in some layer; compare a model with its tuned form"
        )
    if tuned.config.vocab_size != base.config.vocab_size:
        raise ConfigError(
            "routing: the two models have different vocabularies; compare a model with its tuned form"
        )


class _Moved:
    """Sums over tokens of the differences between two models, by domain and layer."""

    def __init__(self, sizes: Mapping[int, int], domains: Sequence[str]) -> None:
        self.overlap = {layer: dict.fromkeys(domains, 0.0) for layer in sizes}
        self.distance = dict.fromkeys(sizes, 0.0)
        self.kl = dict.fromkeys(domains, 0.0)

    def add(self, base: Transformer, before: TracedText, tuned: Transformer, after: TracedText) -> None:
        domain = before.domain
        self.kl[domain] += float(logit_kl(base, before.h_TD, tuned, after.h_TD).sum())
        for layer, by_domain in self.overlap.items():
            a, b = before.routing[layer], after.routing[layer]
            by_domain[domain] += float(overlap(a, b).sum())
            self.distance[layer] += float(weight_distance(a, b).sum())

    def summary(self, tokens: Mapping[str, int]) -> RoutingDrift:
        """`tokens`: of each domain."""
        total = sum(tokens.values())
        layers = {
            layer: LayerDrift(
                overlap=sum(by_domain.values()) / total,
                weight_distance=self.distance[layer] / total,
                overlap_by_domain={domain: value / tokens[domain] for domain, value in by_domain.items()},
            )
            for layer, by_domain in self.overlap.items()
        }
        kl = {domain: value / tokens[domain] for domain, value in self.kl.items()}
        return RoutingDrift(layers=layers, logit_kl=kl)


def _predicted(text: TracedText) -> Tensor:
    """(T,) bool: positions whose next token is in the same row."""
    keep_T = torch.ones(len(text.ids_T), dtype=torch.bool, device=text.ids_T.device)
    keep_T[torch.tensor(text.lengths, device=keep_T.device).cumsum(0) - 1] = False
    return keep_T
