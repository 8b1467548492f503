"""The canary of a file of items: an item that nobody can answer without having read the file.

Its words are drawn by a key, so a model that finds them likelier than other words has learnt from a copy.
"""

from __future__ import annotations

from coterie.benchmarks.item import BenchmarkItem
from coterie.primer.base import Rng
from coterie.primer.words import WORDS

ID = "canary"
QUESTION = "Which words stand in the last line of this file? Nobody can know them without having read it."
_LENGTH = 10  # words


def canary_item(items: str, secret: str = "") -> BenchmarkItem:
    """The canary of a file.

    `items`: digest over its items. `secret`: makes the words of this copy different from those of every
    other one, and lets nobody else make it.
    """
    words = canary_words(Rng("canary", items, secret))
    turn = {"role": "user", "content": QUESTION}
    return BenchmarkItem(ID, (turn,), words, facts={"canary": True})


def canary_words(random: Rng) -> str:
    """Words as canaries have them."""
    return " ".join(random.pick(WORDS) for _ in range(_LENGTH))
