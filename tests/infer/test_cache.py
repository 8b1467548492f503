"""The key/value cache against a plain list of everything ever appended."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.config import AttentionConfig, BlockConfig, CoterieError, FeedForwardConfig, ModelConfig
from coterie.infer.cache import SequenceCache

MASKS = ["causal", "sliding", "chunked"]


def make_cache(mask: str, window: int, num_layers: int = 1) -> SequenceCache:
    attention = AttentionConfig.from_dict(
        {
            "num_heads": 2,
            "num_kv_heads": 2,
            "head_dim": 4,
            "mask": mask,
            "window": None if mask == "causal" else window,
        }
    )
    block = BlockConfig(attention=attention, ffn=FeedForwardConfig(width=4))
    return SequenceCache(
        ModelConfig(family="test", vocab_size=5, width=8, blocks=(block,) * num_layers, max_positions=10_000)
    )


def feed(cache: SequenceCache, count: int, layer: int = 0, sign: float = 1.0) -> tuple[list[float], int]:
    """Append `count` tokens whose keys are their position and whose values its negative; what came back."""
    positions = sign * torch.arange(cache.length, cache.length + count, dtype=torch.float32)
    k_TGD = positions[:, None, None].expand(count, 2, 4)
    keys, values, first = cache.layer(layer).append(k_TGD, -k_TGD)
    assert torch.equal(keys, -values) and keys.shape[1:] == (2, 4)
    return keys[:, 1, 3].tolist(), first


def expected_first(mask: str, window: int, position: int) -> int:
    """By hand: the first key a query at `position` sees."""
    seen = [
        j
        for j in range(position + 1)
        if mask == "causal"
        or (mask == "sliding" and position - window < j)
        or (mask == "chunked" and j // window == position // window)
    ]
    return min(seen)


@given(
    st.sampled_from(MASKS),
    st.integers(1, 30),
    st.lists(st.integers(1, 70), min_size=1, max_size=12),
    st.integers(0, 150),
)
@settings(max_examples=150, deadline=None)
def test_keeps_exactly_what_the_new_queries_see(
    mask: str, window: int, counts: list[int], decoded: int
) -> None:
    cache = make_cache(mask, window)
    for count in counts + [1] * decoded:
        first_seen = expected_first(mask, window, cache.length)
        keys, first = feed(cache, count)
        end = cache.length + count
        assert first == first_seen
        assert keys == [float(p) for p in range(first_seen, end)]
        cache.advance(count)
    assert cache.length == sum(counts) + decoded


def test_a_decoded_token_writes_into_the_same_buffer_most_of_the_time() -> None:
    cache = make_cache("causal", 0)
    pointers = set()
    for _ in range(1000):
        keys, _, _ = cache.layer(0).append(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4))
        pointers.add(keys.data_ptr())
        cache.advance(1)
    # 64, 128, 256, 512, 1024 rows: five buffers, and views of them, not copies
    assert len(pointers) <= 5
    assert cache.num_bytes == 2 * 1024 * 2 * 4 * 4


@pytest.mark.parametrize("mask", ["sliding", "chunked"])
def test_memory_of_a_window_does_not_grow_with_the_sequence(mask: str) -> None:
    cache = make_cache(mask, 100)
    moves, last = 0, None
    for step in range(4000):
        keys, _, first = cache.layer(0).append(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4))
        row = (keys.data_ptr(), step - first)
        moves += last is not None and row[0] < last
        last = row[0]
        cache.advance(1)
    assert cache.num_bytes <= 2 * (4 * 100) * 2 * 4 * 4
    # A move costs at most a window of rows and happens at most once per window.
    assert moves <= 4000 / 100 + 3


@given(st.sampled_from(MASKS), st.integers(1, 12), st.integers(1, 40), st.integers(0, 40), st.integers(1, 9))
@settings(max_examples=150, deadline=None)
def test_fork_and_truncate(mask: str, window: int, prefix: int, back: int, more: int) -> None:
    cache = make_cache(mask, window)
    feed(cache, prefix)
    cache.advance(prefix)
    fork = cache.fork()
    feed(fork, more, sign=-1.0)
    fork.advance(more)
    assert (cache.length, fork.length) == (prefix, prefix + more)
    keys, first = feed(cache, more)  # the fork's negative keys never reach the original
    assert keys == [float(p) for p in range(first, prefix + more)]
    cache.advance(more)

    length = max(0, cache.length - back)
    held_from = first
    if expected_first(mask, window, length) < held_from:
        with pytest.raises(CoterieError, match="cannot go back"):
            cache.truncate(length)
        return
    cache.truncate(length)
    keys, first = feed(cache, 1)
    assert first == expected_first(mask, window, length)
    assert keys == [float(p) for p in range(first, length + 1)]


def test_truncate_refuses_lengths_it_does_not_have() -> None:
    cache = make_cache("causal", 0)
    feed(cache, 3)
    cache.advance(3)
    for length in (-1, 4):
        with pytest.raises(CoterieError, match=f"length {length}; it holds 3"):
            cache.truncate(length)


@pytest.mark.parametrize("mask", MASKS)
def test_an_interrupted_pass_leaves_no_trace(mask: str) -> None:
    cache = make_cache(mask, 6, num_layers=2)
    for layer in (0, 1):
        feed(cache, 9, layer)
    cache.advance(9)
    feed(cache, 2, layer=0, sign=-1.0)  # the pass stops here: layer 1 never came
    results = [feed(cache, 2, layer) for layer in (0, 1)]
    assert results[0] == results[1]
    assert results[0][0] == [float(p) for p in range(results[0][1], 11)]


def test_buffers_go_with_the_last_reference() -> None:
    """A ring of references would keep them until Python's collector runs, a thousand requests later."""
    gc.collect()
    gc.disable()
    try:
        cache = make_cache("causal", 1, num_layers=2)
        for layer in (0, 1):
            feed(cache, 3, layer)
        cache.advance(3)
        copy = cache.fork(2)
        gone = [
            weakref.ref(each)
            for cache_ in (cache, copy)
            for each in (cache_, cache_.layer(0), cache_.layer(1))
        ]
        del cache, copy
        assert [each() for each in gone] == [None] * len(gone)
    finally:
        gc.enable()
