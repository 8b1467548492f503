"""A tiny model with a tokenizer and chat template, fast enough for every test that needs a real one."""

from __future__ import annotations

import functools

import torch

from coterie.config import BlockConfig, ModelConfig, MoEConfig, RouterConfig
from coterie.infer.model import LanguageModel
from coterie.nn.transformer import Transformer
from coterie.text.tokenizer import Tokenizer
from tests.infer.models import CAUSAL

MOE = MoEConfig(expert_width=24, router=RouterConfig(num_experts=6, top_k=2, renormalize=True))


@functools.cache
def chat_model() -> LanguageModel:
    """A random mixture of experts that babbles; it can be saved."""
    tokenizer = Tokenizer.train(["the quick brown fox jumps over the lazy dog, 0123456789 " * 3], vocab_size=300)
    blocks = (BlockConfig(attention=CAUSAL, ffn=MOE),) * 2
    vocab = tokenizer.vocab_size
    model = Transformer(ModelConfig(family="qwen3_moe", vocab_size=vocab, width=32, blocks=blocks, max_positions=256))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return LanguageModel(model, tokenizer)
