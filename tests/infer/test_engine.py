"""The engine against the training forward pass and against single requests; edge cases of its contract."""

from __future__ import annotations

import gc
import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from coterie.config import BlockConfig, ConfigError, CoterieError, RopeConfig, RopeScaling
from coterie.infer.cache import SequenceCache
from coterie.infer.engine import Engine, Reply, TokenEvent
from coterie.infer.request import LOWEST, RequestOptions
from coterie.infer.sampling import SamplingParams
from coterie.nn.forward_context import ForwardContext
from tests.arithmetic import assert_model_close, largest
from tests.infer.models import CAUSAL, DENSE, KINDS, tiny_model, training_logprobs


def prompts_of(lengths: list[int], seed: int = 0, vocab_size: int = 61) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(vocab_size) for _ in range(length)] for length in lengths]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefill_chunk", [5, 512])
def test_logprobs_equal_the_training_forward(kind: str, prefill_chunk: int) -> None:
    """Prompts and replies well beyond the windows of 7 and 8; read in one piece and in small ones."""
    model = tiny_model(kind, seed=prefill_chunk)
    engine = Engine(model, prefill_chunk=prefill_chunk)
    prompts = prompts_of([1, 3, 30, 17], seed=len(kind))
    params = [SamplingParams(temperature=t, seed=9, max_tokens=24, logprobs=3) for t in (0, 1.0, 0.7, 1.5)]
    for prompt, reply in zip(prompts, engine.generate(prompts, params), strict=True):
        assert len(reply.ids) == 24 and reply.finish_reason == "length"
        expected_TV = training_logprobs(model, prompt + reply.ids)[len(prompt) - 1 : -1]
        expected = expected_TV[torch.arange(24), torch.tensor(reply.ids)]
        top = torch.tensor([[value for _, value in row] for row in reply.top])
        for ours, theirs in (
            (torch.tensor(reply.logprobs), expected),
            (top, expected_TV.topk(3).values),
        ):
            assert_model_close(model.config, ours, theirs, len(prompt) + 24, size=largest(expected_TV))
    greedy_prompt, greedy = prompts[0], engine.generate(prompts[:1], params[0])[0]
    assert greedy.ids == training_logprobs(model, greedy_prompt + greedy.ids)[:-1].argmax(-1).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_equals_each_alone(kind: str) -> None:
    model = tiny_model(kind)
    prompts = prompts_of([1, 2, 40, 9, 16, 8, 23, 5], seed=3)
    params = [
        SamplingParams(
            temperature=(0.0, 0.8)[i % 2],
            top_p=(1.0, 0.9, 0.7)[i % 3],
            seed=i,
            max_tokens=4 + 5 * i % 23,
            repetition_penalty=(1.0, 1.2)[i // 4],
        )
        for i in range(8)
    ]
    together = Engine(model, max_batch=5, prefill_chunk=11).generate(prompts, params)
    order = [3, 7, 0, 5, 1, 6, 2, 4]
    shuffled = Engine(model).generate([prompts[i] for i in order], [params[i] for i in order])
    for i in range(8):
        alone = Engine(model).generate([prompts[i]], params[i])[0]
        whole = prompts[i] + alone.ids
        size = largest(training_logprobs(model, whole))
        for other in (together[i], shuffled[order.index(i)]):
            assert other.ids == alone.ids
            ours, theirs = torch.tensor(other.logprobs), torch.tensor(alone.logprobs)
            assert_model_close(model.config, ours, theirs, len(whole), size=size)


def test_requests_join_and_leave_a_running_batch() -> None:
    model = tiny_model("moe")
    engine = Engine(model, max_batch=2, prefill_chunk=4)
    prompts = prompts_of([6, 3, 10], seed=1)
    params = [SamplingParams(seed=i, max_tokens=n) for i, n in enumerate((12, 3, 5))]
    replies: dict[int, Reply] = {}

    def step() -> list[TokenEvent]:
        events = engine.step()
        for event in events:
            replies[event.request].add(event)
        return events

    first = engine.add(prompts[0], params[0])
    replies[first] = Reply()
    assert step() == []  # 4 of 6 prompt tokens
    assert [event.request for event in step()] == [first]
    for prompt, its_params in zip(prompts[1:], params[1:], strict=True):
        replies[engine.add(prompt, its_params)] = Reply()
    while engine.busy:
        assert engine.cache_bytes > 0 or not replies[first].ids
        events = step()
        assert len(events) <= 2
        assert len({event.request for event in events}) == len(events)
    assert engine.step() == [] and engine.cache_bytes == 0
    alone = [Engine(model).generate([p], s)[0].ids for p, s in zip(prompts, params, strict=True)]
    assert [reply.ids for reply in replies.values()] == alone
    assert [reply.finish_reason for reply in replies.values()] == ["length"] * 3


def test_a_long_prompt_does_not_hold_up_a_running_reply() -> None:
    engine = Engine(tiny_model("dense"), prefill_chunk=8)
    talking = engine.add([1, 2], SamplingParams(temperature=0, max_tokens=40))
    engine.step()
    reading = engine.add(list(range(33)), SamplingParams(temperature=0, max_tokens=2))
    steps = [[event.request for event in engine.step()] for _ in range(5)]
    assert steps == [[talking]] * 4 + [[talking, reading]]


def test_a_pass_reads_no_more_prompt_tokens_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("dense")
    lengths: list[tuple[int, ...]] = []
    original = model.forward

    def watched(ids_T: torch.Tensor, context: ForwardContext, caches: list[SequenceCache]) -> torch.Tensor:
        lengths.append(context.lengths)
        return original(ids_T, context, caches)

    monkeypatch.setattr(model, "forward", watched)
    Engine(model, prefill_chunk=10).generate(
        prompts_of([6, 7, 9, 5]), SamplingParams(temperature=0, max_tokens=3)
    )
    # 10 prompt tokens a pass, first come first served; whoever has been read to the end gets one token a pass
    assert lengths == [(6, 4), (1, 3, 7), (1, 1, 2, 5), (1, 1, 1), (1, 1)]


def test_only_the_last_tokens_become_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("dense")
    rows: list[int] = []
    original = model.logits
    monkeypatch.setattr(model, "logits", lambda h_TD: (rows.append(h_TD.shape[0]), original(h_TD))[1])
    Engine(model).generate(prompts_of([20, 7]), SamplingParams(temperature=0, max_tokens=3))
    assert rows == [2, 2, 2]


def test_cancel() -> None:
    engine = Engine(tiny_model("dense"), max_batch=1)
    first, second = (engine.add([1, 2], SamplingParams(seed=1, max_tokens=9)) for _ in range(2))
    engine.step()
    assert engine.cancel(first) and not engine.cancel(first) and not engine.cancel(99)
    assert [event.request for event in engine.step()] == [second]
    assert engine.cancel(second) and not engine.busy


def test_stop_ids_end_a_reply_and_stay_in_its_ids() -> None:
    model = tiny_model("dense")
    free = Engine(model).generate([[5]], SamplingParams(temperature=0, max_tokens=20))[0]
    stop = free.ids[6]
    reply = Engine(model).generate([[5]], SamplingParams(temperature=0, max_tokens=20, stop_ids=(stop,)))[0]
    assert reply.ids == free.ids[: free.ids.index(stop) + 1]
    assert reply.finish_reason == "stop" and len(reply.logprobs) == len(reply.ids)


def test_a_reply_does_not_stop_before_its_fewest_tokens() -> None:
    """Greedy: each early token is the best that is no stop, and later ones are as without the setting."""
    model = tiny_model("moe")
    prompt = [5, 9, 2]
    free = Engine(model).generate([prompt], SamplingParams(temperature=0, max_tokens=20, stop_ids=()))[0]
    stops = tuple(set(free.ids[2:5]))
    params = SamplingParams(temperature=0, max_tokens=20, stop_ids=stops, min_tokens=8)
    others = [replace(params, temperature=1.0, seed=seed, min_tokens=seed) for seed in range(4)]
    alone = Engine(model).generate([prompt], params)[0]
    among = Engine(model).generate([[3], prompt, [7, 7], [1], [4]], [others[0], params, *others[1:]])
    assert among[1].ids == alone.ids and len(alone.ids) > 8
    for place, token in enumerate(alone.ids[:8]):
        scores = training_logprobs(model, [*prompt, *alone.ids[:place]])[-1].clone()
        scores[list(stops)] = -torch.inf
        assert token == int(scores.argmax())
    assert among[0].finish_reason is not None and set(alone.ids[:8]).isdisjoint(stops)
    unused = [token for token in range(61) if token not in free.ids][:2]
    same = Engine(model).generate([prompt], replace(params, stop_ids=tuple(unused), min_tokens=20))[0]
    assert same.ids == free.ids


def test_prompt_and_reply_fill_the_positions_and_no_more() -> None:
    model = tiny_model("chunked", max_positions=20)
    reply = Engine(model).generate([[3] * 12], SamplingParams(temperature=0, max_tokens=500))[0]
    assert len(reply.ids) == 8 and reply.finish_reason == "length"


def test_a_stream_gives_the_events_of_generate_and_frees_the_engine_when_closed() -> None:
    engine = Engine(tiny_model("dense"))
    params = SamplingParams(seed=4, max_tokens=6)
    whole = engine.generate([[1, 2, 3]], params)[0]
    assert [event.token for event in engine.stream([1, 2, 3], params)] == whole.ids
    stream = engine.stream([1, 2, 3], params)
    next(stream)
    with pytest.raises(CoterieError, match="under way"):
        engine.generate([[1]])
    stream.close()
    assert not engine.busy


def test_a_failed_pass_drops_its_requests_and_only_those(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("dense")
    engine = Engine(model, max_batch=1)
    engine.add([1, 2], SamplingParams(seed=1, max_tokens=4))
    waiting = engine.add([1, 2], SamplingParams(seed=1, max_tokens=4))
    with monkeypatch.context() as patched:
        patched.setattr(model, "logits", Broken())
        with pytest.raises(ZeroDivisionError):
            engine.step()
    assert [event.request for event in engine.step()] == [waiting]


class Broken:
    """Fails when it is called, as a model, as a tokenizer, and as a filter of tokens."""

    failure = None

    def __call__(self, *given: object) -> None:
        raise ZeroDivisionError

    def allowed(self) -> None:
        raise ZeroDivisionError

    def accept(self, token: int) -> None:
        raise ZeroDivisionError


class Late(Broken):
    """Fails only once a token is drawn."""

    def allowed(self) -> None:
        return None


@pytest.mark.parametrize("fault", ["nan", "filter", "accept", "bias", "text"])
def test_what_is_wrong_with_one_request_does_not_touch_the_others(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its event says why, and the other replies are what they are without it."""
    model = tiny_model("dense")
    params = [SamplingParams(seed=seed, max_tokens=4) for seed in range(3)]
    alone = Engine(model).generate([[1, 2], [3], [4, 5]], params)
    engine = Engine(model)
    options = RequestOptions(filter={"filter": Broken(), "accept": Late()}.get(fault))
    asked = replace(params[1], logit_bias=((10**6, 1.0),)) if fault == "bias" else params[1]
    ids = [engine.add([1, 2], params[0]), engine.add([3], asked, options), engine.add([4, 5], params[2])]
    if fault == "nan":
        right = model.logits

        def spoilt(h_TD: Tensor) -> Tensor:
            logits_TV: Tensor = right(h_TD).clone()
            logits_TV[1 if logits_TV.shape[0] == 3 else 9 :][:1] = float("nan")
            return logits_TV

        monkeypatch.setattr(model, "logits", spoilt)
    if fault == "text":
        monkeypatch.setattr(engine._waiting[1].text, "push", Broken())
    replies = {request: Reply() for request in ids}
    failures = {}
    while engine.busy:
        for event in engine.step():
            if event.failure is not None:
                failures[event.request] = event.failure
            else:
                replies[event.request].add(event)
    wanted = {"nan": ConfigError, "bias": IndexError}.get(fault, ZeroDivisionError)
    assert failures.keys() == {ids[1]} and isinstance(failures[ids[1]], wanted)
    assert [replies[ids[0]].ids, replies[ids[2]].ids] == [alone[0].ids, alone[2].ids]
    with pytest.raises(ZeroDivisionError):
        next(engine._events(engine.add([3], asked, RequestOptions(filter=Broken()))))


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ([], "it is empty"),
        ([1] * 96, "it has 96 tokens and the model takes 95"),
        ([1, 61], "token id 61 is outside the model's vocabulary of 61"),
        ([-1], "token id -1"),
    ],
)
def test_wrong_prompts_give_one_line(prompt: list[int], words: str) -> None:
    engine = Engine(tiny_model("dense"))
    for ask in (engine.add, engine.stream, lambda ids: engine.generate([[1], ids])):
        with pytest.raises(CoterieError, match=words) as caught:
            ask(prompt)
        assert "\n" not in str(caught.value) and not engine.busy


def test_wrong_requests_give_one_line() -> None:
    engine = Engine(tiny_model("dense"))
    with pytest.raises(ConfigError, match="stop strings need a tokenizer"):
        engine.add([1], SamplingParams(stop=("x",)))
    with pytest.raises(ConfigError, match="2 prompts but 1 settings"):
        engine.generate([[1], [2]], [SamplingParams()])
    with pytest.raises(ConfigError, match="max_batch"):
        Engine(engine.model, max_batch=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_forked_cache_continues_like_the_whole_sequence(kind: str) -> None:
    model = tiny_model(kind)
    (prefix, one, two) = prompts_of([13, 6, 9], seed=8)
    with torch.inference_mode():
        cache = SequenceCache(model.config)
        model(torch.tensor(prefix), ForwardContext.packed([13]), [cache])
        caches = [cache, cache.fork()]
        h_TD = model(torch.tensor(one + two), ForwardContext.packed([6, 9], [13, 13]), caches)
        result = model.logits(h_TD).log_softmax(-1)
    expected = torch.cat([training_logprobs(model, prefix + more)[13:] for more in (one, two)])
    assert_model_close(model.config, result, expected, len(prefix) + len(two))


@pytest.mark.parametrize("prefix_bytes", [0, 1 << 20])
def test_a_finished_request_leaves_no_ring_of_references(prefix_bytes: int) -> None:
    """Python's collector, the only one to find them, comes by too seldom for keys and values."""
    engine = Engine(tiny_model("moe"), prefix_bytes=prefix_bytes)
    prompts = prompts_of([20, 3, 40, 20])
    params = SamplingParams(max_tokens=4, seed=1)
    engine.generate(prompts, params)
    gc.collect()
    gc.disable()
    try:
        engine.generate(prompts, params)
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_work_behind_all_rests_while_other_work_runs_and_keeps_no_place_from_it() -> None:
    model = tiny_model("moe")
    params = SamplingParams(max_tokens=6, seed=0)
    behind = RequestOptions(priority=LOWEST + 1)
    alone = [Engine(model).generate([prompt], params)[0].ids for prompt in ([1, 2, 3], [4, 5])]
    engine = Engine(model, max_batch=1)
    batch = engine.add([1, 2, 3], params, behind)
    replies: dict[int, list[int]] = {batch: [event.token for event in engine.step()]}
    front = engine.add([4, 5], params)
    order = []
    while engine.busy:
        for event in engine.step():
            order.append(event.request)
            replies.setdefault(event.request, []).append(event.token)
    assert order == [front] * 6 + [batch] * 5
    assert [replies[batch], replies[front]] == alone


def test_keys_are_read_again_when_a_sequence_grows_into_its_long_rotations() -> None:
    """Each token is the likeliest one of the whole forward pass at that length, in one engine and shared."""
    scaling = RopeScaling(
        kind="longrope",
        factor=4.0,
        original_max_positions=12,
        short_factors=(1.0, 1.1, 1.3, 1.6),
        long_factors=(1.5, 3.0, 5.0, 8.0),
    )
    attention = CAUSAL.model_copy(update={"rope": RopeConfig(theta=50.0, scaling=scaling)})
    model = tiny_model([BlockConfig(attention=attention, ffn=DENSE)] * 2)
    engine = Engine(model, prefix_bytes=1 << 20, prefill_chunk=5)
    for prompt in prompts_of([8, 20], seed=4):
        for _ in range(2):  # the second time, what was kept may be used
            reply = engine.generate([prompt], SamplingParams(temperature=0.0, max_tokens=9))[0]
            for end, token in enumerate(reply.ids, start=len(prompt)):
                known = (prompt + reply.ids)[:end]
                assert token == int(training_logprobs(model, known)[-1].argmax())
    assert reply.cached > 0
