"""Differences of records: compared with hand values and with whole distributions."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coterie.config import CheckpointError
from coterie.proof.difference import SAME, difference
from coterie.proof.records import ProbeRecord
from tests.arithmetic import approx, largest


def given_record(logits_TV: torch.Tensor, kept: int, **changes: object) -> ProbeRecord:
    """A record of one sequence from its logits; token 0 follows everywhere."""
    logprobs_TV = logits_TV.log_softmax(-1)
    best = logprobs_TV.topk(kept)
    sequence = (0,) * (logits_TV.shape[0] + 1)
    return ProbeRecord((sequence,), logprobs_TV[:, 0], best.indices.int(), best.values, **changes)  # type: ignore[arg-type]


@given(st.integers(0, 10_000), st.integers(1, 12), st.sampled_from([0.1, 1.0, 6.0]))
def test_divergence(seed: int, kept: int, scale: float) -> None:
    """Exact where the lists hold the whole vocabulary; elsewhere not negative, and zero for equal records
    alone.
    """
    generator = torch.Generator().manual_seed(seed)
    a_TV, b_TV = (torch.randn(5, 12, generator=generator) * scale for _ in range(2))
    a, b = given_record(a_TV, kept), given_record(b_TV, kept)
    found = difference(a, b)
    a64_TV, b64_TV = a_TV.double().log_softmax(-1), b_TV.double().log_softmax(-1)
    exact = float((a64_TV.exp() * (a64_TV - b64_TV)).sum(1).mean())
    assert found.kl is not None and found.kl >= 0 and difference(a, a).kl == pytest.approx(0, abs=1e-9)
    if kept == 12:
        size = max(largest(a64_TV), largest(b64_TV))
        assert found.kl == approx(exact, terms=12, depth=2, size=size)
        assert found.max_logprob == approx(largest(a64_TV - b64_TV), terms=12, depth=2, size=size)
    if kept >= 9 and exact > 1e-3:
        assert found.kl > 1e-5


def test_difference_by_hand() -> None:
    a = ProbeRecord(
        ((5, 6, 7),),
        torch.tensor([-1.0, -2.0]),
        torch.tensor([[6, 1], [3, 4]]).int(),
        torch.tensor([[-1.0, -1.5], [-0.5, -3.0]]),
        {4: torch.tensor([[0, 1], [2, 3]]).int(), 7: torch.tensor([[0, 1], [0, 1]]).int()},
    )
    b = dataclasses.replace(
        a,
        next_T=torch.tensor([-1.25, -2.5]),
        top_ids_TK=torch.tensor([[6, 1], [4, 8]]).int(),
        top_TK=torch.tensor([[-1.25, -1.5], [-1.0, -4.0]]),
        routing={4: torch.tensor([[0, 1], [1, 3]]).int()},
    )
    found = difference(a, b)
    # next: .25 and .5; in both lists: token 6 .25, token 1 0, token 4 |-3 - -1| = 2
    assert found.max_logprob == pytest.approx(2.0) and found.mean_logprob == pytest.approx(
        (0.25 + 0.5 + 0.25 + 2) / 5
    )
    assert found.top1 == 0.5 and found.routing == {4: 0.75} and found.worst == (0, 2) and found.positions == 2
    assert found.to_dict()["routing"] == {"4": 0.75}
    assert not found.within(0.1) and not found.within(0.5) and found.within(0.6)
    without = dataclasses.replace(b, top_ids_TK=torch.zeros(2, 0).int(), top_TK=torch.zeros(2, 0))
    found = difference(a, without)
    assert found.kl is None and found.top1 is None and found.max_logprob == 0.5
    with pytest.raises(CheckpointError, match="different token ids"):
        difference(a, dataclasses.replace(a, sequences=((5, 6, 8),)))


def test_a_tie_moves_one_token_and_no_mean() -> None:
    a = given_record(torch.zeros(400, 30), 1)
    for moved, same in ((0.03, True), (0.06, False)):
        next_T = a.next_T.clone()
        next_T[7] += moved
        found = difference(a, dataclasses.replace(a, next_T=next_T))
        assert found.within(SAME) is same and found.worst == (0, 8)
    shifted = dataclasses.replace(a, next_T=a.next_T + 0.001)
    assert not difference(a, shifted).within(SAME)


def test_a_tie_excuses_the_rest_of_its_sequence_and_nothing_else() -> None:
    """Experts that change places move all later positions; a few sequences may, the others must agree."""
    positions, sequences = 100, 12
    next_T = torch.randn(positions * sequences, generator=torch.Generator().manual_seed(0)) - 4
    routing = {0: torch.tensor([[0, 1]]).repeat(len(next_T), 1).int()}
    empty = torch.empty(len(next_T), 0)
    texts = tuple((0,) * (positions + 1) for _ in range(sequences))
    a = ProbeRecord(texts, next_T, empty.int(), empty, routing)

    def moved(tied: int, more: float = 0.0) -> bool:
        """Whether a record passes whose first `tied` sequences differ from position 60 on."""
        other, chosen = next_T.clone(), routing[0].clone()
        for sequence in range(tied):
            chosen[sequence * positions + 60] = torch.tensor([0, 2])
            other[sequence * positions + 60 : (sequence + 1) * positions] += 0.4
        other[-1] += more
        return difference(a, dataclasses.replace(a, next_T=other, routing={0: chosen})).within(SAME)

    assert moved(0) and moved(1) and moved(2) and not moved(3)
    assert not moved(1, more=0.1)
    untold = dataclasses.replace(a, next_T=next_T + 0.4 * (torch.arange(len(next_T)) < 40))
    assert not difference(a, untold).within(SAME)
