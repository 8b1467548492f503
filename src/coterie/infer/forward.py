"""One step of the engine: requests and token counts in, logits and routing out.

A request with one token to feed (and its draft), or a few of its prompt, takes the native step where its
model has one; the others, and all of models without, go through the module packed together.

Legend: T packed tokens, B requests whose next token is drawn, R rows to draw from, D width, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
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
    """What one token of each of some requests is drawn from: their logits and their routing."""

    requests: list[Request]
    logits_BV: Tensor
    routings: list[TokenRouting | None]


@dataclass
class DrawRows:
    """The rows of a pass that a request's tokens are drawn from: the first, and one for each drafted token.

    `row`: of the group, `at`: among the logits. `recorder`: what their group chose. `right`: how many turned
    out to follow tokens of the reply.
    """

    request: Request
    row: int
    count: int
    recorder: Recorder | None
    at: int = 0
    right: int = 0

    def routing(self, depth: int) -> TokenRouting | None:
        """Of one of the rows, if the request asked for it."""
        if self.recorder is None or not self.request.options.routing:
            return None
        return TokenRouting(self.recorder.chosen(self.row + depth))


class Pass:
    """The result of one pass: the rows of the requests whose tokens are all fed, with their logits.

    `seconds`: how long it took.
    """

    def __init__(self, expert_counts: dict[int, Tensor] | None) -> None:
        self._expert_counts = expert_counts
        self._rows: list[DrawRows] = []
        self._num_rows = 0
        self.seconds = 0.0
        self._logits: list[Tensor] = []

    def add(self, rows: list[DrawRows], logits_RV: Tensor | None, recorder: Recorder | None) -> None:
        """The rows of one group, and everything that it chose."""
        if recorder is not None and self._expert_counts is not None:
            drafted = [one.row + depth for one in rows for depth in range(1, one.count)]
            _count(recorder, self._expert_counts, drafted)
        if logits_RV is None:
            return
        for one in rows:
            one.at = self._num_rows
            self._num_rows += one.count
        self._rows += rows
        self._logits.append(logits_RV)

    def draws(self) -> Iterator[Fed]:
        """What to draw from, once for each request; again for those whose token was the next of their draft.

        The caller adds the tokens to their requests before it goes on. At the end the requests' caches hold
        the tokens of their replies alone.
        """
        if not self._rows:
            return
        logits_RV = torch.cat(self._logits) if len(self._logits) > 1 else self._logits[0]
        open_rows, depth = self._rows, 0
        while open_rows:
            at = [rows.at + depth for rows in open_rows]
            whole = len(at) == logits_RV.shape[0]
            routings = [rows.routing(depth) for rows in open_rows]
            yield Fed([rows.request for rows in open_rows], logits_RV if whole else logits_RV[at], routings)
            open_rows = [rows for rows in open_rows if rows.request.follows_draft()]
            depth += 1
            for rows in open_rows:
                rows.right = depth
        for rows in self._rows:
            if rows.count > 1:
                rows.request.settle()
            if rows.right and rows.recorder is not None and self._expert_counts is not None:
                _count(
                    rows.recorder, self._expert_counts, only=slice(rows.row + 1, rows.row + rows.right + 1)
                )


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
        of = native if steps_alone(*entry) else packed
        of.setdefault(entry[0].variant, []).append(entry)
    groups = []
    for variant, entries in native.items():
        plan = variant.plan
        assert not isinstance(plan, str)
        groups += [Group(variant, part, plan) for part in _parts(entries, plan.most)]
    for variant, entries in packed.items():
        parts = [[entry] for entry in entries] if deterministic else [entries]
        groups += [Group(variant, part) for part in parts]
    return groups


def _parts(entries: Feeding, most: int) -> Iterator[Feeding]:
    """The entries in order, in parts of at most `most` tokens."""
    part: Feeding = []
    size = 0
    for entry in entries:
        if size + entry[1] > most:
            yield part
            part, size = [], 0
        part.append(entry)
        size += entry[1]
    yield part


def steps_alone(request: Request, count: int) -> bool:
    """Whether the native step takes the request: a few tokens, routed as trained, not scored.

    They are one token and its draft, or a few of a prompt: the step reads these 1.1 to 8 times as fast as
    the module, but has one token of a sequence only where layers have a state.
    """
    if request.options.control or request.scored or isinstance(request.variant.plan, str):
        return False
    few = count <= request.variant.plan.most and not request.variant.model.config.has_states
    return few or count == 1 + len(request.draft)


@torch.inference_mode()
def feed(groups: Sequence[Group], expert_counts: dict[int, Tensor] | None = None) -> Pass:
    """Feed each group of requests; caches and prompt scores are updated.

    `expert_counts`: layer -> (E,) int64, to which the experts are added that the prompts and replies chose.
    """
    result, begun = Pass(expert_counts), time.monotonic()
    for group in groups:
        wanted = expert_counts is not None or any(request.options.routing for request, _ in group.feeding)
        recorder = Recorder() if wanted and group.variant.routers else None
        result.add(*(_stepped if group.plan is not None else _packed)(group, recorder), recorder)
    result.seconds = time.monotonic() - begun
    return result


# The rows to draw from of the requests whose tokens are all fed, and their logits (R, V).
Drawable = tuple[list[DrawRows], Tensor | None]


def _stepped(group: Group, recorder: Recorder | None) -> Drawable:
    """One token of each, and its draft, through the native step."""
    assert group.plan is not None
    ids: list[int] = []
    caches = []
    for request, count in group.feeding:
        ids += request.upcoming(count)
        caches += [request.cache] * count
    rows = _drawable(group.feeding, recorder)
    logits_RV = group.plan.step(ids, caches, _wanted(rows))
    if recorder is not None:
        recorder.routing.update(group.plan.routing(len(ids)))
    return rows, logits_RV if rows else None


def _packed(group: Group, recorder: Recorder | None) -> Drawable:
    """All tokens through the module; prompts that are scored are scored."""
    rows = _drawable(group.feeding, recorder)
    h_TD = _hidden(group.variant, group.feeding, recorder)
    start = 0
    for request, count in group.feeding:
        request.score_prompt(h_TD[start : start + count], request.cache.length - count)
        start += count
    return rows, group.variant.model.logits(_chosen(h_TD, rows)) if rows else None


def _drawable(feeding: Feeding, recorder: Recorder | None) -> list[DrawRows]:
    """The rows of requests whose tokens will all be fed, in order."""
    rows, end = [], 0
    for request, count in feeding:
        end += count
        drafted = len(request.draft)
        if request.cache.length + count == len(request.tokens) + drafted:
            rows.append(DrawRows(request, end - 1 - drafted, 1 + drafted, recorder))
    return rows


def _wanted(rows: list[DrawRows]) -> list[int]:
    """The numbers of the rows to draw from."""
    return [one.row + depth for one in rows for depth in range(one.count)]


def _chosen(h_TD: Tensor, rows: list[DrawRows]) -> Tensor:
    """The part of a pass's result that rows belong to, without a copy where it is all."""
    wanted = _wanted(rows)
    return h_TD if len(wanted) == h_TD.shape[0] else h_TD[wanted]


def _hidden(variant: Variant, group: Feeding, recorder: Recorder | None) -> Tensor:
    """(T, D): the next tokens of a group through the model, and into their caches."""
    device = variant.model.embed.weight.device
    ids: list[int] = []
    starts = [request.cache.length for request, _ in group]
    for request, count in group:
        ids += request.upcoming(count)
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


def _count(
    recorder: Recorder,
    counts: dict[int, Tensor],
    without: Sequence[int] = (),
    only: slice = slice(None),
) -> None:
    """Add the experts that tokens of a pass chose: those of `only`, but for some."""
    for layer, routing in recorder.routing.items():
        # In numpy, because PyTorch's operations on so few numbers would take as long as the layers.
        used_TK = routing.weights_TK.cpu().float().numpy() != 0
        if without:
            used_TK[without] = False
        chosen = routing.ids_TK.cpu().numpy()[only][used_TK[only]]
        of_layer = counts[layer].numpy()
        of_layer += np.bincount(chosen, minlength=len(of_layer))
