"""Sampling against slow references written from the definitions, and against the distributions it claims."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from coterie.config import ConfigError
from coterie.infer.penalties import TokenCounts
from coterie.infer.sampling import SamplingParams, sample, score, uniform
from tests.arithmetic import approx, tolerance
from tests.infer import row_by_row


def slow_distribution(logits: list[float], params: SamplingParams, history: list[int]) -> list[float]:
    """Probability of every token, by the definitions, one plain loop at a time (float64)."""
    scores = list(logits)
    for token in set(history):
        r = params.repetition_penalty
        scores[token] = scores[token] / r if scores[token] > 0 else scores[token] * r
    scores = [s / params.temperature for s in scores]
    best = max(scores)
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    kept = order[: params.top_k] if params.top_k else order
    weight = {i: math.exp(scores[i] - best) for i in kept}
    total = sum(weight.values())
    share = {i: w / total for i, w in weight.items()}
    if params.top_p < 1:
        before = 0.0
        nucleus = []
        for i in kept:
            if before >= params.top_p:
                break
            nucleus.append(i)
            before += share[i]
        share = {i: share[i] for i in nucleus}
    floor = params.min_p * max(share.values())
    share = {i: s for i, s in share.items() if s >= floor}
    total = sum(share.values())
    return [share.get(i, 0.0) / total for i in range(len(scores))]


def empirical(logits: torch.Tensor, params: SamplingParams, history: list[int], count: int) -> np.ndarray:
    rows = logits.expand(count, -1)
    each = [SamplingParams(**{**params.__dict__, "seed": seed}) for seed in range(count)]
    ids = sample(rows, each, [3] * count, [history] * count).ids
    return np.bincount(ids, minlength=logits.numel())


@pytest.mark.parametrize(
    "settings_",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0, "top_k": 5},
        {"top_p": 0.8},
        {"top_p": 0.7, "top_k": 9},
        {"min_p": 0.2},
        {"repetition_penalty": 1.7},
        {"temperature": 0.7, "top_k": 12, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.3},
    ],
)
def test_frequencies_follow_the_filtered_distribution(settings_: dict[str, float]) -> None:
    generator = torch.Generator().manual_seed(len(str(settings_)))
    logits = torch.randn(16, generator=generator) * 1.5
    params = SamplingParams(**settings_)  # type: ignore[arg-type]
    history = [1, 4, 4, 7]
    expected = np.array(slow_distribution(logits.double().tolist(), params, history))
    counts = empirical(logits, params, history, 4000)
    assert counts[expected == 0].sum() == 0, "a filtered token was drawn"
    support = expected > 0
    result = stats.chisquare(counts[support], 4000 * expected[support])
    assert result.pvalue > 1e-4


@given(
    st.integers(2, 700),
    st.integers(0, 2**31),
    st.floats(0.05, 3.0),
    st.integers(0, 40),
    st.floats(0.02, 1.0),
    st.floats(0.0, 0.9),
    st.floats(0.5, 2.5),
)
@settings(max_examples=150, deadline=None)
def test_filters_equal_the_slow_reference(
    vocabulary: int, seed: int, temperature: float, top_k: int, top_p: float, min_p: float, penalty: float
) -> None:
    """Every drawable token has positive probability, and the inverse CDF selects the right one."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(vocabulary, generator=generator) * 2
    history = torch.randint(vocabulary, (20,), generator=generator).tolist()
    params = SamplingParams(temperature, top_k, top_p, min_p, penalty, seed=seed)
    expected = np.array(slow_distribution(logits.tolist(), params, history))
    draws = 64
    ids = sample(logits.expand(draws, -1), [params] * draws, list(range(draws)), [history] * draws).ids
    # The reference cumulative distribution in the order the sampler uses: by id without a cut, best first
    # with one.
    scores = logits.clone()
    seen = torch.tensor(sorted(set(history)))
    scores[seen] = torch.where(scores[seen] > 0, scores[seen] / penalty, scores[seen] * penalty)
    cut = 0 < top_k < vocabulary or top_p < 1
    order = np.argsort(-scores.numpy(), kind="stable") if cut else np.arange(vocabulary)
    cumulative = np.cumsum(expected[order])
    margin = tolerance(1.0, terms=vocabulary)
    for step, token in enumerate(ids):
        assert expected[token] > 0
        u = uniform(seed, step)
        place = int(np.flatnonzero(order == token)[0])
        assert cumulative[place] >= u - margin and cumulative[place] - expected[token] <= u + margin


