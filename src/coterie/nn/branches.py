"""Segments that continue another one, as the replies to a prompt do: what they share is computed once.

Everything but attention works on single tokens, so it is computed once for the shared ones. Attention is
given whole sequences instead: the shared tokens again before each continuation.

T packed tokens, P tokens of the whole sequences.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from coterie.config.mixers import STATE_MIXERS
from coterie.config.model import ModelConfig
from coterie.nn.forward_context import ForwardContext


@dataclass(frozen=True, eq=False)
class Branches:
    """`context`: of the whole sequences. `gather_P`: the token at each of their places.

    `place_T`: the first place of each token. `further`: pairs of different tokens and their next places, as
    often as a token has places.
    """

    context: ForwardContext
    gather_P: Tensor
    place_T: Tensor
    further: tuple[tuple[Tensor, Tensor], ...]

    def spread(self, x_T: Tensor) -> Tensor:
        """(P, ...): a value of each token at all its places."""
        spread: Tensor = _Spread.apply(x_T, self)
        return spread

    def collect(self, y_P: Tensor) -> Tensor:
        """(T, ...): what the first place of each token has; the others have the same."""
        return y_P.index_select(0, self.place_T)


def branches_of(context: ForwardContext) -> Branches:
    """How to get from the packed tokens to whole sequences and back; worked out once per batch."""
    if "branches" not in context.memo:
        context.memo["branches"] = _make(context)
    found: Branches = context.memo["branches"]
    return found


def can_branch(config: ModelConfig) -> bool:
    """Whether a model reads other tokens by attention alone, and rotates by positions alone.

    A mixer with a state would need copies of it, and `longrope` asks how long each sequence is.
    """
    states = any(isinstance(block.attention, STATE_MIXERS) for block in config.blocks)
    return not states and config.rope_switch is None


def _make(context: ForwardContext) -> Branches:
    assert context.continues is not None
    ends = list(accumulate(context.lengths))
    spans = [list(range(end - length, end)) for end, length in zip(ends, context.lengths, strict=True)]
    continued = set(context.continues)
    sequences = [
        (spans[before] if before >= 0 else []) + spans[number]
        for number, before in enumerate(context.continues)
        if number not in continued
    ]
    gather = [token for sequence in sequences for token in sequence]
    places: dict[int, list[int]] = {}
    for place, token in enumerate(gather):
        places.setdefault(token, []).append(place)
    rounds = max(map(len, places.values()), default=1)
    device = context.positions_T.device

    def tensor(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=device)

    further = []
    for turn in range(1, rounds):
        pairs = [(token, found[turn]) for token, found in places.items() if len(found) > turn]
        further.append((tensor([token for token, _ in pairs]), tensor([place for _, place in pairs])))
    gather_P = tensor(gather)
    whole = replace(
        context,
        positions_T=context.positions_T.index_select(0, gather_P),
        lengths=tuple(map(len, sequences)),
        valid_T=None,
        counted_T=None,
        continues=None,
        memo={},
    )
    first = tensor([places[token][0] for token in range(context.num_tokens)])
    return Branches(whole, gather_P, first, tuple(further))


class _Spread(torch.autograd.Function):
    """`x[gather_P]`. Its gradient adds the places of a token in their order, so it is always the same."""

    @staticmethod
    def forward(ctx: Any, x_T: Tensor, branches: Branches) -> Tensor:
        ctx.branches = branches
        return x_T.index_select(0, branches.gather_P)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad_T = grads[0].index_select(0, ctx.branches.place_T)
        for tokens_N, places_N in ctx.branches.further:
            grad_T.index_add_(0, tokens_N, grads[0].index_select(0, places_N))
        return grad_T, None
