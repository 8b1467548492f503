"""Shared prompts: equal replies, fewer tokens read, nothing shared across salts; deterministic bytes."""

from __future__ import annotations

import random
import struct

import pytest
import torch

from coterie.infer.cache import SequenceCache
from coterie.infer.engine import Engine
from coterie.infer.prefix import BLOCK, PrefixCache
from coterie.infer.request import Reply, RequestOptions
from coterie.infer.sampling import SamplingParams
from coterie.nn.steering import LayerControl, RouterControl
from tests.arithmetic import approx_model
from tests.infer.models import KINDS, tiny_model
from tests.infer.test_engine import prompts_of


def run(engine: Engine, jobs: list[tuple[list[int], SamplingParams, RequestOptions]]) -> list[Reply]:
    replies = {engine.add(prompt, params, options): Reply() for prompt, params, options in jobs}
    while engine.busy:
        for event in engine.step():
            replies[event.request].add(event)
    return list(replies.values())


def bits(reply: Reply) -> tuple[list[int], bytes]:
    return reply.ids, struct.pack(f"{len(reply.logprobs)}d", *reply.logprobs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_shared_start_changes_nothing_but_the_work(kind):
    model = tiny_model(kind, max_positions=200)
    start = prompts_of([70])[0]
    prompts = [start + tail for tail in prompts_of([9, 1, 30], seed=5)] + [[*start[:40], 3, 5, 7, 2], start]
    params = SamplingParams(temperature=0, max_tokens=6)
    engine = Engine(model, prefill_chunk=16, prefix_bytes=1 << 20)
    for prompt in prompts:
        reply = run(engine, [(prompt, params, RequestOptions())])[0]
        alone = Engine(model).generate([prompt], params)[0]
        assert reply.ids == alone.ids
        assert reply.logprobs == approx_model(model.config, alone.logprobs, len(prompt) + 6)
    if kind in ("dense", "moe"):  # without windows all that is common is found
        again = run(engine, [(prompts[0], params, RequestOptions()), (prompts[3], params, RequestOptions())])
        assert [r.cached for r in again] == [len(prompts[0]) - 1, len(prompts[3]) - 1]
    else:  # windows keep only the end of a sequence: it serves what begins with all of it
        longer = prompts[0] + Engine(model).generate(prompts[:1], params)[0].ids
        assert run(engine, [(longer, params, RequestOptions())])[0].cached == len(longer) - 1


def test_prompts_that_arrive_together_are_read_once():
    model = tiny_model("moe", max_positions=400)
    start = prompts_of([120])[0]
    params = SamplingParams(temperature=0, max_tokens=4)
    jobs = [([*start, i], params, RequestOptions()) for i in range(8)]
    engine = Engine(model, prefill_chunk=32, prefix_bytes=1 << 22)
    replies = run(engine, jobs)
    assert sum(reply.cached for reply in replies) >= 7 * 100
    for (prompt, _, _), reply in zip(jobs, replies, strict=True):
        assert reply.ids == Engine(model).generate([prompt], params)[0].ids


def test_salts_and_controls_do_not_share():
    model = tiny_model("moe")
    prompt = prompts_of([50])[0]
    params = SamplingParams(temperature=0, max_tokens=3)
    control = RouterControl(((0, LayerControl(masked=(1,))),))
    kinds = [
        RequestOptions(),
        RequestOptions(salt="a"),
        RequestOptions(control=control),
        RequestOptions(salt="a", control=control),
    ]
    engine = Engine(model, prefix_bytes=1 << 20)
    assert [run(engine, [(prompt, params, options)])[0].cached for options in kinds] == [0, 0, 0, 0]
    assert [run(engine, [(prompt, params, options)])[0].cached for options in kinds] == [49] * 4
    scored = run(engine, [(prompt, params, RequestOptions(prompt_logprobs=0))])[0]
    assert scored.cached == 0 and len(scored.prompt.logprobs) == 49


def test_memory_is_bounded_and_the_oldest_goes():
    model = tiny_model("dense")
    params = SamplingParams(temperature=0, max_tokens=2)
    one = Engine(model, prefix_bytes=1 << 30)
    run(one, [(prompts_of([40])[0], params, RequestOptions())])
    size = one.prefixes.num_bytes
    engine = Engine(model, prefix_bytes=2 * size)
    prompts = prompts_of([40, 40, 40], seed=8)
    for prompt in prompts:
        run(engine, [(prompt, params, RequestOptions())])
        assert engine.prefixes.num_bytes <= 2 * size
    assert len(engine.prefixes) == 2
    cached = [
        run(engine, [(prompt, params, RequestOptions())])[0].cached for prompt in (prompts[2], prompts[0])
    ]
    assert cached == [39, 0]
    engine.prefixes.drop()
    assert engine.prefixes.num_bytes == 0 and not engine.prefixes._by_block


def test_a_hash_collision_is_no_wrong_prefix(monkeypatch):
    monkeypatch.setattr(
        "coterie.infer.prefix.block_hashes", lambda salt, tokens: [7] * (len(tokens) // BLOCK)
    )
    model = tiny_model("dense")
    prefixes = PrefixCache(1 << 20)
    cache = SequenceCache(model.config)
    cache.advance(40)
    prefixes.keep("", list(range(40)), cache)
    found = prefixes.find("", [*range(20), 1, 1, 1], 22)
    assert found is not None and found.length == 20
    assert prefixes.find("", [5] * 30, 29) is None
    assert prefixes.find("other", list(range(40)), 39) is None


@pytest.mark.parametrize("kind", ["moe", "sliding", "chunked"])
def test_deterministic_replies_have_the_same_bytes_alone_and_among_others(kind):
    """Also when the prompt's start comes from the prefix cache, or from a prompt still being read."""
    torch.manual_seed(0)
    model = tiny_model(kind, max_positions=200)
    rng = random.Random(1)
    start = prompts_of([50])[0]
    jobs = []
    for i in range(16):
        prompt = start[: rng.choice([0, 20, 50])] + prompts_of([rng.randrange(1, 60)], seed=i)[0]
        jobs.append(
            (
                prompt,
                SamplingParams(seed=i, max_tokens=rng.randrange(4, 16)),
                RequestOptions(routing=i % 3 == 0),
            )
        )

    def engine() -> Engine:
        return Engine(model, max_batch=16, prefill_chunk=16, deterministic=True, prefix_bytes=1 << 22)

    alone = [bits(run(engine(), [job])[0]) for job in jobs]
    shared = engine()
    assert [bits(reply) for reply in run(shared, jobs)] == alone
    again = run(shared, jobs[::-1])[::-1]
    assert [bits(reply) for reply in again] == alone
    if kind == "moe":
        assert any(reply.cached for reply in again)


def test_a_kept_sequence_that_cannot_serve_is_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It shares hundreds of blocks with a long prompt, and is not looked at again for each of them."""
    model = tiny_model("sliding", max_positions=2000)
    engine = Engine(model, prefill_chunk=512, prefix_bytes=1 << 24)
    start = prompts_of([1200])[0]
    params = SamplingParams(temperature=0, max_tokens=2)
    run(engine, [([*start, 1], params, RequestOptions())])
    asked: list[int] = []
    can_go_back = SequenceCache.can_go_back
    monkeypatch.setattr(
        SequenceCache, "can_go_back", lambda cache, to: asked.append(to) or can_go_back(cache, to)
    )
    run(engine, [([*start, 2], params, RequestOptions())])
    assert 0 < len(asked) <= 3  # one per step that reads the prompt
