"""The arithmetic against the built model: parameters exactly, and the products that a forward pass runs."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from coterie.config import (
    AttentionConfig,
    BlockConfig,
    ClampedConfig,
    FeedForwardConfig,
    MLAConfig,
    ModelConfig,
    MoEConfig,
    RouterConfig,
)
from coterie.nn.forward_context import ForwardContext
from coterie.nn.transformer import Transformer
from coterie.plan import count_parameters, flops_per_token

# Operators that torch's counter passes over, by the shapes of their inputs: (T, I) times (O, I); query (B, H,
# S, D) and key (B, G, S', D).
UNKNOWN_TO_TORCH = {
    torch.ops.coterie.linear: lambda x, weight, *_, **__: 2 * x[0] * x[1] * weight[0],
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, *_, **__: (
        4 * q[0] * q[1] * q[2] * k[2] * q[3]
    ),
}


@st.composite
def latent_attentions(draw, equal_widths):
    nope_dim, rope_dim = draw(st.integers(1, 6)), draw(st.sampled_from([2, 4]))
    return MLAConfig(
        num_heads=draw(st.integers(1, 4)),
        q_rank=draw(st.none() | st.integers(1, 9)),
        kv_rank=draw(st.integers(1, 9)),
        nope_dim=nope_dim,
        rope_dim=rope_dim,
        value_dim=nope_dim + rope_dim if equal_widths else draw(st.integers(1, 9)),
    )


@st.composite
def grouped_attentions(draw):
    kv_heads = draw(st.integers(1, 3))
    mask = draw(st.sampled_from(["causal", "sliding", "chunked"]))
    return AttentionConfig(
        num_heads=kv_heads * draw(st.integers(1, 3)),
        num_kv_heads=kv_heads,
        head_dim=draw(st.sampled_from([4, 6, 8])),
        mask=mask,
        window=None if mask == "causal" else draw(st.integers(1, 9)),
        qk_norm=draw(st.sampled_from(["none", "head", "full", "weightless"])),
        qkv_bias=draw(st.booleans()),
        output_bias=draw(st.booleans()),
        sinks=mask != "chunked" and draw(st.booleans()),
    )


@st.composite
def feed_forwards(draw):
    width = draw(st.integers(1, 12))
    if draw(st.booleans()):
        return FeedForwardConfig(width=width, bias=draw(st.booleans()))
    experts = draw(st.integers(1, 6))
    router = RouterConfig(
        num_experts=experts,
        top_k=draw(st.integers(1, experts)),
        bias=draw(st.booleans()),
        select_bias=draw(st.booleans()),
        input_norm_eps=draw(st.none() | st.just(1e-6)),
        expert_scale=draw(st.booleans()),
    )
    clamped = draw(st.none() | st.just(ClampedConfig()))
    shared_width = draw(st.none() | st.integers(1, 12))
    normed = shared_width is not None and draw(st.booleans())
    return MoEConfig(
        expert_width=width,
        router=router,
        shared_width=shared_width,
        clamped=clamped,
        expert_norms=normed,
    )


@st.composite
def models(draw, equal_widths=False):
    attentions = grouped_attentions() | latent_attentions(equal_widths)
    blocks = draw(
        st.lists(st.builds(BlockConfig, attention=attentions, ffn=feed_forwards()), min_size=1, max_size=3)
    )
    return ModelConfig(
        family="any",
        vocab_size=draw(st.integers(2, 40)),
        width=draw(st.integers(1, 16)),
        blocks=tuple(blocks),
        max_positions=64,
        tie_embeddings=draw(st.booleans()),
    )


@given(models())
def test_parameters_are_the_built_models(config):
    with torch.device("meta"):
        model = Transformer(config)
    counts = count_parameters(config)
    assert counts.total == sum(p.numel() for p in model.parameters())
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    assert counts.experts == experts
    used = (
        sum(p.numel() for name, p in model.named_parameters() if ".experts." not in name)
        + counts.experts_active
    )
    assert counts.active_all == used


@settings(max_examples=15)
@given(models(equal_widths=True), st.integers(1, 5))
def test_flops_are_those_of_a_forward_pass(config, num):
    """Segments of one token, in which every query sees one key whatever the mask.

    Latent attention has values as wide as its keys here; narrower ones are padded, which the plan does not
    count.
    """
    model = Transformer(config)
    model.initialise()
    ids_T = torch.arange(num) % config.vocab_size
    with FlopCounterMode(display=False, custom_mapping=UNKNOWN_TO_TORCH) as counter, torch.no_grad():
        model.logits(model(ids_T, ForwardContext.packed([1] * num)))
    assert counter.get_total_flops() == num * flops_per_token(config, 1)
