import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.nn.logprobs import token_logprobs
from tests.arithmetic import assert_close, assert_norm_close, largest


def reference(h, weight, targets, cap=None):
    scores = h @ weight.t()
    scores = scores if cap is None else cap * torch.tanh(scores / cap)
    return scores.log_softmax(-1).gather(1, targets[:, None])[:, 0]


def both(h, weight, targets, upstream, cap=None, **options):
    """(value, gradient of h, gradient of the head) of ours in float32 and of the reference in float64."""
    results = []
    for dtype in (torch.float32, torch.float64):
        leaves = [x.detach().to(dtype).requires_grad_() for x in (h, weight)]
        ours = dtype == torch.float32
        if ours:
            logp = token_logprobs(*leaves, targets, cap=cap, **options)
        else:
            logp = reference(*leaves, targets, cap)
        results.append([logp, *torch.autograd.grad(logp, leaves, upstream.to(dtype))])
    return zip(*results, strict=True)


@settings(max_examples=60, deadline=None)
@given(
    num_tokens=st.integers(1, 60),
    vocab=st.integers(1, 70),
    chunk=st.one_of(st.none(), st.integers(1, 64)),
    keep_bytes=st.sampled_from([0, 500, 3000, 1 << 20]),
    scale=st.sampled_from([0.1, 1.0, 8.0]),
    seed=st.integers(0, 999),
    cap=st.sampled_from([None, 2.0, 30.0]),
)
def test_value_and_gradients_equal_float64(num_tokens, vocab, chunk, keep_bytes, scale, seed, cap):
    torch.manual_seed(seed)
    h, weight = torch.randn(num_tokens, 12), scale * torch.randn(vocab, 12)
    targets, upstream = torch.randint(0, vocab, (num_tokens,)), torch.randn(num_tokens)
    terms = max(num_tokens, vocab, 12)
    value, *gradients = both(h, weight, targets, upstream, cap, chunk=chunk, keep_bytes=keep_bytes)
    assert_close(*value, terms, depth=3, size=scale)
    for ours, exact in gradients:
        # Probabilities have the absolute errors of scores as their relative ones.
        assert_close(ours, exact, terms, depth=3, size=max(1.0, scale) * largest(exact))


def test_hand_computed():
    # Two tokens over scores (0, log 3): probabilities 1/4 and 3/4.
    h, weight = torch.ones(2, 1), torch.tensor([[0.0], [3.0]]).log().nan_to_num(neginf=0.0)
    logp = token_logprobs(h, weight, torch.tensor([0, 1]))
    assert_close(logp.exp(), torch.tensor([0.25, 0.75]), terms=2, depth=2)


@pytest.mark.parametrize("keep_bytes", [0, 1 << 20])
def test_extreme_scores_stay_finite_and_exact(keep_bytes):
    h = torch.tensor([[1.0], [1.0], [-1.0]], requires_grad=True)
    weight = torch.tensor([[0.0], [1000.0], [-1000.0]], requires_grad=True)
    logp = token_logprobs(h, weight, torch.tensor([0, 1, 2]), keep_bytes=keep_bytes)
    assert logp.tolist() == [-1000.0, 0.0, 0.0]
    logp.sum().backward()
    # Only the first token is wrong: d logp / d h = w[0] - w[1], d logp / d w = h (onehot - softmax).
    assert h.grad.flatten().tolist() == [-1000.0, 0.0, 0.0]
    assert weight.grad.flatten().tolist() == [1.0, -1.0, 0.0]


def test_how_much_is_kept_changes_memory_and_not_the_result():
    torch.manual_seed(0)
    h, weight = torch.randn(100, 8, requires_grad=True), torch.randn(64, 8, requires_grad=True)
    targets, upstream = torch.randint(0, 64, (100,)), torch.randn(100)
    gradients = []
    for keep_bytes, kept in ((0, 0), (16 * 64 * 4 * 2 + 900, 2), (1 << 20, 7)):
        logp = token_logprobs(h, weight, targets, chunk=16, keep_bytes=keep_bytes)
        assert len(logp.grad_fn.kept) == kept
        gradients.append(torch.autograd.grad(logp, (h, weight), upstream))
    for other in gradients[1:]:
        for a, b in zip(gradients[0], other, strict=True):
            assert_close(a, b, terms=100, depth=3)


def test_a_short_last_chunk_is_not_kept_behind_one_that_did_not_fit():
    torch.manual_seed(0)
    h, weight = torch.randn(17, 8, requires_grad=True), torch.randn(64, 8)
    logp = token_logprobs(h, weight, torch.zeros(17, dtype=torch.int64), chunk=16, keep_bytes=300)
    assert logp.grad_fn.kept == []


def test_nothing_is_kept_without_a_gradient():
    with torch.no_grad():
        logp = token_logprobs(torch.randn(9, 4), torch.randn(7, 4), torch.arange(7).repeat(2)[:9])
    assert logp.grad_fn is None
    assert bool((logp < 0).all())


def test_bfloat16_activations_with_float32_head():
    torch.manual_seed(0)
    h, weight = torch.randn(80, 16).bfloat16().requires_grad_(), torch.randn(50, 16, requires_grad=True)
    targets, upstream = torch.randint(0, 50, (80,)), torch.randn(80)
    logp = token_logprobs(h, weight, targets, chunk=32)
    assert logp.dtype == torch.float32
    h64, weight64 = h.detach().double().requires_grad_(), weight.detach().bfloat16().double().requires_grad_()
    exact = reference(h64, weight64, targets)
    assert_close(logp, exact, terms=16, dtype=torch.bfloat16)
    ours = torch.autograd.grad(logp, (h, weight), upstream)
    assert [g.dtype for g in ours] == [torch.bfloat16, torch.float32]
    for a, b in zip(ours, torch.autograd.grad(exact, (h64, weight64), upstream.double()), strict=True):
        assert_norm_close(a, b, terms=80, depth=2, dtype=torch.bfloat16)


def test_no_tokens_at_all():
    h, weight = torch.randn(0, 4, requires_grad=True), torch.randn(7, 4, requires_grad=True)
    logp = token_logprobs(h, weight, torch.zeros(0, dtype=torch.int64))
    assert logp.shape == (0,)
    logp.sum().backward()
    assert h.grad.shape == (0, 4) and bool((weight.grad == 0).all())
