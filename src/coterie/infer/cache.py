"""The key/value cache of one sequence: what each layer may still need in later forward passes.

Legend: T new tokens, S kept positions (old and new), G key/value heads, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from coterie.config import AttentionConfig, CoterieError, MLAConfig, ModelConfig

_FIRST_CAPACITY = 64


@dataclass
class SequenceLength:
    """How many tokens of a sequence have been seen, shared by its layers.

    It is a separate object so that layers do not refer back to their sequence: buffers in a reference cycle
    would stay alive until Python's cyclic collector runs, in a large process after a thousand requests.
    """

    length: int = 0


class LayerCache:
    """Keys and values of one layer, position order, in two growable buffers.

    The kept entries are the slice `[low, high)` of the buffers and belong to consecutive positions. Entries
    that no later query can see are skipped by moving `low` and overwritten when the buffer is full. So one
    decoded token writes one row whatever the length, apart from an occasional move or doubling. Latent
    attention stores its latent as the single head of the keys and its rotated key as that of the values;
    their widths may differ.
    """

    def __init__(self, attention: AttentionConfig | MLAConfig, seen: SequenceLength) -> None:
        self._mask = attention.mask
        self._window = attention.window or 0
        self._seen = seen
        self._keys = torch.empty(0)
        self._values = self._keys
        self._low = 0
        self._high = 0
        self._end = 0  # position after the last kept one

    @property
    def num_kept(self) -> int:
        """Positions held, each one row of keys and one of values."""
        return self._high - self._low

    @property
    def num_bytes(self) -> int:
        """Bytes of the two buffers, spare capacity included."""
        return self._keys.nbytes + self._values.nbytes

    def append(self, k_TGD: Tensor, v_TGD: Tensor) -> tuple[Tensor, Tensor, int]:
        """Store the new tokens' keys and values; return (k_SGD, v_SGD, position of the first kept key).

        The new tokens are at positions `SequenceLength.length ...`, which `advance` moves on after the
        last layer. The results are views, good until the next append. Use under `torch.inference_mode` or
        `torch.no_grad`.
        """
        position = self._seen.length
        num_new = k_TGD.shape[0]
        # An earlier forward pass was interrupted before `advance`: drop its rows.
        if self._end != position:
            self.truncate(position)
        if self._mask != "causal":
            self._low += max(0, self.first_needed(position) - (position - self.num_kept))
        high = self._high + num_new
        if high > self._keys.shape[0]:
            self._make_room(num_new, k_TGD, v_TGD)
            high = self._high + num_new
        low = self._low
        self._keys[self._high : high] = k_TGD
        self._values[self._high : high] = v_TGD
        self._high = high
        self._end = end = position + num_new
        return self._keys[low:high], self._values[low:high], end - (high - low)

    def first_needed(self, position: int) -> int:
        """The earliest position that a query at `position` or later can see."""
        if self._mask == "sliding":
            return max(0, position - self._window + 1)
        if self._mask == "chunked":
            return position - position % self._window
        return 0

    def truncate(self, length: int) -> None:
        """Drop positions from `length` on. Errors: `CoterieError` when a later query needs dropped ones."""
        if not self.can_go_back(length):
            first = self._end - self.num_kept
            raise CoterieError(
                f"cache: cannot go back to length {length}: a layer with window {self._window} "
                f"has dropped positions before {first}; run the prompt again"
            )
        self._high -= max(0, self._end - length)
        self._end = min(self._end, length)

    def can_go_back(self, length: int) -> bool:
        """Whether everything that a query at `length` would see is still kept."""
        return self._end - self.num_kept <= self.first_needed(length)

    def copy_from(self, other: LayerCache, length: int) -> None:
        """Copy what `other` (with the same settings) keeps before `length`."""
        high = other._high - max(0, other._end - length)
        kept = high - other._low
        # Buffers of few sizes: the C library reuses them, where odd ones would leave gaps in its heap.
        capacity = -(-kept // _FIRST_CAPACITY) * _FIRST_CAPACITY
        self._keys = other._keys.new_empty((capacity, *other._keys.shape[1:]))
        self._values = other._values.new_empty((capacity, *other._values.shape[1:]))
        self._keys[:kept] = other._keys[other._low : high]
        self._values[:kept] = other._values[other._low : high]
        self._low, self._high, self._end = 0, kept, min(other._end, length)

    def _make_room(self, num_new: int, k_TGD: Tensor, v_TGD: Tensor) -> None:
        """Move the kept rows to the front: of the same buffers if at most half used, else of larger ones."""
        kept = self.num_kept
        capacity = self._keys.shape[0]
        keys, values = self._keys[self._low : self._high], self._values[self._low : self._high]
        # Moving within the buffer is cheap on average, since at least half the buffer is written before the
        # next move; `kept <= low` ensures that source and target do not overlap.
        if kept + num_new > capacity or 2 * kept > capacity or kept > self._low:
            capacity = max(_FIRST_CAPACITY, 2 * capacity, kept + num_new)
            self._keys = k_TGD.new_empty((capacity, *k_TGD.shape[1:]))
            self._values = v_TGD.new_empty((capacity, *v_TGD.shape[1:]))
        if kept:
            self._keys[:kept] = keys
            self._values[:kept] = values
        self._low, self._high = 0, kept


class SequenceCache:
    """The caches of all layers for one sequence. The next token has position `length`.

    `long`: the sequence is beyond `ModelConfig.rope_switch`, so that its keys have other rotations.
    """

    def __init__(self, config: ModelConfig, long: bool = False) -> None:
        self.config = config
        self.long = long
        self._seen = SequenceLength()
        self._layers = [LayerCache(block.attention, self._seen) for block in config.blocks]

    @property
    def length(self) -> int:
        """Tokens seen."""
        return self._seen.length

    def layer(self, index: int) -> LayerCache:
        """The cache of block `index`."""
        return self._layers[index]

    def advance(self, num_tokens: int) -> None:
        """Count `num_tokens` as seen. Called once per forward pass, after all layers have appended them."""
        self._seen.length += num_tokens

    def truncate(self, length: int) -> None:
        """Drop all positions from `length` on.

        Errors: `CoterieError` when `length` is not in 0..`self.length`, or when a layer with a window has
        already dropped positions that a query at `length` would see.
        """
        if not 0 <= length <= self.length:
            raise CoterieError(f"cache: cannot go back to length {length}; it holds {self.length} tokens")
        for layer in self._layers:
            layer.truncate(length)
        self._seen.length = length

    def can_go_back(self, length: int) -> bool:
        """Whether `truncate(length)` or `fork(length)` would succeed."""
        return 0 <= length <= self.length and all(layer.can_go_back(length) for layer in self._layers)

    def fork(self, length: int | None = None) -> SequenceCache:
        """An independent copy of the first `length` positions (None: all), so that sequences share a prefix.

        Errors: `CoterieError` as for `truncate`.
        """
        length = self.length if length is None else length
        if not self.can_go_back(length):
            raise CoterieError(
                f"cache: cannot copy the first {length} of {self.length} tokens; a window has dropped some"
            )
        copy = SequenceCache(self.config, self.long)
        copy._seen.length = length
        for mine, theirs in zip(copy._layers, self._layers, strict=True):
            mine.copy_from(theirs, length)
        return copy

    @property
    def num_bytes(self) -> int:
        """Bytes of all buffers, spare capacity included."""
        return sum(layer.num_bytes for layer in self._layers)
