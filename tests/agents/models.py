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


PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@functools.cache
def chat_model(template: str | None = None, positions: int = 256, seed: int = 3) -> LanguageModel:
    """A random mixture of experts that babbles; it can be saved. `PLAIN` knows neither reasoning nor
    tools.
    """
    text = "the quick brown fox jumps over the lazy dog, 0123456789 " * 3
    tokenizer = Tokenizer.train([text], vocab_size=300, chat_template=template)
    blocks = (BlockConfig(attention=CAUSAL, ffn=MOE),) * 2
    vocab = tokenizer.vocab_size
    shape = {"vocab_size": vocab, "width": 32, "blocks": blocks, "max_positions": positions}
    model = Transformer(ModelConfig(family="qwen3_moe", **shape))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return LanguageModel(model, tokenizer)