def test_values_by_hand() -> None:
    # softmax of log(1, 2, 4, 8) = 1/15, 2/15, 4/15, 8/15
    logits = torch.tensor([1.0, 2.0, 4.0, 8.0]).log()[None]
    result = sample(logits, [SamplingParams(temperature=0, logprobs=2)], [0])
    assert result.ids == [3]
    assert result.logprobs[0] == approx(math.log(8 / 15), terms=4)
    assert [token for token, _ in result.top[0]] == [3, 2]
    assert result.top[0][1][1] == approx(math.log(4 / 15), terms=4)
    # a penalty of 4 on the seen token 3: log 8 / 4 = 0.52 < log 4, so 2 wins; its log-probability stays the
    # model's own
    greedy = SamplingParams(temperature=0, repetition_penalty=4.0)
    result = sample(logits, [greedy], [0], [[3]])
    assert result.ids == [2] and result.logprobs[0] == approx(math.log(4 / 15), terms=4)
    # top_p 8/15 is held by the best token alone
    assert sample(logits, [SamplingParams(top_p=0.533, seed=4)], [0]).ids == [3]
    # min_p 0.4: tokens with at least 0.4 * 8/15 stay: 8/15 and 4/15
    drawn = {sample(logits, [SamplingParams(min_p=0.4, seed=seed)], [0]).ids[0] for seed in range(60)}
    assert drawn == {2, 3}


def test_top_p_of_a_flat_distribution_needs_more_than_a_few_candidates() -> None:
    logits = torch.zeros(1000)
    logits[::2] = 0.01
    counts = empirical(logits, SamplingParams(top_p=0.9), [], 6000)
    expected = np.array(slow_distribution(logits.double().tolist(), SamplingParams(top_p=0.9), []))
    assert (expected > 0).sum() == 900  # 500 * 0.001005 + 400 * 0.000995 is the first sum to reach 0.9
    # which of the equal tokens stay is open; the larger ones all do, each as often as the others
    assert stats.chisquare(counts[::2], np.full(500, counts[::2].sum() / 500)).pvalue > 1e-4
    assert counts[::2].sum() == pytest.approx(6000 * expected[::2].sum(), abs=5 * 40)
    assert 380 < (counts[1::2] > 0).sum() <= 400


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**40))
def test_uniform_is_a_function_into_the_unit_interval(seed: int, step: int) -> None:
    u = uniform(seed, step)
    assert 0 <= u < 1 and u == uniform(seed, step)


def test_uniform_streams_are_flat_and_unrelated() -> None:
    values = np.array([[uniform(seed, step) for step in range(120)] for seed in range(120)])
    assert stats.kstest(values.ravel(), "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(values[:-1].ravel(), values[1:].ravel())[0, 1]) < 0.04
    assert abs(np.corrcoef(values[:, :-1].ravel(), values[:, 1:].ravel())[0, 1]) < 0.04


MIXED = [
    SamplingParams(temperature=0),
    SamplingParams(seed=5),
    SamplingParams(seed=6, top_k=3),
    SamplingParams(seed=7, top_p=0.9, logprobs=4),
    SamplingParams(seed=8, temperature=0.3, min_p=0.1),
    SamplingParams(seed=9, repetition_penalty=1.5, top_p=0.5),
    SamplingParams(seed=10, top_p=0.9),
    SamplingParams(seed=11),
]


@given(st.permutations(range(8)), st.integers(1, 8), st.integers(0, 1000), st.sampled_from([40, 600]))
@settings(max_examples=60, deadline=None)
def test_a_draw_does_not_depend_on_neighbours_or_order(
    order: list[int], size: int, seed: int, vocabulary: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(8, vocabulary, generator=generator)
    logits[:, 5:20] = 1.25  # equal scores, where the order of a sort could differ
    history = [[row, row + 1] for row in range(8)]
    alone = [sample(logits[row : row + 1], [MIXED[row]], [row], [history[row]]) for row in range(8)]
    some = order[:size]
    together = sample(logits[some], [MIXED[r] for r in some], some, [history[r] for r in some])
    assert together.ids == [alone[r].ids[0] for r in some]
    assert together.logprobs == [alone[r].logprobs[0] for r in some]
    assert together.top == [alone[r].top[0] for r in some]


SETTINGS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 0.8, 1.0, 1.7]) | st.floats(1e-5, 50.0),
    top_k=st.sampled_from([0, 1, 5, 40]) | st.integers(0, 700),
    top_p=st.sampled_from([0.5, 0.9, 1.0]) | st.floats(0.01, 1.0),
    min_p=st.sampled_from([0.0, 0.05]) | st.floats(0.0, 1.0),
    repetition_penalty=st.sampled_from([1.0, 1.1]) | st.floats(0.5, 3.0),
    seed=st.integers(0, 2**64 - 1),
    presence_penalty=st.sampled_from([0.0, 0.4]) | st.floats(-2.0, 2.0),
    frequency_penalty=st.sampled_from([0.0, 0.3]) | st.floats(-2.0, 2.0),
    logit_bias=st.sampled_from([(), ((1, 3.0), (4, -100.0))]),
)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_mixed_rows_are_drawn_as_each_by_its_definition(data: st.DataObject) -> None:
    """Over several steps, with counts that grow; compiled or not, the tokens are the same to the last one."""
    vocabulary = data.draw(st.sampled_from([7, 60, 600]))
    params = data.draw(st.lists(SETTINGS, min_size=1, max_size=9))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    spread = data.draw(st.sampled_from([0.2, 1.0, 5.0]))
    ties = data.draw(st.booleans())
    prompts = [torch.randint(vocabulary, (5 + row,), generator=generator).tolist() for row in range(9)]
    histories = [list(prompt) for prompt in prompts[: len(params)]]
    kept = [TokenCounts(len(history)) for history in histories]
    for step in range(3):
        logits = torch.randn(len(params), vocabulary, generator=generator) * spread
        if ties:
            logits = (logits * 4).round() / 4
        masks = [
            torch.rand(vocabulary, generator=generator) < 0.7 if row % 4 == 3 else None
            for row in range(len(params))
        ]
        for mask in masks:
            if mask is not None:
                mask[step] = True
        steps = [step] * len(params)
        expected = [
            row_by_row.drawn(logits[row], params[row], step, histories[row], masks[row])
            for row in range(len(params))
        ]
        for compiled in (False, True):
            for counts in (None, kept):
                found = sample(logits, params, steps, histories, masks, counts, compiled)
                assert found.ids == expected
        for history, token in zip(histories, expected, strict=True):
            history.append(token)


