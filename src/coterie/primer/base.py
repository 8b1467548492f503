"""What all slices of the primer share: the document record, seeded random numbers and the held-out rule."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

NAME = "primer"
VERSION = 1

_HELD_OUT_BELOW = 16  # of 256 values of the first hash byte: 1 problem in 16 is never trained on

T = TypeVar("T")


@dataclass(frozen=True)
class PrimerDocument:
    """One document: its text (never empty), its slice, and a name that is unique within (seed, slice).

    `messages`: for dialogues only, the conversation of which the text is a rendering.
    """

    text: str
    slice: str
    name: str
    messages: tuple[dict[str, Any], ...] | None = None


class Rng:
    """Random choices that are always the same for the same key.

    Python's documentation promises only that `random.Random(int).random()` keeps its sequence between
    versions (`choice`, `sample` and `shuffle` may change), so every choice here is built on that one method.
    """

    __slots__ = ("_random",)

    def __init__(self, *key: str | int) -> None:
        text = "\0".join([NAME, str(VERSION), *map(str, key)])
        self._random = random.Random(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")).random

    def between(self, low: int, high: int) -> int:
        """An integer from `low` to `high`, both included."""
        return low + int(self._random() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self._random() < probability

    def pick(self, items: Sequence[T]) -> T:
        """One of the items, each equally likely."""
        return items[int(self._random() * len(items))]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different positions of `items`, in random order."""
        pool = list(items)
        for place in range(count):
            other = self.between(place, len(pool) - 1)
            pool[place], pool[other] = pool[other], pool[place]
        return pool[:count]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """All the items in random order."""
        return self.sample(items, len(items))


def held_out(problem: str) -> bool:
    """Whether a problem, in its canonical form, is kept for probes (about 1 in 16) and so never trained on.

    The answer depends on the text alone and not on a seed, so no choice of seeds can put a probe into
    training.
    """
    return hashlib.sha256(f"{NAME} held out\0{problem}".encode()).digest()[0] < _HELD_OUT_BELOW
