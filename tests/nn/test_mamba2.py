"""Mamba-2 as a layer: its formulas written out, the chunked scan, gradients, pieces and types."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from coterie.config import ConfigError
from coterie.config.mixers import Mamba2Config
from coterie.nn.forward_context import ForwardContext
from coterie.nn.mamba2 import Mamba2, scan
from coterie.nn.recurrent import Chunks
from tests.arithmetic import assert_close
from tests.infer.models import tiny_model

WIDTH = 10
GROUPED = Mamba2Config(num_heads=4, head_dim=3, state=5, groups=2, kernel=3, bias=True)
LIMITED = Mamba2Config(num_heads=2, head_dim=4, state=3, conv_bias=False, step_low=0.4, step_high=1.1)


def layer(config: Mamba2Config) -> Mamba2:
    made, generator = Mamba2(WIDTH, config, 1e-5), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.4
            parameter.copy_(1 + noise if name == "norm.weight" else noise)
    return made


def drawn(num_tokens: int) -> Tensor:
    return torch.randn((num_tokens, WIDTH), generator=torch.Generator().manual_seed(1))


def written_out(made: Mamba2, x_TD: Tensor) -> Tensor:
    """One sequence, one token and one head at a time, from the published formulas."""
    c, results = made.config, []
    inner, shared = c.output_width, c.groups * c.state
    states = [torch.zeros(c.head_dim, c.state) for _ in range(c.num_heads)]
    inputs = [torch.zeros(c.channels)] * (c.kernel - 1) + list(made.xbc(x_TD))
    for t, token in enumerate(x_TD):
        u = sum(made.conv[:, k] * inputs[t + k] for k in range(c.kernel))
        u = F.silu(u if made.conv_bias is None else u + made.conv_bias)
        x, b, key = u[:inner], u[inner : inner + shared], u[inner + shared :]
        steps = F.softplus(made.dt(token[None])[0] + made.dt_bias)
        steps = steps.clamp(c.step_low, c.step_high)
        parts = []
        for h in range(c.num_heads):
            group = slice((g := h * c.groups // c.num_heads) * c.state, (g + 1) * c.state)
            mine = x[h * c.head_dim :][: c.head_dim]
            decay = torch.exp(-steps[h] * made.A_log[h].exp())
            states[h] = decay * states[h] + steps[h] * torch.outer(mine, b[group])
            parts.append(states[h] @ key[group] + made.skip[h] * mine)
        y = torch.cat(parts) * F.silu(made.z(token[None])[0])
        y = torch.cat([part / (part.square().mean() + 1e-5).sqrt() for part in y.chunk(c.groups)])
        results.append(made.o((y * made.norm.weight)[None])[0])
    return torch.stack(results)


@pytest.mark.parametrize("config", [GROUPED, LIMITED])
def test_packed_segments_equal_the_formulas_of_each_alone(config: Mamba2Config) -> None:
    made, lengths = layer(config), (70, 1, 3)
    with torch.no_grad():
        found = made(drawn(sum(lengths)), ForwardContext.packed(lengths))
        expected = torch.cat([written_out(made, part) for part in drawn(sum(lengths)).split(lengths)])
    assert_close(found, expected, terms=64, depth=24)


def recurrence(q: Tensor, k: Tensor, v: Tensor, g: Tensor, states: Tensor, lengths: list[int]) -> Tensor:
    results, start = [], 0
    for index, length in enumerate(lengths):
        state = states[index]
        for t in range(start, start + length):
            state = g[t].exp()[:, None, None] * state + torch.einsum("hk,hv->hkv", k[t], v[t])
            results.append(torch.einsum("hkv,hk->hv", state, q[t]))
        start += length
    return torch.stack(results)


def test_the_scan_and_its_gradients_equal_the_recurrence() -> None:
    lengths, generator = [130, 5, 64], torch.Generator().manual_seed(2)
    chunks, total = Chunks.of(ForwardContext.packed(lengths)), sum(lengths)
    sizes = [(total, 2, 4), (total, 2, 4), (total, 2, 3), (total, 2), (3, 2, 4, 3)]
    results = []
    for chunked in (True, False):
        generator.manual_seed(2)
        given = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
        given[3] = -given[3].exp()
        given = [x.requires_grad_() for x in given]
        y = scan(*given[:4], chunks, given[4])[0] if chunked else recurrence(*given, lengths)
        (y * torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y)).sum().backward()
        results.append([y.detach(), *(x.grad for x in given)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-10)


def test_a_change_of_type_leaves_decays_exact_and_fresh_ones_are_the_published() -> None:
    made = layer(GROUPED).to(torch.bfloat16)
    kept = {name for name, p in made.named_parameters() if p.dtype == torch.float32}
    assert kept == {"A_log", "dt_bias", "skip", "norm.weight"}
    model = tiny_model("mamba2")
    model.initialise(seed=1)
    fresh = model.blocks[0].attention
    assert torch.equal(fresh.A_log, torch.arange(1, 5).float().log()) and bool((fresh.skip == 1).all())
    steps = F.softplus(fresh.dt_bias)
    assert bool(((steps > 0.0009) & (steps < 0.11)).all()) and steps.std() > 0


def test_heads_must_be_shared_evenly() -> None:
    with pytest.raises(ConfigError, match="multiple of groups"):
        Mamba2Config.from_dict({"num_heads": 3, "head_dim": 2, "state": 2, "groups": 2})
