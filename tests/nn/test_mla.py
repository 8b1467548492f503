"""Latent attention: against its definition written out, and decoding from the compressed cache in both
forms.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.config import BlockConfig, FeedForwardConfig, MLAConfig, ModelConfig, RopeConfig, RopeScaling
from coterie.infer.cache import SequenceCache
from coterie.nn.forward_context import ForwardContext
from coterie.nn.mla import LatentAttention, softmax_scale
from coterie.nn.transformer import Transformer
from tests.arithmetic import assert_close, assert_model_close

YARN = RopeScaling(kind="yarn", factor=8.0, original_max_positions=16, mscale=1.0, mscale_all_dim=1.0)
ROPE = RopeConfig(theta=100.0, style="pairs", scaling=YARN)


def random_model(attention: MLAConfig, num_layers: int = 2) -> Transformer:
    block = BlockConfig(attention=attention, ffn=FeedForwardConfig(width=20))
    model = Transformer(
        ModelConfig(family="any", vocab_size=31, width=16, blocks=(block,) * num_layers, max_positions=128)
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.3
            parameter.copy_(1 + noise if name.endswith("norm.weight") else noise)
    return model


latents = st.builds(
    MLAConfig,
    num_heads=st.integers(1, 3),
    q_rank=st.none() | st.integers(2, 8),
    kv_rank=st.integers(1, 24),
    nope_dim=st.integers(1, 6),
    rope_dim=st.sampled_from([2, 4]),
    value_dim=st.integers(1, 12),
    rope=st.sampled_from([ROPE, ROPE.model_copy(update={"style": "half"})]),
)


@settings(max_examples=25, deadline=None)
@given(latents, st.lists(st.sampled_from([1, 1, 2, 5, 40]), min_size=2, max_size=5))
@torch.no_grad()
def test_decoding_from_the_latents_equals_the_whole_forward(config: MLAConfig, pieces: list[int]) -> None:
    model = random_model(config)
    ids = torch.randint(0, 31, (2, sum(pieces)), generator=torch.Generator().manual_seed(1))
    whole = model.logits(model(ids.flatten(), ForwardContext.packed([sum(pieces)] * 2))).unflatten(0, (2, -1))
    caches = [SequenceCache(model.config), SequenceCache(model.config)]
    start = 0
    for length in pieces:
        part = ids[:, start : start + length]
        h = model(part.flatten(), ForwardContext.packed([length] * 2, [start] * 2), caches=caches)
        expected = whole[:, start : start + length].flatten(0, 1)
        assert_model_close(model.config, model.logits(h), expected, sum(pieces))
        start += length
    rows, rest = divmod(caches[0].num_bytes, 2 * 4 * (config.kv_rank + config.rope_dim))  # two layers, fp32
    assert rest == 0 and start <= rows <= max(64, 2 * start)


@pytest.mark.parametrize(
    ("num_new", "num_kept", "absorbed"), [(1, 1000, True), (1, 2, True), (1000, 1000, False)]
)
def test_the_cheaper_form_is_chosen_for_deepseek_v3(num_new: int, num_kept: int, absorbed: bool) -> None:
    config = MLAConfig(num_heads=128, kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128)
    with torch.device("meta"):
        assert LatentAttention(8, config)._absorbs(num_new, num_kept) == absorbed


@torch.no_grad()
def test_both_forms_equal_the_definition_written_out() -> None:
    config = MLAConfig(num_heads=3, kv_rank=5, nope_dim=4, rope_dim=2, value_dim=7)
    layer = random_model(config).blocks[0].attention
    q_nope, q_rope, latent, k_rope = (
        torch.randn(4, 3, 4),
        torch.randn(4, 3, 2),
        torch.randn(9, 1, 5),
        torch.randn(9, 1, 2),
    )
    expected = torch.zeros(4, 3, 7)
    for t in range(4):
        for head in range(3):
            rows = layer.kv_b.weight[head * 11 : (head + 1) * 11]
            keys, values = latent[:, 0] @ rows[:4].T, latent[:, 0] @ rows[4:].T
            scores = (keys @ q_nope[t, head] + k_rope[:, 0] @ q_rope[t, head]) / math.sqrt(6)
            expected[t, head] = scores[: 6 + t].softmax(0) @ values[: 6 + t]
    for form in (layer._absorbed, layer._expanded):
        actual = form(q_nope, q_rope, latent, k_rope, torch.arange(5, 9), 0)
        assert_close(actual, expected, terms=9, depth=4)  # keys, scores, weights, values


@pytest.mark.parametrize(("mscale", "published"), [(1.0, 0.1352338), (0.707, 0.1147214), (None, 192**-0.5)])
def test_softmax_scale_of_the_published_models(mscale: float | None, published: float) -> None:
    scaling = RopeScaling(
        kind="yarn", factor=40, original_max_positions=4096, mscale=mscale, mscale_all_dim=mscale
    )
    rope = RopeConfig(style="pairs", scaling=scaling)
    config = MLAConfig(num_heads=128, kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128, rope=rope)
    assert softmax_scale(config) == pytest.approx(published, rel=1e-6)
