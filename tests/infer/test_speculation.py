"""Replies with drafts are the replies without: every event, to the last bit on native steps."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch

from coterie.config import BlockConfig, ConfigError, RopeConfig, RopeScaling
from coterie.config.speculate import Speculate
from coterie.infer.engine import Engine
from coterie.infer.lookup import Lookup
from coterie.infer.request import RequestOptions, TokenEvent
from coterie.infer.sampling import SamplingParams
from coterie.infer.speculation import Speculation, StepCost
from coterie.nn.steering import LayerControl, RouterControl
from tests.infer.models import CAUSAL, DENSE, tiny_model
from tests.infer.test_engine import Late, prompts_of
from tests.infer.test_reply import TOKENIZER

GREEDY = SamplingParams(temperature=0, max_tokens=24, stop_ids=(), logprobs=2)
SAMPLED = SamplingParams(temperature=0.9, top_p=0.9, seed=5, max_tokens=24, stop_ids=())
Asked = tuple[list[int], SamplingParams, RequestOptions]


class Alternating:
    """Allows even tokens after odd ones, and the other way round."""

    failure = None

    def __init__(self, vocab_size: int = 61) -> None:
        self.even = torch.arange(vocab_size) % 2 == 0
        self.last = 1

    def allowed(self) -> torch.Tensor:
        return self.even if self.last % 2 else ~self.even

    def accept(self, token: int) -> None:
        assert self.allowed()[token]
        self.last = token


def events_of(engine: Engine, asked: Sequence[Asked]) -> list[list[TokenEvent]]:
    ids = [engine.add(*each) for each in asked]
    events: dict[int, list[TokenEvent]] = {one: [] for one in ids}
    while engine.busy:
        for event in engine.step():
            events[event.request].append(replace(event, request=ids.index(event.request)))
    return list(events.values())


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[tuple[int, ...], list[int]]]:
    """Drafts are long whatever they cost: the known replies by prompt, with one token in four wrong."""
    known: dict[tuple[int, ...], list[int]] = {}
    rng = random.Random(0)

    def drafted(self: Lookup, tokens: Sequence[int], most: int) -> tuple[list[int], int]:
        for prompt, reply in known.items():
            if tuple(tokens[: len(prompt)]) == prompt:
                ahead = reply[len(tokens) - len(prompt) :][:most]
                return [token if rng.random() < 0.75 else (token + 1) % 61 for token in ahead], 8
        return [], 0

    monkeypatch.setattr(Lookup, "__call__", drafted)
    monkeypatch.setattr(StepCost, "of", lambda self, num_rows: 1.0)
    yield known


def compared(
    known: dict[tuple[int, ...], list[int]],
    asked: Sequence[Asked],
    again: Sequence[Asked],
    plain: Engine,
    fast: Engine,
) -> None:
    """`again`: the same requests, with filters of their own."""
    wanted = events_of(plain, asked)
    known.update(
        {tuple(prompt): [e.token for e in of] for (prompt, *_), of in zip(asked, wanted, strict=True)}
    )
    assert events_of(fast, again) == wanted
    assert 0 < fast.speculation.num_accepted < fast.speculation.num_drafted


WAYS = {
    "greedy": GREEDY,
    "sampled": SAMPLED,
    "penalties": replace(SAMPLED, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.7),
    "bias": replace(GREEDY, logit_bias=((3, 2.0), (7, -100.0)), logprobs=5),
    "least": replace(SAMPLED, min_tokens=9, stop_ids=tuple(range(0, 61, 4))),
    "short": replace(SAMPLED, max_tokens=3),
}


@pytest.mark.parametrize("kind", ["moe", "sliding", "chunked"])
def test_native_replies_are_the_same_to_the_last_bit(
    kind: str, planted: dict[tuple[int, ...], list[int]]
) -> None:
    """One sequence at a time and together, with the experts of each token and a grammar."""
    model = tiny_model(kind)
    prompts = prompts_of([5, 9, 1, 7, 4, 6, 3], seed=3)

    def asked() -> list[Asked]:
        routing = RequestOptions(routing=bool(model.routers()))
        plain = [(prompt, way, routing) for prompt, way in zip(prompts, WAYS.values(), strict=False)]
        return [*plain, (prompts[-1], SAMPLED, RequestOptions(filter=Alternating()))]

    for deterministic in (False, True):
        plain, fast = (
            Engine(model, kernels="native", deterministic=deterministic, speculate=mode)
            for mode in ("off", "auto")
        )
        for engine in (plain, fast):
            engine.count_experts()
        for one, other in zip(asked(), asked(), strict=True):
            if one[1].max_tokens > 3:
                compared(planted, [one], [other], plain, fast)
        compared(planted, asked(), asked(), plain, fast)
        assert plain.expert_counts is not None and fast.expert_counts is not None
        for layer, counts in plain.expert_counts.items():
            assert torch.equal(counts, fast.expert_counts[layer])


def test_the_text_ends_at_the_same_stop_string(planted: dict[tuple[int, ...], list[int]]) -> None:
    model = tiny_model("moe", vocab_size=TOKENIZER.vocab_size)
    plain, fast = (Engine(model, TOKENIZER, kernels="native", speculate=mode) for mode in ("off", "auto"))
    free = plain.generate([[5, 6]], SAMPLED)[0]
    for start in (4, 9):
        asked = ([5, 6], replace(SAMPLED, stop=free.text[start : start + 3]), RequestOptions())
        compared(planted, [asked], [asked], plain, fast)


def test_kept_prefixes_hold_no_token_of_a_draft(planted: dict[tuple[int, ...], list[int]]) -> None:
    model = tiny_model("sliding")
    plain, fast = (
        Engine(model, kernels="native", speculate=mode, prefix_bytes=1 << 20) for mode in ("off", "auto")
    )
    prompt = prompts_of([20])[0]
    for _ in range(3):
        compared(
            planted, [(prompt, SAMPLED, RequestOptions())], [(prompt, SAMPLED, RequestOptions())], plain, fast
        )
        prompt = prompt + planted[tuple(prompt)]


def test_a_sequence_that_grows_long_and_one_that_fails(planted: dict[tuple[int, ...], list[int]]) -> None:
    scaling = RopeScaling(
        kind="longrope", factor=4, original_max_positions=12, short_factors=(1.0, 1.2, 1.4, 2.0),
        long_factors=(2.0, 3.0, 4.0, 5.0),
    )  # fmt: skip
    attention = CAUSAL.model_copy(update={"rope": RopeConfig(scaling=scaling)})
    model = tiny_model([BlockConfig(attention=attention, ffn=DENSE)] * 2)
    plain, fast = (Engine(model, kernels="native", speculate=mode) for mode in ("off", "auto"))
    for prompt in prompts_of([3, 8]):
        asked = (prompt, GREEDY, RequestOptions())
        compared(planted, [asked], [asked], plain, fast)
    failing = RequestOptions(filter=Late())
    prompt = prompts_of([8])[0]
    (events,) = events_of(fast, [(prompt, GREEDY, failing)])
    assert len(events) == 1 and isinstance(events[0].failure, ZeroDivisionError)


def test_the_module_drafts_only_when_asked(planted: dict[tuple[int, ...], list[int]]) -> None:
    """Its rounding depends on the rows of a pass: neither `auto` nor a deterministic engine drafts there."""
    model = tiny_model("moe")
    masked = RequestOptions(control=RouterControl(layers=((0, LayerControl(masked=(1, 2))),)))
    prompt = prompts_of([5])[0]
    for options, kernels in ((RequestOptions(), "torch"), (masked, "native")):
        asked = (prompt, GREEDY, options)
        (plain,) = events_of(Engine(model), [asked])
        planted[tuple(prompt)] = [event.token for event in plain]
        for mode, deterministic in (("auto", False), ("lookup", True)):
            engine = Engine(model, kernels=kernels, speculate=mode, deterministic=deterministic)  # type: ignore[arg-type]
            events_of(engine, [asked])
            assert engine.speculation.num_drafted == 0
        engine = Engine(model, kernels=kernels, speculate="lookup")  # type: ignore[arg-type]
        (fast,) = events_of(engine, [asked])
        assert [event.token for event in fast] == [event.token for event in plain]
        logprobs = [event.logprob for event in plain]
        assert [event.logprob for event in fast] == pytest.approx(logprobs, abs=2e-4)
        assert engine.speculation.num_accepted > 10


def test_a_model_whose_layers_keep_a_state_has_no_drafts() -> None:
    model = tiny_model("delta")
    engine = Engine(model, speculate="auto")
    assert str(engine.speculation) == "off (layers with a state cannot take tokens back)"
    assert engine.generate([[1, 2]], GREEDY)[0].ids == Engine(model).generate([[1, 2]], GREEDY)[0].ids
    with pytest.raises(ConfigError, match="--speculate lookup: layers with a state"):
        Engine(model, speculate="lookup")
    with pytest.raises(ConfigError, match="speculate: lookup: layers with a state"):
        engine.add([1], GREEDY, RequestOptions(speculate="lookup"))


@pytest.mark.parametrize("mode", ["off", "auto"])
def test_a_prediction_is_drafted_and_counted(mode: Speculate) -> None:
    """The reply of another seed's first half; the request switches drafts on where the engine has none."""
    model = tiny_model("moe")
    prompt = prompts_of([6])[0]
    wanted = Engine(model, kernels="native").generate([prompt], GREEDY)[0]
    predicted = [60, *wanted.ids[:10], 60, 60, *wanted.ids[12:20]]
    engine = Engine(model, kernels="native", speculate=mode)
    options = RequestOptions(prediction=tuple(predicted))
    (events,) = events_of(engine, [(prompt, GREEDY, options)])
    assert [event.token for event in events] == wanted.ids
    hits = [event.predicted for event in events]
    assert not any(hits[:2]) and sum(hits) >= 8
    assert engine.speculation.num_drafted > 0
    off = Engine(model, kernels="native", speculate="auto")
    (again,) = events_of(off, [(prompt, GREEDY, replace(options, speculate="off"))])
    assert again == events and off.speculation.num_drafted == 0


def test_costs_are_relative_and_drafts_stop_where_they_do_not_pay() -> None:
    cost = StepCost()
    for seconds in (1.0, 1.0, 3.0, 3.0, 3.0, 1.0):  # other work triples all steps for a while
        for rows, relative in ((1, 1.0), (2, 1.1), (8, 4.0)) * 10:
            cost.note(rows, seconds * relative)
    assert cost.of(2) / cost.of(1) == pytest.approx(1.1, rel=0.1)
    assert cost.of(8) / cost.of(1) == pytest.approx(4.0, rel=0.1)
    assert cost.of(2) < cost.of(5) < cost.of(8) < cost.of(12)
    model = tiny_model("moe")
    assert str(Speculation(model)) == "off" and str(Speculation(model, "auto")) == "auto"
