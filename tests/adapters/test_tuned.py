"""The proof of a written result: it must be the tuned model, not its base and nothing in between."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import coterie
from coterie.adapters.tuned import prove
from coterie.config import CheckpointError
from coterie.proof.records import probe
from tests.recipes.tuned import base


def test_a_result_that_lost_part_of_the_tuning_is_no_result(tmp_path: Path) -> None:
    """Nearer to the tuned model than to the base is not enough: it must be the tuned model."""
    model = coterie.load(base(tmp_path, "qwen3_moe"))
    assert model.tokenizer is not None
    before = probe(model.model, model.tokenizer)
    with torch.no_grad():
        for block in model.model.blocks:
            block.attention.v.weight += 0.3 * torch.randn_like(block.attention.v.weight)
    after = probe(model.model, model.tokenizer)
    assert prove(before, after, after, Path("x")).gravity == 1.0
    with torch.no_grad():
        model.model.blocks[0].attention.v.weight *= 1.01
    with pytest.raises(CheckpointError, match="is not the tuned model"):
        prove(before, after, probe(model.model, model.tokenizer), Path("x"))
    with pytest.raises(CheckpointError, match="is still the base"):
        prove(before, after, before, Path("x"))
    with pytest.raises(CheckpointError, match="exactly as its base"):
        prove(before, before, before, Path("x"))
