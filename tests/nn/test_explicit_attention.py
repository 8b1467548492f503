"""Attention without a fused kernel against softmax written out; gpt-oss's clamped experts and norm."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.config import AttentionConfig, BlockConfig, ClampedConfig, ModelConfig, MoEConfig, RouterConfig
from coterie.infer.cache import SequenceCache
from coterie.nn import explicit_attention
from coterie.nn.experts import ClampedExperts
from coterie.nn.explicit_attention import attend_explicitly
from coterie.nn.forward_context import ForwardContext
from coterie.nn.norm import RMSNorm
from coterie.nn.transformer import Transformer
from tests.arithmetic import FORWARD_AND_BACKWARD, assert_close, assert_model_close


def slow(q, k, v, lengths, window, scale, sinks, cap):
    """One query, one head at a time."""
    rows, start = [], 0
    for length in lengths:
        for i in range(start, start + length):
            first = start if window is None else max(start, i - window + 1)
            heads = []
            for head in range(q.shape[1]):
                group = head // (q.shape[1] // k.shape[1])
                scores = (k[first : i + 1, group] @ q[i, head]) * scale
                scores = scores if cap is None else cap * torch.tanh(scores / cap)
                if sinks is None:
                    weights = scores.softmax(0)
                else:
                    weights = torch.cat((scores, sinks[head : head + 1])).softmax(0)[:-1]
                heads.append(weights @ v[first : i + 1, group])
            rows.append(torch.stack(heads))
        start += length
    return torch.stack(rows)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 14), min_size=1, max_size=3),
    st.none() | st.integers(1, 9),
    st.integers(1, 3),
    st.integers(1, 5),
    st.booleans(),
    st.none() | st.floats(0.2, 3.0),
)
def test_attention_equals_the_definition_forward_and_backward(
    lengths, window, copies, block, with_sinks, cap
) -> None:
    total = sum(lengths)
    q = torch.randn(total, 2 * copies, 4, requires_grad=True)
    k, v = (torch.randn(total, 2, 4, requires_grad=True) for _ in range(2))
    sinks = torch.randn(2 * copies, requires_grad=True) if with_sinks else None
    learnt = (q, k, v) if sinks is None else (q, k, v, sinks)
    weight = torch.randn(total, 2 * copies, 4)
    results = []
    for function, where in ((attend_explicitly, ForwardContext.packed(lengths)), (slow, lengths)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(explicit_attention, "BLOCK_QUERIES", block)
            y = function(q, k, v, where, window, 0.7, sinks, cap)
        results.append((y, *torch.autograd.grad((y * weight).sum(), learnt)))
    for ours, expected in zip(*results, strict=True):
        assert_close(ours, expected, terms=total, depth=2 * FORWARD_AND_BACKWARD, size=1.0)


@pytest.mark.parametrize("pieces", [(1,) * 12, (7, 1, 5), (20, 1, 1)])
@torch.no_grad()
def test_decoding_equals_the_whole_forward(pieces: tuple[int, ...]) -> None:
    attention = AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=4, sinks=True)
    sliding = attention.model_copy(update={"mask": "sliding", "window": 4})
    router = RouterConfig(num_experts=4, top_k=2, score_after_topk=True, bias=True)
    ffn = MoEConfig(expert_width=6, router=router, clamped=ClampedConfig(limit=0.5))
    blocks = tuple(BlockConfig(attention=a, ffn=ffn) for a in (sliding, attention))
    model = Transformer(ModelConfig(family="any", vocab_size=19, width=12, blocks=blocks, max_positions=64))
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape) * 0.5)
    ids = torch.randint(0, 19, (sum(pieces),))
    whole = model.logits(model(ids, ForwardContext.packed([sum(pieces)])))
    cache, start, parts = SequenceCache(model.config), 0, []
    for length in pieces:
        h = model(ids[start : start + length], ForwardContext.packed([length], [start]), caches=[cache])
        parts.append(model.logits(h))
        start += length
    assert_model_close(model.config, torch.cat(parts), whole, sum(pieces))


def test_clamped_experts_row_by_row_and_padding_rows_do_not_matter() -> None:
    experts = ClampedExperts(3, 5, 4, ClampedConfig(alpha=1.3, limit=0.8))
    with torch.no_grad():
        for parameter in experts.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    x, counts = torch.randn(7, 5), (3, 0, 4)
    rows = []
    for index, row in enumerate(x):
        expert = 0 if index < 3 else 2
        both = experts.gate_up.weight[expert] @ row + experts.gate_up.bias[expert]
        hidden = []
        for gate, up in both.reshape(4, 2).tolist():
            gate, up = min(gate, 0.8), max(-0.8, min(up, 0.8))
            hidden.append((up + 1) * gate / (1 + math.exp(-1.3 * gate)))
        rows.append(experts.down.weight[expert] @ torch.tensor(hidden) + experts.down.bias[expert])
    assert_close(experts(x, counts), torch.stack(rows), terms=5, depth=2)


def test_the_norm_rounds_before_or_after_its_weight() -> None:
    x, weight = torch.randn(64, 32).bfloat16(), 1 + 0.3 * torch.randn(32)
    normed = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-6)
    expected = {True: (normed * weight).bfloat16(), False: normed.bfloat16() * weight.bfloat16()}
    assert not torch.equal(expected[True], expected[False])
    for late, value in expected.items():
        norm = RMSNorm(32, 1e-6, late)
        norm.weight.data.copy_(weight)
        assert torch.equal(norm(x), value)
