"""One step of the engine: requests and token counts in, logits and routing out.

A request with one token to feed takes the native step where its model has one; the others, and all of models
without, go through the module packed together.

Legend: T packed tokens, B requests whose next token is drawn, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from coterie.infer.request import Request, TokenRouting
from coterie.infer.variant import Variant
from coterie.nn.forward_context import ForwardContext
from coterie.nn.recording import Recorder
from coterie.nn.steering import make_steers

if TYPE_CHECKING:
    from coterie.native.plan import NativePlan

Feeding = list[tuple[Request, int]]  # requests and how many of their tokens to feed


@dataclass(frozen=True)
class Fed:
    """The result of a pass: the requests whose tokens are all fed, what to draw from, and their routing."""

    requests: list[Request]
    logits_BV: Tensor
    routings: list[TokenRouting | None]


@dataclass(frozen=True)
class Group:
    """Requests of one variant that are fed together, through `plan` where there is one."""

    variant: Variant
    feeding: Feeding
    plan: NativePlan | None = None


def grouped(feeding: Feeding, deterministic: bool = False) -> list[Group]:
    """The groups of one step.

    With `deterministic`, sequences share a native step, whose results do not depend on it, and go through the
    module alone.
    """
    native: dict[Variant, Feeding] = {}
    packed: dict[Variant, Feeding] = {}
    for entry in feeding:
        of = native if _steps_alone(*entry) else packed
        of.setdefault(entry[0].variant, []).append(entry)
    groups = []
    for variant, entries in native.items():
        plan = variant.plan
        assert not isinstance(plan, str)
        for start in range(0, len(entries), plan.most):
            groups.append(Group(variant, entries[start : start + plan.most], plan))
    for variant, entries in packed.items():
        parts = [[entry] for entry in entries] if deterministic else [entries]
        groups += [Group(variant, part) for part in parts]
    return groups


def _steps_alone(request: Request, count: int) -> bool:
    """Whether the native step takes the request: one token, routed as trained, that is not scored."""
    plain = count == 1 and not request.options.control and not request.scored
    return plain and not isinstance(request.variant.plan, str)


@torch.inference_mode()
def feed(groups: Sequence[Group], expert_counts: dict[int, Tensor] | None = None) -> Fed | None:
    """Feed each group of requests; caches and prompt scores are updated.

    `expert_counts`: layer -> (E,) int64, to which the chosen experts are added. Returns None when every
    request still has tokens to feed.
    """
    requests: list[Request] = []
    parts: list[Tensor] = []
    routings: list[TokenRouting | None] = []
    for group in groups:
        wanted = expert_counts is not None or any(request.options.routing for request, _ in group.feeding)
        recorder = Recorder() if wanted and group.variant.routers else None
        rows, logits = (_stepped if group.plan is not None else _packed)(group, recorder)
        if recorder is not None and expert_counts is not None:
            _count(recorder, expert_counts)
        for request, row in rows:
            routed = recorder is not None and request.options.routing
            requests.append(request)
            routings.append(TokenRouting(recorder.chosen(row)) if recorder and routed else None)
        if logits is not None:
            parts.append(logits)
    if not requests:
        return None
    return Fed(requests, torch.cat(parts) if len(parts) > 1 else parts[0], routings)


# The requests whose tokens are all fed, with their row among the group's, and what to draw from (B, V).
Rows = tuple[list[tuple[Request, int]], Tensor | None]


def _stepped(group: Group, recorder: Recorder | None) -> Rows:
    """One token of each through the native step."""
    requests = [request for request, _ in group.feeding]
    assert group.plan is not None
    logits_TV = group.plan.step(
        [request.tokens[request.cache.length] for request in requests],
        [request.cache for request in requests],
    )
    if recorder is not None:
        recorder.routing.update(group.plan.routing(len(requests)))
    drawn = [row for row, request in enumerate(requests) if request.cache.length == len(request.tokens)]
    if not drawn:
        return [], None
    logits = logits_TV if len(drawn) == len(requests) else logits_TV[drawn]
    return [(requests[row], row) for row in drawn], logits


def _packed(group: Group, recorder: Recorder | None) -> Rows:
    """All tokens through the module; prompts that are scored are scored."""
    h_TD = _hidden(group.variant, group.feeding, recorder)
    rows, start = [], 0
    for request, count in group.feeding:
        end = request.cache.length
        request.score_prompt(h_TD[start : start + count], end - count)
        start += count
        if end == len(request.tokens):
            rows.append((request, start - 1))
    if not rows:
        return [], None
    whole = len(rows) == h_TD.shape[0]  # the usual step: one token of each, no copy needed
    return rows, group.variant.model.logits(h_TD if whole else h_TD[[row for _, row in rows]])


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
