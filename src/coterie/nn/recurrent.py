"""What mixers with a state share: the state of each sequence, chunks of segments, and parameters in float32.

T tokens, C channels, N chunks of L tokens, B segments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from coterie.config.mixers import CHUNK
from coterie.nn.attention import KeptState, KeyValueCache
from coterie.nn.forward_context import ForwardContext

# They decide over many steps how fast a state decays: bfloat16 would change the decay after a few hundred.
# Some published files have the norm in float32 too; a model of mixed types would be kept in float32 whole.
FLOAT32 = ("A_log", "dt_bias", "skip", "norm.weight")


class RecurrentMixer(nn.Module):
    """Base of the mixers with a state: a change of the model's type leaves `FLOAT32` parameters alone."""

    def initial(self, name: str, generator: torch.Generator) -> Tensor | None:
        """Fresh values of the parameter `name`; None: as other matrices."""
        return None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RecurrentMixer:
        exact = {name: p.data for name, p in self.named_parameters() if name in FLOAT32}
        super()._apply(fn, recurse)
        for name, parameter in self.named_parameters():
            if name in exact and parameter.dtype != exact[name].dtype:
                parameter.data = exact[name].to(parameter.device)
        return self


@dataclass(frozen=True, eq=False)
class Chunks:
    """Segments cut into chunks of L tokens, the last of each padded at its end.

    All first chunks come first, then all second ones; within each, longer segments come first. So the step
    over the i-th chunks works on `sizes[i]` neighbouring chunks, whose states are the first of all states.
    `gather_P`: the token at each of the N L places; T for padding. `place_T`: the place of each token.
    `order_B`: the segments by descending length. `rank_B`: each segment's place in that order.
    """

    length: int
    sizes: tuple[int, ...]
    gather_P: Tensor
    place_T: Tensor
    order_B: Tensor
    rank_B: Tensor

    @staticmethod
    def of(context: ForwardContext) -> Chunks:
        """Those of a pass, made once per context."""
        if "chunks" not in context.memo:
            context.memo["chunks"] = _make_chunks(context.lengths, context.positions_T.device)
        chunks: Chunks = context.memo["chunks"]
        return chunks

    def split(self, x: Tensor) -> Tensor:
        """(T, ...) as (N, L, ...), with zeros as padding."""
        padded = torch.cat((x, x.new_zeros((1, *x.shape[1:]))))
        return padded.index_select(0, self.gather_P).unflatten(0, (-1, self.length))

    def join(self, x: Tensor) -> Tensor:
        """(N, L, ...) as (T, ...)."""
        return x.flatten(0, 1).index_select(0, self.place_T)

    def scan(
        self, state_B: Tensor, step: Callable[[slice, Tensor], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Carry states through the chunks: (result of all chunks (N, ...), states after the last).

        `step(chunks, states)` gives the results of these chunks and the states after them.
        """
        state = state_B.index_select(0, self.order_B)
        results, done, offset = [], [], 0
        for size in self.sizes:
            if size < len(state):
                done.append(state[size:])
                state = state[:size]
            result, state = step(slice(offset, offset + size), state)
            results.append(result)
            offset += size
        done.append(state)
        return torch.cat(results), torch.cat(done[::-1]).index_select(0, self.rank_B)


def _make_chunks(lengths: Sequence[int], device: torch.device) -> Chunks:
    longest = max(lengths, default=0)
    length = CHUNK if longest >= CHUNK else max(1, longest)
    starts, start = [], 0
    for size in lengths:
        starts.append(start)
        start += size
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    gather: list[int] = []
    place = torch.zeros(start, dtype=torch.int64)
    sizes = []
    for first in range(0, longest, length):
        active = [i for i in order if lengths[i] > first]
        sizes.append(len(active))
        for i in active:
            begin, end = starts[i] + first, starts[i] + min(first + length, lengths[i])
            place[begin:end] = torch.arange(len(gather), len(gather) + end - begin)
            gather += [*range(begin, end), *[start] * (length - (end - begin))]
    rank = torch.empty(len(order), dtype=torch.int64)
    rank[torch.tensor(order, dtype=torch.int64)] = torch.arange(len(order))
    tensors: Any = (torch.tensor(gather, dtype=torch.int64), place, torch.tensor(order), rank)
    return Chunks(length, tuple(sizes), *(tensor.to(device) for tensor in tensors))


class Carried:
    """The states of one layer, one per segment of a pass, before it and after it.

    `tails`: the first part of each, for the convolution; None without caches, where nothing is kept.
    """

    def __init__(self, caches: Sequence[KeyValueCache] | None, layer: int, context: ForwardContext) -> None:
        self._kept: list[KeptState] = [] if caches is None else [cache.state(layer) for cache in caches]
        before = [one.read() for one in self._kept]
        self._matrices = [None if state is None else state[-1] for state in before]
        self._matrices = self._matrices or [None] * len(context.lengths)
        self.tails = None if caches is None else [None if state is None else state[0] for state in before]
        self.single = caches is not None and set(context.lengths) == {1}

    def matrices(self, like: Tensor, *shape: int) -> Tensor:
        """(B, H, ...) the last part of each state, zeros at the start of a sequence."""
        return torch.stack([like.new_zeros(shape) if one is None else one for one in self._matrices])

    def keep(self, tails: Sequence[Tensor], matrices: Tensor | None = None) -> None:
        """Hand in the states after the pass."""
        for index, one in enumerate(self._kept):
            one.write((tails[index],) if matrices is None else (tails[index], matrices[index]))


def decays(log_decay_TH: Tensor, chunks: Chunks) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """How much is left within chunks: from token to token (N, H, L, L), from the start and to the end.

    These two are (N, H, L, 1). The last result is that of the whole chunk, (N, H, 1, 1).
    """
    g_NHL = chunks.split(log_decay_TH).transpose(1, 2).cumsum(-1)
    above_LL = torch.ones(chunks.length, chunks.length, dtype=torch.bool, device=g_NHL.device).triu(1)
    # Masked before exp: above the diagonal it would overflow.
    pairs_NHLL = (g_NHL[..., :, None] - g_NHL[..., None, :]).masked_fill(above_LL, -torch.inf).exp()
    last_NH1 = g_NHL[..., -1:]
    start_NHL1, end_NHL1 = g_NHL.exp().unsqueeze(-1), (last_NH1 - g_NHL).exp().unsqueeze(-1)
    return pairs_NHLL, start_NHL1, end_NHL1, last_NH1.exp().unsqueeze(-1)
