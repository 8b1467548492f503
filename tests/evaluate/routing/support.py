"""Held-out documents of two domains."""

from __future__ import annotations

import numpy as np

from coterie.data.heldout import HeldoutDocument
from tests.families.hf import VOCAB


def documents(seed: int = 0, vocab: int = VOCAB) -> list[HeldoutDocument]:
    draw = np.random.default_rng(seed)
    lengths = {"law": (40, 7, 90), "code": (25, 33)}
    return [
        HeldoutDocument(name, draw.integers(0, vocab, length), length)
        for name in lengths
        for length in lengths[name]
    ]
