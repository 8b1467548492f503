"""How a model routes, domain by domain, and how far tuning moved it: two models on the same tokens.

T tokens, K chosen experts per token, E experts, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coterie.config import ConfigError
from coterie.data.heldout import HeldoutDocument
from coterie.evaluate.routing.trace import Piece, require_experts, trace
from coterie.nn.logprobs import token_logprobs
from coterie.nn.router import Routing
from coterie.nn.transformer import Transformer
from coterie.report.routing import specialisation

_ROWS = 256
_PAIRS = 8


class _Tally:
    """Sums of one model: assignments by layer, domain and expert, pairs chosen together, nats of the next
    tokens.
    """

    def __init__(self, sizes: dict[int, int], domains: Sequence[str]) -> None:
        self.domains = list(domains)
        self.counts = {layer: np.zeros((len(domains), size)) for layer, size in sizes.items()}
        self.pairs = {layer: np.zeros((size, size)) for layer, size in sizes.items()}
        self.nats = np.zeros(len(domains))
        self.predicted = np.zeros(len(domains))

    def add(self, model: Transformer, piece: Piece) -> None:
        row = self.domains.index(piece.domain)
        for layer, routing in piece.routing.items():
            size = self.counts[layer].shape[1]
            ids_TK = routing.ids_TK.cpu()
            self.counts[layer][row] += np.bincount(ids_TK.flatten().numpy(), minlength=size)
            chosen_TE = torch.zeros(ids_TK.shape[0], size).scatter_(1, ids_TK, 1.0)
            self.pairs[layer] += (chosen_TE.t() @ chosen_TE).double().numpy()
        keep_T = _predicted(piece)
        if bool(keep_T.any()):
            targets_T = piece.ids_T.roll(-1)[keep_T]
            logp_T = token_logprobs(piece.h_TD[keep_T], model.head_weight, targets_T)
            self.nats[row] -= float(logp_T.double().sum())
            self.predicted[row] += int(keep_T.sum())

    def summary(self) -> dict[str, Any]:
        layers = {
            str(layer): _layer(counts, self.pairs[layer], self.domains)
            for layer, counts in self.counts.items()
        }
        nats = {
            domain: float(n / max(1, m))
            for domain, n, m in zip(self.domains, self.nats, self.predicted, strict=True)
        }
        return {"layers": layers, "nats_per_token": nats}


def _layer(counts: np.ndarray, pairs: np.ndarray, domains: list[str]) -> dict[str, Any]:
    """One layer's figures from its assignments (domains x experts)."""
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    total = counts.sum(0)
    share, size = total / total.sum(), len(total)
    present = share[share > 0]
    entropy = float(-(present * np.log(present)).sum() / np.log(size)) if size > 1 else 1.0
    return {
        "share": share.tolist(),
        "entropy": entropy,
        "worst_overload": float(share.max() * size),
        "max_vio": float(share.max() * size - 1),
        "dead": [int(expert) for expert in np.flatnonzero(total == 0)],
        "specialisation": specialisation(shares.tolist()),
        "by_domain": dict(zip(domains, shares.tolist(), strict=True)),
        "together": _together(pairs),
    }


def _together(pairs: np.ndarray) -> list[dict[str, float]]:
    """The pairs of experts that most tokens chose together; `share`: of the tokens that chose the rarer of
    the two.
    """
    tokens = np.diag(pairs)
    found = []
    for a in range(len(pairs)):
        for b in range(a + 1, len(pairs)):
            if pairs[a, b]:
                both = float(pairs[a, b] / min(tokens[a], tokens[b]))
                found.append({"a": a, "b": b, "tokens": int(pairs[a, b]), "share": both})
    return sorted(found, key=lambda pair: (-pair["tokens"], pair["a"], pair["b"]))[:_PAIRS]


def overlap(a: Routing, b: Routing) -> Tensor:
    """(T,): share of the chosen experts that both routings chose."""
    same_TKK = a.ids_TK[:, :, None] == b.ids_TK[:, None, :]
    return same_TKK.sum((1, 2)).double() / max(a.ids_TK.shape[1], b.ids_TK.shape[1])


