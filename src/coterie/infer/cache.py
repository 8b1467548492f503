"""What each layer keeps of one sequence for later forward passes: keys and values, or a state.

Legend: T new tokens, S kept positions (old and new), G key/value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from coterie.config import AttentionConfig, CoterieError, MLAConfig, ModelConfig
from coterie.config.mixers import STATE_MIXERS
from coterie.infer.state_cache import BORDER, SequenceLength, StateCache, landmark, least_needed

_FIRST_CAPACITY = 64


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
        self._written = self._keys  # the buffer of keys that `_addresses` are of
        self._addresses = 0, 0, 0, 0  # of keys and values, with the bytes of a row of each
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
        low, high = self._extended(k_TGD, v_TGD)
        self._keys[high - k_TGD.shape[0] : high] = k_TGD
        self._values[high - v_TGD.shape[0] : high] = v_TGD
        return self._keys[low:high], self._values[low:high], self._end - (high - low)

    def extend(self, keys: Tensor, values: Tensor) -> tuple[int, int, int]:
        """Make room for new rows of these shapes and dtypes, which the caller writes.

        Returns the addresses of the first kept row of keys and of values, and how many rows are kept with the
        new ones.
        """
        low, high = self._extended(keys, values)
        if self._written is not self._keys:
            assert self._keys.dtype == keys.dtype and self._keys.shape[1:] == keys.shape[1:], (
                "rows of another form"
            )
            self._addresses = (
                self._keys.data_ptr(), self._values.data_ptr(), keys[0].nbytes, values[0].nbytes
            )  # fmt: skip
            self._written = self._keys
        at, values_at, row, value_row = self._addresses
        return at + low * row, values_at + low * value_row, high - low

    def _extended(self, k_TGD: Tensor, v_TGD: Tensor) -> tuple[int, int]:
        """Count the new tokens' rows as kept; the slice of all kept ones."""
        position = self._seen.length
        num_new = k_TGD.shape[0]
        # An earlier forward pass was interrupted before `advance`: drop its rows.
        if self._end != position:
            self.truncate(position)
        if self._mask != "causal":
            self._low += max(0, self.first_needed(position) - (position - self.num_kept))
        if self._high + num_new > self._keys.shape[0]:
            self._make_room(num_new, k_TGD, v_TGD)
        self._high += num_new
        self._end = position + num_new
        return self._low, self._high

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
    """What all layers keep of one sequence. The next token has position `length`.

    A layer with a state can only go back to where a copy of it was kept: `snapshots` copies at most, taken
    after passes of several tokens that end at a multiple of `border`. Where more passes end there, those are
    kept that are spread most evenly, the last one always. `long`: the sequence is beyond
    `ModelConfig.rope_switch`, so that its keys have other rotations.
    """

    def __init__(
        self, config: ModelConfig, snapshots: int = 0, border: int = BORDER, long: bool = False
    ) -> None:
        self.config = config
        self.long = long
        self._seen = SequenceLength()
        self._most, self._border = snapshots, border
        self._snapshots: list[int] = []
        self._keys: dict[int, LayerCache] = {}
        self._states: dict[int, StateCache] = {}
        for index, block in enumerate(config.blocks):
            if isinstance(block.attention, STATE_MIXERS):
                self._states[index] = StateCache(self._seen)
            elif isinstance(block.attention, MLAConfig) or (
                isinstance(block.attention, AttentionConfig) and block.attention.keys_of is None
            ):
                self._keys[index] = LayerCache(block.attention, self._seen)

    @property
    def length(self) -> int:
        """Tokens seen."""
        return self._seen.length

    def layer(self, index: int) -> LayerCache:
        """The keys and values of block `index`."""
        return self._keys[index]

    def state(self, index: int) -> StateCache:
        """The state of block `index`."""
        return self._states[index]

    def turn_state(self, index: int, like: Sequence[Tensor]) -> list[int]:
        """The addresses of the state of block `index`, to be turned in place (`StateCache.turn`)."""
        return self._states[index].turn(like, self.length in self._snapshots)

    @property
    def _layers(self) -> list[LayerCache | StateCache]:
        return [*self._keys.values(), *self._states.values()]

    def advance(self, num_tokens: int) -> None:
        """Count `num_tokens` as seen. Called once per forward pass, after all layers have appended them."""
        self._seen.length += num_tokens
        if not self._states:
            return
        if num_tokens > 1 and self._most and self.length % self._border == 0:
            self._snapshots.append(self.length)
            if len(self._snapshots) > self._most:
                del self._snapshots[least_needed(self._snapshots)]
        for state in self._states.values():
            state.settle(self._snapshots)

    def truncate(self, length: int) -> None:
        """Drop all positions from `length` on.

        Errors: `CoterieError` when `length` is not in 0..`self.length`, or when a layer with a window has
        already dropped positions that a query at `length` would see.
        """
        if not 0 <= length <= self.length:
            raise CoterieError(f"cache: cannot go back to length {length}; it holds {self.length} tokens")
        if not self.can_go_back(length) and self._states:
            raise CoterieError(
                f"cache: cannot go back to length {length}: a layer keeps a state, of which there are copies "
                f"at {', '.join(map(str, self._snapshots)) or 'no length'} only; run the prompt again"
            )
        for layer in self._layers:
            layer.truncate(length)
        self._seen.length = length
        self._snapshots = [at for at in self._snapshots if at <= length]

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
                f"cache: cannot copy the first {length} of {self.length} tokens; "
                f"{'no state was kept there' if self._states else 'a window has dropped some'}"
            )
        copy = SequenceCache(self.config, self._most, self._border, self.long)
        copy._seen.length = length
        for index, keys in self._keys.items():
            copy._keys[index].copy_from(keys, length)
        for index, state in self._states.items():
            copy._states[index].copy_from(state, length)
        if length and self._most and length % self._border == 0:
            copy._snapshots.append(length)
        return copy

    def reusable(self, length: int, multiple: int = 1) -> int:
        """The longest multiple of `multiple` up to `length` that `fork` can copy; 0 where there is none."""
        lengths = (*self._snapshots, self.length) if self._states else (length - length % multiple,)
        fitting = (at for at in lengths if at <= length and at % multiple == 0 and self.can_go_back(at))
        return max(fitting, default=0)

    def to_border(self, num_tokens: int, num_prompt: int) -> int:
        """How many of the next `num_tokens` to feed: where copies of states are kept, up to the last border.

        Lengths of `landmark` are such places too, so that a prompt which goes another way in the middle finds
        a copy. The last border of a prompt leaves one of its `num_prompt` tokens at least, which every
        request reads itself.
        """
        if not self._states or not self._most:
            return num_tokens
        end = min(self.length + num_tokens, num_prompt - 1)
        if self._border == BORDER and self.length + 1 < landmark(self.length) <= end:
            return landmark(self.length) - self.length
        fed = end - end % self._border - self.length
        return fed if fed > 1 else num_tokens

    @property
    def num_bytes(self) -> int:
        """Bytes of all buffers, spare capacity included."""
        return sum(layer.num_bytes for layer in self._layers)
