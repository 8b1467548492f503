"""A small mixture of experts and held-out documents for it."""

from __future__ import annotations

import numpy as np
import torch

from coterie.data.heldout import HeldoutDocument
from coterie.families import config_from_hf
from coterie.nn.transformer import Transformer
from tests.cli.support import MODEL


def make() -> Transformer:
    model = Transformer(config_from_hf(MODEL | {"vocab_size": 60}))
    model.initialise(2)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model.eval()


def documents(num: int, seed: int = 0) -> list[HeldoutDocument]:
    random = np.random.default_rng(seed)
    return [
        HeldoutDocument(
            "ab"[i % 2], np.append(0, random.integers(1, 60, int(random.integers(1, 50)))), 10 + i
        )
        for i in range(num)
    ]
