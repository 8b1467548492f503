"""One packed forward pass of the engine: requests and token counts in, logits and routing out.

Legend: T packed tokens, B requests whose next token is drawn, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from coterie.infer.request import Request, TokenRouting, Variant
from coterie.nn.forward_context import ForwardContext
from coterie.nn.recording import Recorder
from coterie.nn.steering import make_steers

Feeding = list[tuple[Request, int]]  # requests and how many of their tokens to feed


@dataclass(frozen=True)
class Fed:
    """The result of a pass: the requests whose tokens are all fed, what to draw from, and their routing."""

    requests: list[Request]
    logits_BV: Tensor
    routings: list[TokenRouting | None]


@torch.inference_mode()
def feed(groups: Sequence[Feeding], expert_counts: dict[int, Tensor] | None = None) -> Fed | None:
    """Feed each group of requests of one variant as one packed batch; caches and prompt scores are updated.

    `expert_counts`: layer -> (E,) int64, to which the chosen experts are added. Returns None when every
    request still has tokens to feed.
    """
    requests: list[Request] = []
    parts: list[Tensor] = []
    routings: list[TokenRouting | None] = []
    for group in groups:
        wanted = expert_counts is not None or any(request.options.routing for request, _ in group)
        variant = group[0][0].variant
        recorder = Recorder() if wanted and variant.routers else None
        h_TD = _hidden(variant, group, recorder)
        if recorder is not None and expert_counts is not None:
            _count(recorder, expert_counts)
        last_rows, start = [], 0
        for request, count in group:
            end = request.cache.length
            request.score_prompt(h_TD[start : start + count], end - count)
            start += count
            if end == len(request.tokens):
                requests.append(request)
                last_rows.append(start - 1)
                routed = recorder is not None and request.options.routing
                routings.append(TokenRouting(recorder.chosen(start - 1)) if recorder and routed else None)
        if last_rows:
            whole = len(last_rows) == h_TD.shape[0]  # the usual step: one token of each, no copy needed
            parts.append(variant.model.logits(h_TD if whole else h_TD[last_rows]))
    if not requests:
        return None
    return Fed(requests, torch.cat(parts) if len(parts) > 1 else parts[0], routings)


def _hidden(variant: Variant, group: Feeding, recorder: Recorder | None) -> Tensor:
    """(T, D): the next tokens of a group through the model, and into their caches."""
    device = variant.model.embed.weight.device
    ids: list[int] = []
    starts = [request.cache.length for request, _ in group]
    for (request, count), start in zip(group, starts, strict=True):
        ids += request.tokens[start : start + count]
    controls = [(request.options.control, count) for request, count in group]
    context = ForwardContext.packed(
        [count for _, count in group],
        starts,
        device=device,
        steers=make_steers(variant.routers, controls, device),
        recorder=recorder,
        planned=tuple(len(request.tokens) for request, _ in group),
    )
    caches = [request.cache for request, _ in group]
    h_TD: Tensor = variant.model(torch.tensor(ids, device=device), context, caches=caches)
    return h_TD


def _count(recorder: Recorder, expert_counts: dict[int, Tensor]) -> None:
    for layer, routing in recorder.routing.items():
        chosen = routing.ids_TK[routing.weights_TK != 0]
        expert_counts[layer] += torch.bincount(chosen, minlength=len(expert_counts[layer])).cpu()
