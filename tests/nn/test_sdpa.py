import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.nn.forward_context import ForwardContext
from coterie.nn.kernels import causal_blocks, choose
from coterie.nn.sdpa import attend, attend_cached
from tests.arithmetic import FORWARD_AND_BACKWARD, assert_close, assert_norm_close

DIM, DEPTH = 8, 2  # scores, values
MASKS = st.one_of(
    st.just(("causal", None)),
    st.tuples(st.sampled_from(["sliding", "chunked"]), st.integers(1, 50)),
)


def naive(q, k, v, positions, segments, mask, window, scale):
    """One token and head at a time over the keys that the definition of the mask names."""
    num_heads, num_groups = q.shape[1], k.shape[1]
    y = torch.zeros_like(q)
    for t in range(q.shape[0]):
        seen = []
        for s in range(k.shape[0]):
            i, j = int(positions[t]), int(positions[s])
            near = mask == "causal" or (i - j < window if mask == "sliding" else i // window == j // window)
            if segments[t] == segments[s] and j <= i and near:
                seen.append(s)
        for head in range(num_heads):
            group = head // (num_heads // num_groups)
            probability = torch.softmax(k[seen, group] @ q[t, head] * scale, 0)
            y[t, head] = probability @ v[seen, group]
    return y


def dense_reference(q, k, v, context, mask, window, scale):
    """The same with one masked softmax, for gradients (proved equal to `naive` below)."""
    segments = torch.repeat_interleave(torch.arange(len(context.lengths)), torch.tensor(context.lengths))
    i, j = context.positions_T[:, None], context.positions_T[None]
    seen = (j <= i) & (segments[:, None] == segments[None])
    if mask == "sliding":
        seen &= i - j < window
    elif mask == "chunked":
        seen &= i // window == j // window
    copies = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(copies, 1), v.repeat_interleave(copies, 1)
    scores = torch.einsum("thd,shd->hts", q, k) * scale
    return torch.einsum("hts,shd->thd", scores.masked_fill(~seen, float("-inf")).softmax(-1), v)


def tensors(seed, num_tokens, num_heads, num_groups, dim=DIM):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(num_tokens, n, dim, generator=generator) for n in (num_heads, num_groups, num_groups)]


@settings(max_examples=12, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    kind=st.one_of(
        st.just(("causal", None)), st.tuples(st.sampled_from(["sliding", "chunked"]), st.integers(1, 7))
    ),
    start=st.integers(0, 9),
    seed=st.integers(0, 999),
)
def test_equals_the_definition_token_by_token(lengths, kind, start, seed):
    context = ForwardContext.packed(lengths, [start] * len(lengths))
    segments = [n for n, length in enumerate(lengths) for _ in range(length)]
    q, k, v = tensors(seed, sum(lengths), 4, 2)
    slow = naive(q, k, v, context.positions_T, segments, *kind, 0.4)
    for function in (attend, dense_reference):
        assert_close(function(q, k, v, context, *kind, 0.4), slow, max(DIM, *lengths), DEPTH)


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.one_of(
        st.lists(st.integers(1, 150), min_size=1, max_size=5),
        st.tuples(st.integers(1, 90), st.integers(1, 4)).map(lambda pair: [pair[0]] * pair[1]),
    ),
    kind=MASKS,
    heads=st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 1)]),
    starts=st.integers(0, 60),
    seed=st.integers(0, 999),
)
def test_packed_values_and_gradients(lengths, kind, heads, starts, seed):
    context = ForwardContext.packed(lengths, [starts * n for n in range(len(lengths))])
    leaves = [x.requires_grad_() for x in tensors(seed, sum(lengths), *heads)]
    upstream = tensors(seed + 1, sum(lengths), *heads)[0]
    results = []
    for function in (attend, dense_reference):
        y = function(*leaves, context, *kind, 0.35)
        results.append([y, *torch.autograd.grad(y, leaves, upstream)])
    for ours, slow in zip(*results, strict=True):
        assert_close(ours, slow, max(DIM, *lengths), DEPTH * FORWARD_AND_BACKWARD, size=1.0)


