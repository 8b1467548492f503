"""Sequences to look at, and the experts of a layer, for the tests of all operations."""

from __future__ import annotations

import torch

from coterie.nn.moe import MoE
from coterie.nn.transformer import Transformer
from tests.families.hf import VOCAB

SEQUENCES = torch.randint(0, VOCAB, (6, 50), generator=torch.Generator().manual_seed(9)).tolist()


def moe(model: Transformer, layer: int = 0) -> MoE:
    ffn = model.blocks[layer].ffn
    assert isinstance(ffn, MoE)
    return ffn
