"""Gradients of every tensor on disk against transformers', for the layers with their own backward pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers.core_model_loading import revert_weight_conversion

from coterie.checkpoints.directory import load_model
from coterie.families import family
from coterie.nn.forward_context import ForwardContext
from tests.arithmetic import FORWARD_AND_BACKWARD, assert_model_close, largest
from tests.families.hf import VOCAB, tiny

LENGTHS = (23, 17)
# Random weights between so many norms multiply roundings from layer to layer: two layers, not five.
FEWER = {"gemma4_text_moe": {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}}


@pytest.mark.parametrize(
    "name",
    [
        "deepseek_v3",
        "deepseek_v2",
        "gpt_oss",
        "llama4_scout",
        "qwen3_moe",
        "hy_v3",
        "smollm3",
        "qwen3_next",
        "qwen2_moe",
        "minimax_m2",
        "lfm2_moe",
        "granitemoehybrid",
        "gemma4_text_moe",
        "nemotron_h_latent",
    ],
)
def test_gradients_equal_transformers(name: str, tmp_path: Path) -> None:
    reference = tiny(name, **FEWER.get(name, {}))
    reference.save_pretrained(tmp_path)
    model = load_model(tmp_path).model
    # from 1: transformers keeps the padding token's embedding, token 0 here, out of the gradient
    ids = torch.randint(1, VOCAB, (sum(LENGTHS),), generator=torch.Generator().manual_seed(1))
    at = torch.arange(len(ids))
    model.logits(model(ids, ForwardContext.packed(LENGTHS))).log_softmax(-1)[at, ids].sum().backward()
    theirs = torch.cat([reference(part[None]).logits[0] for part in ids.split(LENGTHS)])
    theirs.log_softmax(-1)[at, ids].sum().backward()
    gradients = {
        n: p.grad if p.grad is not None else torch.zeros_like(p) for n, p in reference.named_parameters()
    }
    expected = revert_weight_conversion(reference, gradients)
    own = dict(model.named_parameters())
    slots = [slot for slot in family(model.config.family).slots(model.config) if slot.name in own]
    assert {slot.disk for slot in slots} == expected.keys()
    for slot in slots:
        gradient = own[slot.name].grad
        assert gradient is not None, slot.name
        # What a gradient adds up cancels in part, in some wholly: it errs like larger numbers.
        size = max(0.1, 2 * largest(expected[slot.disk]))
        assert_model_close(
            model.config,
            slot.view(gradient),
            slot.part(expected[slot.disk]),
            len(ids),
            passes=FORWARD_AND_BACKWARD,
            size=size,
            name=slot.disk,
        )
