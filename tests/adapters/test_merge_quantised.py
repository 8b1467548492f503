"""An adapter of a quantised base merges into what tuning held: the weights in bfloat16, in either type."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from coterie.adapters.attach import attach
from coterie.adapters.files import save_adapter
from coterie.adapters.merge import merge_checkpoint
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.directory import save_model
from coterie.config import AdapterConfig
from coterie.families import config_from_hf
from coterie.gguf.export import export_gguf
from coterie.nn.transformer import Transformer
from coterie.text.tokenizer import Tokenizer
from tests.adapters.test_attach import randomise_factors
from tests.families.hf import _BASE, CONFIGS, randomise


@pytest.mark.parametrize(
    ("dtype", "compute"),
    [
        ("float32", torch.bfloat16),
        ("bfloat16", torch.float32),
        pytest.param("float32", torch.float32, marks=pytest.mark.slow),
        pytest.param("bfloat16", torch.bfloat16, marks=pytest.mark.slow),
    ],
)
def test_an_adapter_of_a_gguf_base_merges(dtype: str, compute: torch.dtype, tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(["some words to learn"] * 4, 300)
    sizes = {"vocab_size": tokenizer.vocab_size, "hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
    model = Transformer(config_from_hf(_BASE | CONFIGS["qwen3"] | sizes))
    randomise(model, 0)
    save_model(tmp_path / "base", model, tokenizer)
    export_gguf(tmp_path / "base", tmp_path / "base.gguf", quant="q4_0")
    base = Checkpoint.open(tmp_path / "base.gguf")
    loaded = base.load(base.kept_dtype, compute_dtype=compute)
    attach(loaded.model, AdapterConfig(rank=2))
    randomise_factors(loaded.model)
    save_adapter(tmp_path / "adapter", loaded.model, tmp_path / "base.gguf", loaded.tokenizer)
    merged = merge_checkpoint(tmp_path / "base.gguf", tmp_path / "adapter", tmp_path / "merged", dtype)
    assert merged.adapter_probes and merged.dequantised and merged.gravity > 0.9
    held = Checkpoint.open(merged.out).load(dtype).model
    changed = dict(held.named_parameters())["blocks.0.attention.q.weight"].float()
    before = dict(base.load(base.kept_dtype).model.named_parameters())["blocks.0.attention.q.weight"].float()
    layer = loaded.model.blocks[0].attention.q
    expected = before + layer.scale * (layer.lora_B @ layer.lora_A).detach().float()
    slack = torch.finfo(getattr(torch, dtype)).eps * expected.abs().max() + 1e-6
    assert float((changed - expected).abs().max()) <= float(slack)
