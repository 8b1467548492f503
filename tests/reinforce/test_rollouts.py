"""Rollouts as rows: which tokens are learnt, where they were drawn from, and what they count for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coterie.config.reinforce import PolicySettings
from coterie.infer.plays import Segment
from coterie.infer.request import TokenRouting
from coterie.reinforce.rollouts import Rollout
from coterie.tasks.problem import TaskVerdict
from coterie.train.batch import collate
from coterie.train.policy_gradient import PolicyGradient


def routed(expert: int) -> TokenRouting:
    """One layer, one expert."""
    return TokenRouting(((0, [expert], [1.0]),))


# A prompt of two, a call of three, a result of two, an answer of one.
SEGMENTS = (
    Segment((10, 11)),
    Segment((12, 13, 14), (-0.1, -0.2, -0.3), (routed(1), routed(2), routed(3))),
    Segment((20, 21)),
    Segment((15,), (-0.4,), (routed(4),)),
)
VERDICT = TaskVerdict.of(True, "1")


def rollout(*segments: Segment) -> Rollout:
    """A rollout that earned 1."""
    return Rollout(segments, "", "Answer: 1", False, VERDICT, 1.0)


def test_only_sampled_tokens_are_learnt() -> None:
    found = rollout(*SEGMENTS)
    assert found.prompt_ids == (10, 11) and found.ids == (12, 13, 14, 15)
    assert found.whole == (10, 11, 12, 13, 14, 20, 21, 15)
    assert found.places.tolist() == [1, 2, 3, 6]
    assert [one.layers[0][1] for one in found.routing] == [[1], [2], [3], [4]]
    row = found.row(0.5)
    assert row.ids.tolist() == [10, 11, 12, 13, 14, 20, 21]
    assert row.targets.tolist() == [11, 12, 13, 14, 20, 21, 15]
    assert row.weights.tolist() == [0, 1, 1, 1, 0, 0, 1]
    assert row.streams["old_logp"].tolist() == pytest.approx([0, -0.1, -0.2, -0.3, 0, 0, -0.4])
    assert set(row.streams["advantage"].tolist()) == {0.5} and row.lengths == (7,)


@pytest.mark.parametrize(
    ("aggregate", "loss"),
    [
        # Surrogates are the advantages: four tokens of one half, and two of minus one.
        ("const", -(4 * 0.5 - 2 * 1.0) / (2 * 10)),
        ("token_mean", -(4 * 0.5 - 2 * 1.0) / 6),
        ("seq_mean", -(0.5 - 1.0) / 2),
    ],
)
def test_results_of_tools_count_in_no_divisor(aggregate: str, loss: float) -> None:
    other = rollout(Segment((10,)), Segment((12, 13), (-0.1, -0.1)))
    batch = collate([rollout(*SEGMENTS).row(0.5), other.row(-1.0)])
    objective = PolicyGradient(PolicySettings(aggregate=aggregate), max_tokens=10)
    logp_T = batch.streams["old_logp"].clone()
    logp_T[batch.weights_T == 0] = -7.0  # given tokens have any probability
    total, metrics = objective(logp_T, batch)
    assert float(total) / objective.weight(batch) == pytest.approx(loss)
    assert float(metrics["ratio_minus_1"]) == 0.0


def test_the_ratio_of_a_sequence_is_that_of_its_sampled_tokens() -> None:
    batch = collate([rollout(*SEGMENTS).row(1.0)])
    objective = PolicyGradient(PolicySettings(ratio="sequence", clip="ppo"), max_tokens=10)
    shift_T = torch.tensor([9.0, 0.1, 0.0, 0.0, 9.0, 9.0, 0.1])
    total, _ = objective(batch.streams["old_logp"] + shift_T, batch)
    assert float(total) == pytest.approx(-4 * np.exp(0.2 / 4), rel=1e-5)
