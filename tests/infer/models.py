"""Tiny random models with every kind of layer, and the training forward pass as the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from coterie.config import (
    AttentionConfig,
    BlockConfig,
    FeedForwardConfig,
    ModelConfig,
    MoEConfig,
    RopeConfig,
    RouterConfig,
    TemperatureConfig,
)
from coterie.config.mixers import DeltaNetConfig, Mamba2Config, ShortConvConfig
from coterie.nn.forward_context import ForwardContext
from coterie.nn.transformer import Transformer

DENSE = FeedForwardConfig(width=40)
MOE = MoEConfig(
    expert_width=24, router=RouterConfig(num_experts=6, top_k=2, renormalize=True), shared_width=16
)
ON_INPUT = MoEConfig(
    expert_width=24,
    router=RouterConfig(num_experts=4, top_k=1, score="sigmoid", score_after_topk=True, apply_to="input"),
)
CAUSAL = AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=8, qk_norm="head")
SLIDING = CAUSAL.model_copy(update={"mask": "sliding", "window": 7})
CHUNKED = CAUSAL.model_copy(update={"mask": "chunked", "window": 8, "qk_norm": "weightless"})
NO_POSITIONS = CAUSAL.model_copy(
    update={"rope": None, "qk_norm": "none", "temperature": TemperatureConfig(floor_scale=6, scale=0.5)}
)

DELTA = DeltaNetConfig(num_key_heads=2, num_value_heads=4, key_dim=8, value_dim=6, kernel=4)

KINDS: dict[str, list[BlockConfig]] = {
    "dense": [BlockConfig(attention=CAUSAL, ffn=DENSE)] * 2,
    "moe": [BlockConfig(attention=CAUSAL, ffn=MOE)] * 2,
    "sliding": [BlockConfig(attention=SLIDING, ffn=DENSE), BlockConfig(attention=CAUSAL, ffn=MOE)],
    "chunked": [
        BlockConfig(attention=CHUNKED, ffn=ON_INPUT),
        BlockConfig(attention=NO_POSITIONS, ffn=DENSE),
        BlockConfig(
            attention=CHUNKED.model_copy(update={"rope": RopeConfig(theta=500.0, style="pairs")}),
            ffn=ON_INPUT,
        ),
    ],
    "short_conv": [
        BlockConfig(attention=ShortConvConfig(channels=32, kernel=4, bias=True), ffn=DENSE),
        BlockConfig(attention=CAUSAL, ffn=DENSE),
    ],
    "mamba2": [
        BlockConfig(attention=Mamba2Config(num_heads=4, head_dim=6, state=5, groups=2), ffn=DENSE),
        BlockConfig(attention=CAUSAL, ffn=MOE),
    ],
    "parts": [
        BlockConfig(attention=Mamba2Config(num_heads=4, head_dim=6, state=5, groups=2), ffn=None),
        BlockConfig(attention=None, ffn=MOE.model_copy(update={"gated": False, "activation": "relu2"})),
        BlockConfig(attention=CAUSAL, ffn=None),
        BlockConfig(attention=None, ffn=DENSE.model_copy(update={"gated": False, "activation": "relu2"})),
    ],
    "delta": [BlockConfig(attention=DELTA, ffn=DENSE), BlockConfig(attention=CAUSAL, ffn=MOE)],
}


def tiny_model(
    kind: str | list[BlockConfig], seed: int = 0, vocab_size: int = 61, max_positions: int = 96
) -> Transformer:
    """A model of `KINDS` or of these blocks, with weights that make its predictions far from uniform."""
    blocks = tuple(KINDS[kind] if isinstance(kind, str) else kind)
    config = ModelConfig(
        family="test", vocab_size=vocab_size, width=32, blocks=blocks, max_positions=max_positions
    )
    model = Transformer(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            if name.endswith("norm.weight"):
                parameter.add_(1.0)
    return model


@torch.no_grad()
def training_logprobs(model: Transformer, ids: list[int]) -> Tensor:
    """(T, V): log-softmax after each token of one whole sequence, by the forward pass without a cache."""
    h_TD = model(torch.tensor(ids), ForwardContext.packed([len(ids)]))
    return model.logits(h_TD).log_softmax(-1)
