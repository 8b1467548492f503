"""Gated DeltaNet as a layer: its formulas written out, packed segments, padding, pieces and types."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from coterie.config import ConfigError
from coterie.config.mixers import DeltaNetConfig
from coterie.infer.cache import SequenceCache
from coterie.nn.causal_conv import causal_conv
from coterie.nn.forward_context import ForwardContext
from coterie.nn.gated_delta import GatedDeltaNet
from tests.arithmetic import assert_close, assert_model_close
from tests.infer.models import DELTA, tiny_model

WIDTH = 10


def layer(config: DeltaNetConfig = DELTA, seed: int = 0) -> GatedDeltaNet:
    made = GatedDeltaNet(WIDTH, config, 1e-6)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.4
            parameter.copy_(1 + noise if name == "norm.weight" else noise)
    return made


def drawn(num_tokens: int, seed: int = 0) -> Tensor:
    return torch.randn((num_tokens, WIDTH), generator=torch.Generator().manual_seed(seed))


def written_out(made: GatedDeltaNet, x_TD: Tensor) -> Tensor:
    """One sequence, one token and one head at a time, from the published formulas."""
    c, results = made.config, []
    keys = c.num_key_heads * c.key_dim
    states = [torch.zeros(c.key_dim, c.value_dim) for _ in range(c.num_value_heads)]
    inputs = [torch.zeros(c.channels)] * (c.kernel - 1) + list(x_TD @ made.qkv.weight.T)
    for t, x in enumerate(x_TD):
        u = F.silu(sum(made.conv[:, k] * inputs[t + k] for k in range(c.kernel)))
        heads = []
        for h in range(c.num_value_heads):
            of = h * c.num_key_heads // c.num_value_heads * c.key_dim
            q, k = u[of : of + c.key_dim], u[keys + of : keys + of + c.key_dim]
            v = u[2 * keys + h * c.value_dim :][: c.value_dim]
            q = q / (q.square().sum() + 1e-6).sqrt() / c.key_dim**0.5
            k = k / (k.square().sum() + 1e-6).sqrt()
            decay = torch.exp(-made.A_log[h].exp() * F.softplus(made.a.weight[h] @ x + made.dt_bias[h]))
            beta = torch.sigmoid(made.b.weight[h] @ x)
            state = decay * states[h]
            states[h] = state + torch.outer(k, beta * (v - state.T @ k))
            o = states[h].T @ q
            z = (made.z.weight @ x)[h * c.value_dim :][: c.value_dim]
            heads.append(o / (o.square().mean() + 1e-6).sqrt() * made.norm.weight * F.silu(z))
        results.append(made.o.weight @ torch.cat(heads))
    return torch.stack(results)


@pytest.mark.parametrize("config", [DELTA, DELTA.model_copy(update={"num_key_heads": 4, "kernel": 2})])
def test_packed_segments_equal_the_formulas_of_each_alone(config: DeltaNetConfig) -> None:
    made, lengths = layer(config), (70, 1, 3)
    with torch.no_grad():
        found = made(drawn(sum(lengths)), ForwardContext.packed(lengths))
        expected = torch.cat([written_out(made, part) for part in drawn(sum(lengths)).split(lengths)])
    assert_close(found, expected, terms=64, depth=24)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(2, 5))
@settings(max_examples=25, deadline=None)
def test_the_convolution_in_pieces_equals_the_whole(lengths: list[int], taps: int) -> None:
    x, weight, bias = torch.randn(sum(lengths), 3), torch.randn(3, taps), torch.randn(3)
    padded = F.pad(x.T[None], (taps - 1, 0))
    expected = F.conv1d(padded, weight[:, None], bias, groups=3)[0].T
    tail, found = None, []
    for part in x.split(lengths):
        y, (tail,) = causal_conv(part, weight, bias, ForwardContext.packed([len(part)]), [tail])
        found.append(y)
    assert_close(torch.cat(found), expected, terms=taps + 1, size=float(x.abs().max() * weight.abs().max()))
    packed, none = causal_conv(x, weight, bias, ForwardContext.packed(lengths))
    alone = [
        causal_conv(part, weight, bias, ForwardContext.packed([len(part)]))[0] for part in x.split(lengths)
    ]
    assert torch.equal(packed, torch.cat(alone)) and none == []


def test_padding_and_other_documents_never_reach_a_token() -> None:
    made, lengths = layer(), (9, 20, 6)
    valid = torch.ones(35, dtype=torch.bool)
    valid[29:] = False
    x = drawn(35)
    other = x.clone()
    other[:9], other[29:] = drawn(9, 1), 1e4
    with torch.no_grad():
        found, changed = (made(each, ForwardContext.packed(lengths, valid_T=valid)) for each in (x, other))
    assert torch.equal(found[9:29], changed[9:29]) and not torch.equal(found[:9], changed[:9])


@pytest.mark.parametrize("pieces", [[1] * 12, [5, 1, 1, 70, 3], [40, 64]])
def test_decoding_equals_the_whole_forward_for_unequal_lengths(pieces: list[int]) -> None:
    model = tiny_model("delta", max_positions=400)
    ids = torch.randint(0, 61, (2, sum(pieces) + 3), generator=torch.Generator().manual_seed(1))
    lengths = (sum(pieces) + 3, sum(pieces))
    caches = [SequenceCache(model.config), SequenceCache(model.config)]
    with torch.no_grad():
        whole = [
            model.logits(model(row[:n], ForwardContext.packed([n])))
            for row, n in zip(ids, lengths, strict=True)
        ]
        model(ids[0, :3], ForwardContext.packed([3]), caches[:1])
        at = 0
        for piece in pieces:
            new = torch.cat((ids[0, at + 3 : at + 3 + piece], ids[1, at : at + piece]))
            context = ForwardContext.packed([piece] * 2, [at + 3, at])
            found = model.logits(model(new, context, caches))
            expected = torch.cat((whole[0][at + 3 : at + 3 + piece], whole[1][at : at + piece]))
            assert_model_close(model.config, found, expected, max(lengths))
            at += piece


def test_a_change_of_type_leaves_decays_exact() -> None:
    made = layer()
    exact = {name: p.detach().clone() for name, p in made.named_parameters()}
    made.to(torch.bfloat16)
    kept = {name for name, p in made.named_parameters() if p.dtype == torch.float32}
    assert kept == {"A_log", "dt_bias", "norm.weight"}
    assert all(torch.equal(dict(made.named_parameters())[name], exact[name]) for name in kept)
    made.to(torch.float32)
    assert {p.dtype for p in made.parameters()} == {torch.float32}


def test_fresh_decays_are_the_published_ones() -> None:
    model = tiny_model("delta")
    model.initialise(seed=1)
    attention = model.blocks[0].attention
    assert torch.equal(attention.dt_bias, torch.ones(4)) and torch.equal(attention.norm.weight, torch.ones(6))
    assert bool((attention.A_log.exp() <= 16).all()) and attention.A_log.std() > 0
    assert 0.01 < float(attention.conv.detach().std()) < 0.03


def test_value_heads_must_be_shared_evenly() -> None:
    with pytest.raises(ConfigError, match="multiple of num_key_heads"):
        DeltaNetConfig.from_dict({"num_key_heads": 3, "num_value_heads": 4, "key_dim": 2, "value_dim": 2})
