"""A model's decoding step as one native call: made once, run for every token.

Legend: T tokens, one or several of each sequence; D width, V vocabulary, H query heads.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import groupby
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from coterie.jit.openmp import thread_functions
from coterie.native import layout
from coterie.native.lowering import Lowering
from coterie.native.runner import run
from coterie.native.threads import StepThreads
from coterie.nn.router import Routing
from coterie.nn.transformer import Transformer

# More go through the module faster: with this many, a step reads nearly all experts of a mixture once.
MOST_TOKENS = 32
_MOST_ON_DISK = 16  # tokens whose experts must have places in memory together
_FIRST_CAPACITY = 256


class KeptRows(Protocol):
    """The keys and values of one layer of one sequence, written in place."""

    def extend(self, keys: Tensor, values: Tensor) -> tuple[int, int, int]:
        """Make room for rows like these: addresses of keys and values, rows with the new ones."""
        ...


class KeptSequence(Protocol):
    """What one sequence keeps; `infer.cache.SequenceCache`."""

    long: bool

    @property
    def length(self) -> int:
        """Tokens seen."""
        ...

    def layer(self, index: int) -> KeptRows:
        """The keys and values of a layer."""
        ...

    def turn_state(self, index: int, like: Sequence[Tensor]) -> list[int]:
        """The addresses of a layer's state, which the step turns into the next one in place."""
        ...

    def advance(self, num_tokens: int) -> None:
        """Count new tokens."""
        ...


class NativePlan:
    """The native form of one model. It reads the model's weights where they are.

    A plan serves one thread at a time.
    """

    def __init__(self, model: Transformer, most: int = MOST_TOKENS) -> None:
        self.most = most = most if model.store is None else min(most, _MOST_ON_DISK)
        lowered = Lowering(model, most)
        self._lowered, self._program, self._shared = lowered, lowered.program, lowered.shared
        self._logits_TV = lowered.logits_TV
        self._heads = max((attention.num_heads for attention in model.config.attentions), default=1)
        self._templates = [
            (layer, self._template(model, keys), self._template(model, values))
            for layer, keys, values in self._shared.kept
        ]
        self._state_templates = [
            (layer, [torch.empty(shape) for shape in parts]) for layer, parts in self._shared.states
        ]
        self._table = self._program.table()
        self._scores = torch.empty(0, self._heads, 0)
        self.threads = StepThreads()
        self._make_context()
        self._model, self._weights = model, _addresses(model)

    def _template(self, model: Transformer, shape: tuple[int, ...]) -> list[Tensor]:
        """One, two ... new rows of a cache, without memory."""
        row = torch.empty(1, *shape, dtype=model.compute_dtype)
        return [row.expand(count, *shape) for count in range(1, self.most + 1)]

    def _make_context(self) -> None:
        most = self.most
        self._ids, self._positions, self._long = (np.zeros(most, np.int64) for _ in range(3))
        self._kept = np.zeros((max(1, len(self._templates)) * most, 3), np.int64)
        self._states = np.zeros(max(1, len(self._state_templates)) * most * 2, np.int64)
        self._context = np.zeros(layout.CONTEXT, np.int64)
        fields = {
            layout.IDS: self._ids.ctypes.data,
            layout.POSITIONS: self._positions.ctypes.data,
            layout.LONG: self._long.ctypes.data,
            layout.KEPT: self._kept.ctypes.data,
            layout.STATES: self._states.ctypes.data,
        }
        functions = thread_functions()
        if functions is not None:
            fields[layout.WAIT], fields[layout.WHO] = functions[1:]
        for index, value in fields.items():
            self._context[index] = value

    @property
    def kinds(self) -> frozenset[int]:
        """How the weights of products are stored."""
        return frozenset(self._program.kinds)

    @property
    def stored(self) -> str:
        """The same for people, for example `bf16, int4`."""
        return self._lowered.stored

    def is_current(self) -> bool:
        """Whether the model's weights are where the plan reads them, and copies of them still right."""
        return self._program.copies_are_current() and _addresses(self._model) == self._weights

    @torch.inference_mode()
    def step(
        self, ids: Sequence[int], caches: Sequence[KeptSequence], wanted: Sequence[int] | None = None
    ) -> Tensor:
        """Scores (T, V), float32, after each of at most `most` tokens, `ids[i]` of the sequence `caches[i]`.

        `wanted`: after these tokens only (W, V). Several tokens of one sequence follow each other, in order.
        Their caches take the tokens in. An interrupted step leaves them as an interrupted forward pass does.
        """
        num_tokens = len(ids)
        assert 0 < num_tokens == len(caches) <= self.most, "a step takes a few tokens, each of a sequence"
        runs = [(cache, len(list(same))) for cache, same in groupby(caches)]
        assert not self._state_templates or len(runs) == num_tokens, "a state takes one token of a sequence"
        # Numbers go through numpy: torch's indexing costs ten times as much.
        self._ids[:num_tokens] = ids
        self._positions[:num_tokens] = [cache.length + each for cache, count in runs for each in range(count)]
        self._long[:num_tokens] = [cache.long for cache in caches]
        states: list[int] = []
        for layer, parts in self._state_templates:
            for cache in caches:
                states += (*cache.turn_state(layer, parts), 0)[:2]
        self._states[: len(states)] = states
        entries: list[tuple[int, int, int]] = []
        for layer, keys, values in self._templates:
            for cache, count in runs:
                at, values_at, kept = cache.layer(layer).extend(keys[count - 1], values[count - 1])
                entries += [(at, values_at, kept - later) for later in range(count - 1, -1, -1)]
        if entries:
            self._kept[: len(entries)] = entries
            self._make_room(num_tokens, max(count for _, _, count in entries))
        self._context[layout.TOKENS] = num_tokens
        threads = self.threads.choose(num_tokens)
        self._context[layout.THREADS] = threads
        begun = time.monotonic()
        some = wanted is not None and len(wanted) < num_tokens
        with self._model.store or nullcontext():
            self._run(0, self._lowered.head if some else len(self._table))
        if some and wanted:
            self._context[layout.TOKENS] = len(wanted)
            self._lowered.h_TD[: len(wanted)] = self._lowered.h_TD[list(wanted)]
            self._run(self._lowered.head, len(self._table))
        self.threads.note(threads, num_tokens, time.monotonic() - begun)
        for cache, count in runs:
            cache.advance(count)
        return self._logits_TV[: num_tokens if wanted is None else len(wanted)].clone()

    def _run(self, first: int, last: int) -> None:
        """Operations from `first` to `last` (exclusive)."""
        self._context[layout.OPS] = self._table.data_ptr() + first * self._table.stride(0) * 8
        self._context[layout.NUM_OPS] = last - first
        run(self._context.ctypes.data)

    def _make_room(self, num_tokens: int, count: int) -> None:
        """Room for the scores of `count` keys of each sequence."""
        tokens, _, capacity = self._scores.shape
        if num_tokens > tokens or count > capacity:
            wanted = max(capacity, _FIRST_CAPACITY, 2 * count) if count > capacity else capacity
            self._scores = torch.empty(max(num_tokens, tokens), self._heads, wanted)
            self._context[layout.SCORES] = self._scores.data_ptr()
            self._context[layout.CAPACITY] = self._scores.shape[2]

    def routing(self, num_tokens: int) -> dict[int, Routing]:
        """The choices of the last step by layer."""
        return {layer: choices.of(num_tokens) for layer, choices in self._lowered.choices.items()}


def _addresses(model: Transformer) -> list[int]:
    return [tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())]
