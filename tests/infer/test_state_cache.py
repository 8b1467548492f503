"""States of mixers in the cache: taken over at the end of a pass, copied at borders, never shared."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.config import CoterieError
from coterie.infer.cache import SequenceCache
from coterie.infer.engine import Engine
from coterie.infer.prefix import PrefixCache
from coterie.infer.request import Reply, RequestOptions
from coterie.infer.sampling import SamplingParams
from coterie.infer.state_cache import BORDER, SequenceLength, StateCache, least_needed
from coterie.nn.forward_context import ForwardContext
from coterie.nn.transformer import Transformer
from tests.arithmetic import approx_model, assert_model_close
from tests.infer.models import tiny_model, training_logprobs

MODEL = tiny_model("delta", max_positions=400)
PARTS = tiny_model("parts", max_positions=400)


def ids_of(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 61, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.inference_mode()
def feed(cache: SequenceCache, ids: list[int], model: Transformer = MODEL) -> torch.Tensor:
    """Log-probabilities after each of the next tokens."""
    context = ForwardContext.packed([len(ids)], [cache.length])
    return model.logits(model(torch.tensor(ids), context, [cache])).log_softmax(-1)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 4), st.data())
@settings(max_examples=30, deadline=None)
def test_any_pieces_forks_and_returns_continue_like_the_whole(
    pieces: list[int], snapshots: int, data: st.DataObject
) -> None:
    ids = ids_of(sum(pieces) + 10)
    expected = training_logprobs(MODEL, ids)
    cache = SequenceCache(MODEL.config, snapshots)
    taken = []
    for piece in pieces:
        feed(cache, ids[cache.length : cache.length + piece])
        if piece > 1 and cache.length % BORDER == 0:
            taken.append(cache.length)
    possible = [n for n in range(cache.length + 1) if cache.can_go_back(n)]
    assert {0, cache.length, *taken[-1:]} <= set(possible) <= {0, cache.length, *taken}
    assert len(possible) <= snapshots + 2
    assert cache.reusable(cache.length - 1) == max([n for n in possible if n < cache.length])
    back = data.draw(st.sampled_from(possible))
    fork = cache.fork(back)
    for one in (fork, cache):
        if one is cache:
            cache.truncate(back)
            assert [n for n in range(cache.length + 1) if cache.can_go_back(n)] == [
                n for n in possible if n <= back
            ]
        assert one.length == back
        found = feed(one, ids[back : back + 10])
        assert_model_close(MODEL.config, found, expected[back : back + 10], len(ids))
    wrong = next((n for n in range(back) if n not in possible), None)
    if wrong is not None:
        with pytest.raises(CoterieError, match="state"):
            cache.fork(wrong)
        with pytest.raises(CoterieError, match="copies at"):
            cache.truncate(wrong)


def test_a_fork_shares_no_memory() -> None:
    cache = SequenceCache(MODEL.config, 2)
    feed(cache, ids_of(32))
    fork, before = cache.fork(), [part.clone() for part in cache.state(0).read() or ()]
    pointers = [{part.data_ptr() for part in one.state(0).read() or ()} for one in (cache, fork)]
    assert len(pointers[0]) == 2 and not pointers[0] & pointers[1]
    for part in fork.state(0).read() or ():
        part.fill_(float("nan"))
    assert all(torch.equal(a, b) for a, b in zip(before, cache.state(0).read() or (), strict=True))


def test_states_of_a_batch_do_not_hold_each_other() -> None:
    caches = [SequenceCache(MODEL.config) for _ in range(3)]
    with torch.inference_mode():
        MODEL(torch.tensor(ids_of(12)), ForwardContext.packed([4] * 3), caches)
        MODEL(torch.tensor(ids_of(3)), ForwardContext.packed([1] * 3, [4] * 3), caches)
    for cache in caches:
        assert all(part.untyped_storage().nbytes() == part.nbytes for part in cache.state(0).read() or ())


class Interrupted(Exception):
    pass


def test_a_pass_that_fails_leaves_the_state_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = ids_of(40)
    cache = SequenceCache(MODEL.config, 2)
    feed(cache, ids[:20])
    with monkeypatch.context() as patch:
        patch.setattr(MODEL.blocks[1], "forward", lambda *args: (_ for _ in ()).throw(Interrupted()))
        with pytest.raises(Interrupted):
            feed(cache, ids[20:30])
    assert cache.length == 20
    expected = SequenceCache(MODEL.config, 2)
    feed(expected, ids[:20])
    assert torch.equal(feed(cache, ids[20:]), feed(expected, ids[20:]))


def test_the_state_is_kept_in_float32_and_does_not_grow() -> None:
    model = tiny_model("delta").bfloat16()
    model.compute_dtype = torch.bfloat16
    cache, sizes = SequenceCache(model.config), set()
    for start in range(5):
        feed(cache, ids_of(9, start), model)
        sizes.add(cache.state(0).num_bytes)
        assert {part.dtype for part in cache.state(0).read() or ()} == {torch.float32}
    assert sizes == {4 * model.config.blocks[0].attention.state_values}


def run(engine: Engine, prompts: list[list[int]], **settings: object) -> list[Reply]:
    params = SamplingParams(**{"temperature": 0.0, "max_tokens": 5, **settings})
    replies = {engine.add(prompt, params, RequestOptions()): Reply() for prompt in prompts}
    while engine.busy:
        for event in engine.step():
            replies[event.request].add(event)
    return list(replies.values())


def test_a_shared_start_is_read_from_the_copy_before_it_ends() -> None:
    start = ids_of(100, 1)
    engine = Engine(MODEL, prefix_bytes=1 << 20)
    first, second = ([*start, *ids_of(7, seed)] for seed in (2, 3))
    assert [reply.cached for reply in run(engine, [first])] == [0]
    again, other = run(engine, [first])[0], run(engine, [second])[0]
    assert (again.cached, other.cached) == (96, 96)
    assert other.ids == run(Engine(MODEL), [second])[0].ids
    longer = first + again.ids + ids_of(5, 4)  # the next turn of a conversation
    assert run(engine, [longer])[0].cached == len(first) + 4
    assert run(engine, [longer])[0].ids == run(Engine(MODEL), [longer])[0].ids


@given(st.integers(0, 239), st.integers(1, 60), st.booleans())
@settings(max_examples=8, deadline=None)
def test_a_prompt_that_goes_another_way_in_the_middle_reads_less_than_half_again(
    shared: int, rest: int, together: bool
) -> None:
    """And never from a state that has seen a token of the other one."""
    first = ids_of(240, 1)
    other = [*first[:shared], (first[shared] + 1) % 61, *ids_of(rest, 2)]
    engine = Engine(MODEL, prefix_bytes=1 << 22)
    if together:
        replies = run(engine, [first, other])
        assert replies[0].ids == run(Engine(MODEL), [first])[0].ids
    else:
        run(engine, [first])
        replies = run(engine, [other])
        copies = [n for n in (64, 128, 224) if n <= shared]
        assert replies[0].cached == max(copies, default=0)
    assert replies[-1].cached <= shared
    alone = run(Engine(MODEL), [other])[0]
    assert replies[-1].ids == alone.ids
    assert replies[-1].logprobs == approx_model(MODEL.config, alone.logprobs, len(other) + 5)


def test_the_best_copy_wins_although_another_sequence_shares_more() -> None:
    start = ids_of(90, 1)
    prefixes = PrefixCache(1 << 20)
    far, near = prefixes.new_sequence(MODEL.config), prefixes.new_sequence(MODEL.config)
    feed(far, start[:16])
    feed(far, start[16:85])
    feed(near, start[:64])
    feed(near, ids_of(10, 5))
    prefixes.keep("salt", start[:85], far)
    prefixes.keep("salt", start[:64] + ids_of(10, 5), near)
    found = prefixes.find("salt", [*start[:80], 1, 2], 81)
    assert found is not None and found.length == 64


@pytest.mark.parametrize(("model", "chunk"), [(MODEL, 16), (MODEL, 24), (PARTS, 24)])
def test_deterministic_bytes_alone_among_others_and_from_copies(model: Transformer, chunk: int) -> None:
    prompts = [ids_of(70, 1) + ids_of(n, n) for n in (3, 9, 31)]
    alone = [run(Engine(model, prefill_chunk=chunk, deterministic=True), [p])[0] for p in prompts]
    engine = Engine(model, prefill_chunk=chunk, deterministic=True, prefix_bytes=1 << 20)
    together, later = run(engine, prompts), run(engine, prompts)
    for replies in (together, later):
        assert [(r.ids, r.logprobs) for r in replies] == [(r.ids, r.logprobs) for r in alone]
    assert all(r.cached and r.cached % chunk == 0 for r in later)


def test_cancelled_requests_leave_the_others_as_they_were() -> None:
    engine = Engine(MODEL, prefill_chunk=16, prefix_bytes=1 << 20)
    prompts = [ids_of(60, 1) + ids_of(9, n) for n in range(3)]
    expected = run(Engine(MODEL), prompts[:1])[0]
    params = SamplingParams(temperature=0.0, max_tokens=5)
    kept, *gone = (engine.add(prompt, params, RequestOptions()) for prompt in prompts)
    reply = Reply()
    for step in range(100):
        if step in (2, 4):
            assert engine.cancel(gone.pop(), keep=step == 4)
        for event in engine.step():
            if event.request == kept:
                reply.add(event)
        if not engine.busy:
            break
    assert reply.ids == expected.ids and not gone
    assert [r.ids for r in run(engine, prompts[1:])] == [r.ids for r in run(Engine(MODEL), prompts[1:])]


def test_copies_thin_out_evenly_and_the_last_stays() -> None:
    kept: list[int] = []
    for at in range(1, 101):
        kept.append(at)
        if len(kept) > 4:
            del kept[least_needed(kept)]
    assert kept[-1] == 100 and len(kept) == 4 and kept[0] <= 50


def test_a_layer_that_took_no_part_is_noticed() -> None:
    with pytest.raises(AssertionError, match="no part"):
        StateCache(SequenceLength(3)).settle(())