def test_extreme_settings_stay_finite() -> None:
    logits = torch.tensor([[1000.0, 999.0, -1000.0, -math.inf]])
    for temperature in (1e-30, 1e-3, 1.0, 1e6):
        for seed in range(20):
            token = sample(logits, [SamplingParams(temperature, seed=seed)], [0]).ids[0]
            assert token != 3
            assert token == 0 or temperature >= 1


def test_logits_that_are_not_finite_are_an_error() -> None:
    for bad in (math.nan, math.inf):
        for params in (
            SamplingParams(temperature=0),
            SamplingParams(seed=1),
            SamplingParams(seed=1, top_p=0.5),
        ):
            with pytest.raises(ConfigError, match="logits are not finite"):
                sample(torch.tensor([[0.0, bad, 1.0]]), [params], [0])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"temperature": -0.1}, "temperature must be a number from 0 up"),
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": "hot"}, "'hot'"),
        ({"top_p": 0.0}, r"top_p must be a number from 0 \(excluded\) to 1"),
        ({"top_p": 1.5}, "top_p"),
        ({"min_p": 2}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"top_k": -1}, "top_k must be a whole number from 0 up"),
        ({"top_k": 2.5}, "top_k"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": True}, "logprobs"),
        ({"min_tokens": -1}, "min_tokens must be a whole number from 0 up"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens 5 is more than max_tokens 4"),
        ({"seed": -3}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"stop": ("a", "")}, "empty stop string"),
    ],
)
def test_wrong_settings_give_one_line(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        SamplingParams(**wrong)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_seeds() -> None:
    assert SamplingParams(stop="end").stop == ("end",)
    fresh = {SamplingParams().with_seed().seed for _ in range(20)}
    assert len(fresh) == 20
    assert SamplingParams(seed=3).with_seed().seed == 3
    with pytest.raises(ConfigError, match="with_seed"):
        sample(torch.zeros(1, 4), [SamplingParams()], [0])
    with pytest.raises(ConfigError, match="histories"):
        sample(torch.zeros(1, 4), [SamplingParams(temperature=0, repetition_penalty=2.0)], [0])


def test_the_score_of_given_tokens_has_their_rank() -> None:
    logits_TV = torch.randn(7, 11, generator=torch.Generator().manual_seed(3))
    ids = [3, 0, 10, 5, 5, 2, 7]
    logprobs, top, ranks = score(logits_TV, ids, 11)
    for row, (token, logprob, rank) in enumerate(zip(ids, logprobs, ranks, strict=True)):
        assert top[row][rank - 1] == (token, logprob)