def weight_distance(a: Routing, b: Routing) -> Tensor:
    """(T,): total variation between how two routings spread a token over experts, 0 (alike) to 1
    (disjoint).
    """
    spread = []
    for routing in (a, b):
        weights_TK = routing.weights_TK.double().abs()
        weights_TK = weights_TK / weights_TK.sum(1, keepdim=True).clamp_min(1e-30)
        spread.append(
            torch.zeros_like(routing.scores_TE, dtype=torch.float64).scatter_(1, routing.ids_TK, weights_TK)
        )
    return (spread[0] - spread[1]).abs().sum(1) / 2


def logit_kl(a: Transformer, a_TD: Tensor, b: Transformer, b_TD: Tensor) -> Tensor:
    """(T,): divergence of `b`'s next-token distribution from `a`'s (Kullback-Leibler, nats, the whole
    vocabulary).
    """
    parts = []
    for h_a, h_b in zip(a_TD.split(_ROWS), b_TD.split(_ROWS), strict=True):
        p_TV, q_TV = a.logits(h_a).log_softmax(-1), b.logits(h_b).log_softmax(-1)
        parts.append((p_TV.exp() * (p_TV - q_TV)).sum(-1).clamp_min(0))
    return torch.cat(parts).double()


@torch.no_grad()
def routing_report(
    base: Transformer, documents: Sequence[HeldoutDocument], tuned: Transformer | None = None
) -> dict[str, Any]:
    """`{tokens, models: {base, tuned}, drift}` in JSON types; `drift` compares on the same tokens, layer by
    layer.

    Of a model, by layer: share per expert, entropy (1 when even), worst overload (largest share over the
    mean) and MaxVio (that minus 1), dead experts, specialisation, shares by domain and experts chosen
    together; nats per token by domain. Of the pair: overlap of chosen experts (saturation) and distance of
    their weights by layer and domain, and the divergence of the logits by domain. Errors: `ConfigError` for
    dense models or ones whose layers do not match.
    """
    sizes = require_experts(base, "base")
    models = [base] if tuned is None else [base, tuned]
    if tuned is not None and require_experts(tuned, "tuned") != sizes:
        raise ConfigError(
            "routing: the two models have other experts in some layer; compare a model with its tuned form"
        )
    if tuned is not None and tuned.config.vocab_size != base.config.vocab_size:
        raise ConfigError(
            "routing: the two models have different vocabularies; compare a model with its tuned form"
        )
    domains = list(dict.fromkeys(document.slice for document in documents))
    tallies = [_Tally(require_experts(model, "model"), domains) for model in models]
    tokens = dict.fromkeys(domains, 0)
    sums = {domain: {layer: np.zeros(2) for layer in sizes} for domain in domains}
    kl = dict.fromkeys(domains, 0.0)
    for pieces in trace(models, documents):
        domain = pieces[0].domain
        tokens[domain] += len(pieces[0].ids_T)
        for tally, model, piece in zip(tallies, models, pieces, strict=True):
            tally.add(model, piece)
        if tuned is not None:
            kl[domain] += float(logit_kl(base, pieces[0].h_TD, tuned, pieces[1].h_TD).sum())
            for layer in sizes:
                a, b = pieces[0].routing[layer], pieces[1].routing[layer]
                sums[domain][layer] += (float(overlap(a, b).sum()), float(weight_distance(a, b).sum()))
    names = ("base", "tuned")
    result: dict[str, Any] = {"format": 1, "tokens": tokens, "domains": domains}
    result["models"] = {name: tally.summary() for name, tally in zip(names, tallies, strict=False)}
    if tuned is not None:
        result["drift"] = _drift(sums, tokens) | {
            "logit_kl": {domain: kl[domain] / tokens[domain] for domain in domains}
        }
    return result


def _drift(sums: dict[str, dict[int, np.ndarray]], tokens: dict[str, int]) -> dict[str, Any]:
    layers = next(iter(sums.values()))
    total = sum(tokens.values())
    return {
        "layers": {
            str(layer): {
                "overlap": float(sum(sums[domain][layer][0] for domain in sums) / total),
                "weight_distance": float(sum(sums[domain][layer][1] for domain in sums) / total),
                "overlap_by_domain": {
                    domain: float(sums[domain][layer][0] / tokens[domain]) for domain in sums
                },
            }
            for layer in layers
        }
    }


def _predicted(piece: Piece) -> Tensor:
    """(T,) bool: positions whose next token stands in the same row."""
    keep_T = torch.ones(len(piece.ids_T), dtype=torch.bool, device=piece.ids_T.device)
    keep_T[torch.tensor(piece.lengths, device=keep_T.device).cumsum(0) - 1] = False
    return keep_T
