"""Counts against published models, against sums done by hand, and FLOPs against position-by-position counting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.config import (
    AttentionConfig,
    BlockConfig,
    ConfigError,
    FeedForwardConfig,
    ModelConfig,
    MoEConfig,
    RouterConfig,
)
from coterie.plan import count_parameters, flops_per_token, kv_bytes, kv_bytes_per_token, memory, visible_keys


def attention(heads, kv_heads, head_dim, **more):
    return AttentionConfig(num_heads=heads, num_kv_heads=kv_heads, head_dim=head_dim, **more)


def moe(experts, top_k, width, shared=None, **router):
    return MoEConfig(
        expert_width=width, shared_width=shared, router=RouterConfig(num_experts=experts, top_k=top_k, **router)
    )


def uniform(width, layers, attn, ffn, vocab, tie=False, positions=131072):
    blocks = (BlockConfig(attention=attn, ffn=ffn),) * layers
    return ModelConfig(
        family="any", vocab_size=vocab, width=width, blocks=blocks, tie_embeddings=tie, max_positions=positions
    )


def dense(width, inner, layers, heads, kv_heads, head_dim, vocab, tie=False, **more):
    return uniform(
        width, layers, attention(heads, kv_heads, head_dim, **more), FeedForwardConfig(width=inner), vocab, tie
    )


def llama4(experts, step, qk_norm):
    blocks = []
    for layer in range(48):
        attn = (
            attention(40, 8, 128, rope=None)
            if (layer + 1) % 4 == 0
            else attention(40, 8, 128, mask="chunked", window=8192, qk_norm=qk_norm)
        )
        routed = (layer + 1) % step == 0
        ffn = moe(experts, 1, 8192, shared=8192, score="sigmoid") if routed else FeedForwardConfig(width=16384)
        blocks.append(BlockConfig(attention=attn, ffn=ffn))
    return ModelConfig(family="llama4_text", vocab_size=202048, width=5120, blocks=tuple(blocks), max_positions=262144)


MODELS = {
    # name: config, total, active (embedding and head, head only, neither), KV bytes per token in bf16
    "Llama 3.2 1B": (
        dense(2048, 8192, 16, 32, 8, 64, 128256, tie=True),
        (1235814400, 1235814400, 973146112, 973146112, 32768),
    ),
    "Llama 3 8B": (
        dense(4096, 14336, 32, 32, 8, 128, 128256),
        (8030261248, 8030261248, 7504924672, 6979588096, 131072),
    ),
    "Llama 3 70B": (
        dense(8192, 28672, 80, 64, 8, 128, 128256),
        (70553706496, 70553706496, 69503033344, 68452360192, 327680),
    ),
    "Llama 3.1 405B": (
        dense(16384, 53248, 126, 128, 8, 128, 128256),
        (405853388800, 405853388800, 403752042496, 401650696192, 516096),
    ),
    "Qwen3 0.6B": (
        dense(1024, 3072, 28, 16, 8, 128, 151936, tie=True, qk_norm="head"),
        (596049920, 596049920, 440467456, 440467456, 114688),
    ),
    "Qwen3 8B": (
        dense(4096, 12288, 36, 32, 8, 128, 151936, qk_norm="head"),
        (8190735360, 8190735360, 7568405504, 6946075648, 147456),
    ),
    "Qwen3 30B-A3B": (
        uniform(2048, 48, attention(32, 4, 128, qk_norm="head"), moe(128, 8, 768), 151936),
        (30532122624, 3353032704, 3041867776, 2730702848, 98304),
    ),
    "Qwen3 235B-A22B": (
        uniform(4096, 94, attention(64, 4, 128, qk_norm="head"), moe(128, 8, 1536), 151936),
        (235093634560, 22190763520, 21568433664, 20946103808, 192512),
    ),
    "Mixtral 8x7B": (
        uniform(4096, 32, attention(32, 8, 128), moe(8, 2, 14336), 32000),
        (46702792704, 12879925248, 12748853248, 12617781248, 131072),
    ),
    "Mixtral 8x22B": (
        uniform(6144, 56, attention(48, 8, 128), moe(8, 2, 16384), 32768),
        (140630071296, 39161468928, 38960142336, 38758815744, 229376),
    ),
    "OLMoE": (
        uniform(2048, 16, attention(16, 16, 128, qk_norm="full"), moe(64, 8, 1024), 50304),
        (6919161856, 1282017280, 1178994688, 1075972096, 131072),
    ),
    "Llama 4 Scout text": (
        llama4(16, 1, "weightless"),
        (107769861120, 17172894720, 16138408960, 15103923200, 196608),
    ),
    "Llama 4 Maverick text": (
        llama4(128, 2, "none"),
        (400711848960, 17184691200, 16150205440, 15115719680, 196608),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_published_models(name):
    config, expected = MODELS[name]
    c = count_parameters(config)
    assert (c.total, c.active_all, c.active_head, c.active_core, kv_bytes_per_token(config)) == expected


def test_every_bias_by_hand():
    # width 6, 4 heads of 2 over 2 key heads: q 48+8, k 24+4, v 24+4, o 48+6
    attn = attention(4, 2, 2, qkv_bias=True, output_bias=True, qk_norm="head")
    blocks = (
        BlockConfig(attention=attn, ffn=FeedForwardConfig(width=5, bias=True)),
        BlockConfig(attention=attn, ffn=moe(4, 2, 3, shared=7, bias=True, select_bias=True)),
    )
    counts = count_parameters(ModelConfig(family="any", vocab_size=11, width=6, blocks=blocks, max_positions=8))
    assert counts.attention == 2 * (48 + 24 + 24 + 48 + 8 + 4 + 4 + 6 + 2 * 2)
    assert counts.dense == 3 * 30 + 5 + 5 + 6
    assert (counts.router, counts.shared) == (4 * 6 + 4, 3 * 42)
    assert (counts.experts, counts.experts_active) == (4 * 54, 2 * 54)
    assert (counts.norms, counts.embedding, counts.head) == (5 * 6, 66, 66)
    parts = counts.to_dict()
    sums = ("total", "active_all", "active_head", "active_core", "experts_active")
    assert counts.total == sum(value for name, value in parts.items() if name not in sums)


@given(st.sampled_from(["causal", "sliding", "chunked"]), st.integers(1, 40), st.integers(1, 100))
def test_visible_keys_counted_one_by_one(mask, window, context):
    attn = attention(2, 1, 4, mask=mask, window=None if mask == "causal" else window)
    seen = 0
    for i in range(context):
        for j in range(i + 1):
            seen += mask == "causal" or (i - window < j if mask == "sliding" else i // window == j // window)
    assert visible_keys(attn, context) * context == pytest.approx(seen, rel=1e-12)


@given(st.integers(1, 40), st.integers(1, 100))
def test_cache_is_the_sum_of_what_each_token_adds(window, context):
    blocks = tuple(
        BlockConfig(attention=a, ffn=FeedForwardConfig(width=4))
        for a in (attention(4, 2, 8), attention(4, 1, 4, mask="sliding", window=window))
    )
    config = ModelConfig(family="any", vocab_size=8, width=4, blocks=blocks, max_positions=128)
    added = sum(kv_bytes_per_token(config, 4, beyond=i) for i in range(context))
    assert kv_bytes(config, context, 4) == added


def test_published_cache_and_training_flops():
    scout = MODELS["Llama 4 Scout text"][0]
    assert kv_bytes(scout, 131072) == 7650410496
    assert kv_bytes_per_token(scout, beyond=8192) == 49152
    # DeepSeek's comparison table (arXiv 2505.09343) counts 2473 GFLOPs per token at 4096 tokens by this formula.
    llama = MODELS["Llama 3.1 405B"][0]
    assert flops_per_token(llama, 4096, training=True) == pytest.approx(2473e9, rel=1e-3)
    assert flops_per_token(llama, 4096, training=True) == 3 * flops_per_token(llama, 4096)


def test_flops_by_hand_and_a_tied_head_still_multiplies():
    attn, ffn = attention(2, 1, 3, rope=None), moe(8, 2, 5, shared=7)
    untied = uniform(4, 1, attn, ffn, 10)
    # q, o 4x6; k, v 4x3; router 4x8; two experts of 3x4x5; shared 3x4x7; head 10x4; 4 tokens see 2.5 keys on average
    expected = 2 * (24 + 24 + 12 + 12 + 32 + 120 + 84 + 40) + 4 * 6 * 2.5
    assert flops_per_token(untied, 4) == expected
    assert flops_per_token(uniform(4, 1, attn, ffn, 10, tie=True), 4) == expected


def test_memory_follows_total_not_active():
    config = MODELS["Mixtral 8x7B"][0]
    training, inference = memory(config, "training"), memory(config, "inference", context=1024, sequences=3)
    assert training.total == 46702792704 * 16
    assert (inference.weights, inference.cache) == (46702792704 * 2, 3 * 1024 * 131072)
    assert inference.total == inference.weights + inference.cache


def test_mistakes_are_one_line():
    config = MODELS["OLMoE"][0]
    with pytest.raises(ConfigError, match="context is 0"):
        flops_per_token(config, 0)
    with pytest.raises(ConfigError, match="no KV cache"):
        memory(config, "training", context=8)
    with pytest.raises(ConfigError, match="unknown phase 'train'"):
        memory(config, "train")
