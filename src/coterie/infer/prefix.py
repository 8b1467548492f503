"""Prompts that begin the same way are read once: finished sequences keep their keys and values.

A sequence is found by the hashes of its whole blocks of tokens and then compared token by token, so a
collision costs time and never gives a wrong reply. Sequences of different salts (adapter, expert control, the
caller's own) never share.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from coterie.config import ModelConfig
from coterie.infer.cache import SequenceCache
from coterie.infer.state_cache import BORDER

BLOCK = BORDER
SNAPSHOTS = 4  # copies of the states of one sequence: each may be as large as a thousand keys and values


@dataclass(eq=False)
class KeptPrefix:
    """One kept sequence: `cache` holds keys and values of `tokens[: cache.length]`."""

    salt: Hashable
    tokens: list[int]
    cache: SequenceCache
    blocks: list[int]
    num_bytes: int


def block_hashes(salt: Hashable, tokens: Sequence[int]) -> list[int]:
    """For each whole block, a hash of all tokens up to its end."""
    hashes, value = [], hash(salt)
    for end in range(BLOCK, len(tokens) + 1, BLOCK):
        value = hash((value, tuple(tokens[end - BLOCK : end])))
        hashes.append(value)
    return hashes


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens at the start of two sequences are equal."""
    most = min(len(a), len(b))
    if a[:most] == b[:most]:
        return most
    low, high = 0, most  # a[:low] == b[:low], a[:high] != b[:high]
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


class PrefixCache:
    """Keeps finished sequences up to `max_bytes`, evicting the least recently used; 0 keeps none.

    `border`: where the states of sequences are copied (`SequenceCache`).
    """

    def __init__(self, max_bytes: int, border: int = BLOCK) -> None:
        self.max_bytes = max_bytes
        self.border = border
        self.num_bytes = 0
        self._entries: OrderedDict[int, KeptPrefix] = OrderedDict()
        self._by_block: dict[int, list[KeptPrefix]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def new_sequence(self, config: ModelConfig) -> SequenceCache:
        """An empty cache that keeps what sharing needs."""
        return SequenceCache(config, SNAPSHOTS if self.max_bytes else 0, self.border)

    def keep(self, salt: Hashable, tokens: Sequence[int], cache: SequenceCache) -> None:
        """Take over the cache of a finished sequence, replacing kept ones that are a prefix of it."""
        kept = list(tokens[: cache.length])
        blocks = block_hashes(salt, kept)
        size = cache.num_bytes
        if not blocks or size > self.max_bytes:
            return
        for old in list(self._by_block.get(blocks[0], ())):
            if old.salt == salt and len(old.tokens) <= len(kept) and kept[: len(old.tokens)] == old.tokens:
                self._remove(old)
        entry = KeptPrefix(salt, kept, cache, blocks, size)
        self._entries[id(entry)] = entry
        self.num_bytes += size
        for block in blocks:
            self._by_block.setdefault(block, []).append(entry)
        while self.num_bytes > self.max_bytes:
            self._remove(next(iter(self._entries.values())))

    def find(
        self, salt: Hashable, tokens: Sequence[int], most: int, multiple: int = 1
    ) -> SequenceCache | None:
        """A copy of the longest kept prefix of `tokens` of at most `most` tokens; None when there is none.

        Its length is a multiple of `multiple`.
        """
        found: tuple[int, KeptPrefix] | None = None
        compared: set[int] = set()  # a sequence is in the list of each block that it shares: compare it once
        hashes = block_hashes(salt, tokens[:most])
        for number in range(len(hashes), 0, -1):
            for entry in self._by_block.get(hashes[number - 1], ()):
                if id(entry) in compared:
                    continue
                compared.add(id(entry))
                length = usable(entry.salt, entry.tokens, entry.cache, salt, tokens, most, multiple)
                if length and (found is None or length > found[0]):
                    found = length, entry
            # Sequences that share fewer blocks may have a state at a better place.
            if found is not None and found[0] >= (number - 1) * BLOCK:
                break
        if found is None:
            return None
        length, entry = found
        self._entries.move_to_end(id(entry))
        return entry.cache.fork(length)

    def drop(self, where: Callable[[Any], bool] = lambda salt: True) -> None:
        """Drop the sequences whose salt satisfies `where`; by default all."""
        for entry in list(self._entries.values()):
            if where(entry.salt):
                self._remove(entry)

    def _remove(self, entry: KeptPrefix) -> None:
        del self._entries[id(entry)]
        self.num_bytes -= entry.num_bytes
        for block in entry.blocks:
            others = self._by_block[block]
            others.remove(entry)
            if not others:
                del self._by_block[block]


def usable(
    salt: Hashable,
    tokens: Sequence[int],
    cache: SequenceCache,
    wanted_salt: Hashable,
    wanted: Sequence[int],
    most: int,
    multiple: int,
) -> int:
    """How many tokens of `wanted` a cache of `tokens` can serve.

    0 also when a layer with a window has dropped positions that the shorter prefix needs, or when a layer
    with a state kept none within it.
    """
    if salt != wanted_salt:
        return 0
    return cache.reusable(min(common_length(tokens[: cache.length], wanted), most), multiple)