@settings(max_examples=40, deadline=None)
@given(
    kept=st.integers(0, 70),
    new=st.integers(1, 40),
    first=st.integers(0, 80),
    kind=MASKS,
    heads=st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 1)]),
    seed=st.integers(0, 999),
)
def test_cached_equals_the_last_rows_of_the_whole(kept, new, first, kind, heads, seed):
    total = kept + new
    q, k, v = tensors(seed, total, *heads)
    context = ForwardContext.packed([total], [first])
    whole = dense_reference(q, k, v, context, *kind, 0.35)
    y = attend_cached(q[kept:], k, v, context.positions_T[kept:], first, *kind, 0.35)
    assert_close(y, whole[kept:], max(DIM, total), DEPTH)


@pytest.mark.parametrize(("mask", "window", "needed"), [("sliding", 16, 15 + 4), ("chunked", 16, 4 + 4)])
def test_cached_needs_only_the_keys_that_the_mask_shows(mask, window, needed):
    q, k, v = tensors(0, 40, 4, 2)
    positions = torch.arange(40)  # new tokens 36..39; the chunk began at 32
    whole = attend_cached(q[36:], k, v, positions[36:], 0, mask, window, 0.3)
    part = attend_cached(q[36:], k[-needed:], v[-needed:], positions[36:], 40 - needed, mask, window, 0.3)
    assert_close(part, whole, terms=needed, depth=DEPTH)


def test_a_segment_never_reads_another():
    torch.manual_seed(0)
    context = ForwardContext.packed([30, 50, 30, 7])
    q, k, v = tensors(1, 117, 2, 1)
    before = attend(q, k, v, context, "causal", None, 0.3)
    k[30:80] += 100
    v[30:80] = float("nan")
    after = attend(q, k, v, context, "causal", None, 0.3)
    kept = [*range(30), *range(80, 117)]
    assert torch.equal(before[kept], after[kept])
    assert bool(after[30:80].isnan().all())


def test_index_tables_are_made_once_per_layout():
    context = ForwardContext.packed([5, 40, 9])
    q, k, v = tensors(0, 54, 2, 2)
    attend(q, k, v, context, "sliding", 8, 0.3)
    made = dict(context.memo)
    attend(q, k, v, context, "sliding", 8, 0.3)
    assert all(context.memo[key] is made[key] for key in made) and len(context.memo) == len(made) == 1
    attend(q, k, v, context, "causal", None, 0.3)
    assert len(context.memo) == 2


@pytest.mark.parametrize("kind", [("causal", None), ("sliding", 20), ("chunked", 20)])
def test_bfloat16_is_near_float32(kind):
    context = ForwardContext.packed([64, 33, 90])
    leaves = tensors(3, 187, 4, 2, dim=16)
    upstream = tensors(4, 187, 4, 2, dim=16)[0]
    results = []
    for dtype in (torch.bfloat16, torch.float32):
        cast = [x.bfloat16().to(dtype).requires_grad_() for x in leaves]
        y = attend(*cast, context, *kind, 0.25)
        assert y.dtype == dtype
        results.append([x.float() for x in (y, *torch.autograd.grad(y, cast, upstream.to(dtype)))])
    for half, full in zip(*results, strict=True):
        assert_norm_close(half, full, 187, DEPTH, torch.bfloat16)


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=3),
    heads=st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 1)]),
    block=st.sampled_from([1, 7, 64]),
    num_bytes=st.sampled_from([1, 1 << 14, 1 << 20]),
    keep=st.sampled_from([0, 30000, 1 << 24]),
    seed=st.integers(0, 999),
)
def test_blocks_equal_one_softmax(lengths, heads, block, num_bytes, keep, seed):
    context = ForwardContext.packed(lengths)
    leaves = [x.requires_grad_() for x in tensors(seed, sum(lengths), *heads)]
    upstream = tensors(seed + 1, sum(lengths), *heads)[0]
    with pytest.MonkeyPatch.context() as patch:
        # Short segments too: in float32 the arithmetic of blocks can be compared closely.
        patch.setattr(choose, "attends_by_blocks", lambda q: True)
        patch.setattr(causal_blocks, "BLOCK_QUERIES", block)
        patch.setattr(causal_blocks, "BLOCK_BYTES", num_bytes)
        patch.setattr(causal_blocks, "KEEP_BYTES", keep)
        y = attend(*leaves, context, "causal", None, 0.35)
    exact = dense_reference(*leaves, context, "causal", None, 0.35)
    ours = [y, *torch.autograd.grad(y, leaves, upstream)]
    for a, b in zip(ours, [exact, *torch.autograd.grad(exact, leaves, upstream)], strict=True):
        assert_close(a, b, max(DIM, *lengths), DEPTH * FORWARD_AND_BACKWARD, size=1.0)
