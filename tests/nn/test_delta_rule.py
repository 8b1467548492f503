"""The chunked gated delta rule against the plain recurrence, token by token."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from coterie.nn.delta_rule import delta_rule, delta_step
from coterie.nn.forward_context import ForwardContext
from coterie.nn.recurrent import Chunks
from tests.arithmetic import assert_close

HEADS, KEY, VALUE = 2, 5, 3


def inputs(lengths: list[int], seed: int, dtype: torch.dtype) -> list[Tensor]:
    """q, k, v, decay, beta and a state per segment; keys of unit length, as the rule needs them."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    total = sum(lengths)
    q, k, v = drawn(total, HEADS, KEY), drawn(total, HEADS, KEY), drawn(total, HEADS, VALUE)
    decay = -drawn(total, HEADS).exp()
    beta, states = drawn(total, HEADS).sigmoid(), drawn(len(lengths), HEADS, KEY, VALUE)
    return [q, torch.nn.functional.normalize(k, dim=-1), v, decay, beta, states]


def recurrence(given: list[Tensor], lengths: list[int]) -> tuple[Tensor, Tensor]:
    """The rule as its formulas say, one token after another."""
    *tokens, states = given
    results, after, start = [], [], 0
    for index, length in enumerate(lengths):
        state = states[index]
        for at in range(start, start + length):
            q, k, v, decay, beta = (x[at] for x in tokens)
            state = decay.exp()[:, None, None] * state
            known = torch.einsum("hkv,hk->hv", state, k)
            state = state + torch.einsum("hk,hv->hkv", k, beta[:, None] * (v - known))
            results.append(torch.einsum("hkv,hk->hv", state, q))
        after.append(state)
        start += length
    return torch.stack(results), torch.stack(after)


def chunks(lengths: list[int]) -> Chunks:
    return Chunks.of(ForwardContext.packed(lengths))


@given(st.lists(st.integers(1, 150), min_size=1, max_size=5), st.integers(0, 2**31))
@settings(max_examples=10, deadline=None)
def test_chunks_equal_the_recurrence(lengths: list[int], seed: int) -> None:
    given_ = inputs(lengths, seed, torch.float64)
    found = delta_rule(*given_[:-1], chunks(lengths), given_[-1])
    for ours, expected in zip(found, recurrence(given_, lengths), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12 * (1 + float(expected.abs().max())))


def test_chunks_equal_the_recurrence_in_float32_with_decays_of_every_size() -> None:
    lengths = [200, 1, 64, 65]
    given_ = inputs(lengths, 0, torch.float32)
    given_[3] = given_[3] * torch.logspace(-4, 3, sum(lengths))[:, None]
    found = delta_rule(*given_[:-1], chunks(lengths), given_[-1])
    for ours, expected in zip(found, recurrence(given_, lengths), strict=True):
        assert_close(ours, expected, terms=64, depth=8, size=float(given_[-1].abs().max()))


def test_gradients_equal_those_of_the_recurrence() -> None:
    lengths = [70, 3, 130]
    gradients = []
    for rule in (
        lambda x: delta_rule(*x[:-1], chunks(lengths), x[-1]),
        lambda x: recurrence(x, lengths),
    ):
        given_ = [x.requires_grad_() for x in inputs(lengths, 1, torch.float64)]
        results, states = rule(given_)
        weights = torch.linspace(-1, 1, results.numel(), dtype=torch.float64).view_as(results)
        ((results * weights).sum() + states.square().sum()).backward()
        gradients.append([x.grad for x in given_])
    for ours, expected in zip(*gradients, strict=True):
        assert ours is not None and expected is not None
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-10)


def test_gradients_by_finite_differences() -> None:
    lengths = [2, 1]
    given_ = [x.requires_grad_() for x in inputs(lengths, 2, torch.float64)]
    assert torch.autograd.gradcheck(lambda *x: delta_rule(*x[:-1], chunks(lengths), x[-1]), given_)


def test_a_step_is_one_token() -> None:
    given_ = inputs([1, 1, 1], 3, torch.float64)
    found = delta_step(*given_)
    for ours, expected in zip(found, recurrence(given_, [1, 1, 1]), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-13)
