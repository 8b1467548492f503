"""The policy gradient: each switch by hand, and exact gradients of what can be enumerated."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from coterie.config import ConfigError
from coterie.config.reinforce import PolicySettings
from coterie.data.rows import Row
from coterie.train.batch import Batch, collate
from coterie.train.objectives import objective_class
from coterie.train.policy_gradient import PolicyGradient, advantages, divergence

L_MAX = 8


def row(
    learnt: int, advantage: float, old: list[float], prompt: int = 2, reference: float | None = None
) -> Row:
    """A reply of `learnt` tokens to a prompt."""
    count = prompt - 1 + learnt
    weights = np.array([0.0] * (prompt - 1) + [1.0] * learnt, dtype=np.float32)
    streams: dict[str, Any] = {
        "sample": np.zeros(count, dtype=np.int64),
        "advantage": np.full(count, advantage, dtype=np.float32),
        "old_logp": np.array([0.0] * (prompt - 1) + old, dtype=np.float32),
    }
    if reference is not None:
        streams["reference_logp"] = np.full(count, reference, dtype=np.float32)
    ids = np.arange(count, dtype=np.int32)
    return Row(ids, ids, weights, (count,), streams=streams)


def loss_of(batches: list[Batch], logps: list[Tensor], **settings: Any) -> Tensor:
    """The loss of a step: the sum of the micro-batches over the sum of their weights."""
    objective = PolicyGradient(PolicySettings(**settings), L_MAX)
    total = sum(objective(logp, batch)[0] for logp, batch in zip(logps, batches, strict=True))
    return total / sum(map(objective.weight, batches))  # type: ignore[no-any-return]


def test_advantages_by_hand() -> None:
    rewards = [[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]]
    assert advantages(rewards, "mean") == [[0.5, -0.5, -0.5, 0.5], [-0.25, -0.25, -0.25, 0.75], [0.0] * 4]
    std = math.sqrt(3 / 16)
    assert advantages(rewards, "group_std")[1] == pytest.approx([-0.25 / std] * 3 + [0.75 / std], rel=1e-5)
    whole = math.sqrt((4 * 0.25 + 3 / 16 + 9 / 16) / 12)
    assert advantages(rewards, "batch_std")[0][0] == pytest.approx(0.5 / whole, rel=1e-5)
    assert advantages(rewards, "rloo")[1] == pytest.approx([-1 / 3, -1 / 3, -1 / 3, 1.0])
    assert advantages(rewards, "maxrl")[1] == pytest.approx([-1.0, -1.0, -1.0, 3.0])
    assert advantages([[0.0, 0.0]], "maxrl") == [[0.0, 0.0]]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # ratios 2 and 1 of the first reply (A = 1), 0.5 of the second (A = -1); const: over 2 * 8.
        ({}, -(2 + 1 - 0.5) / 16),
        ({"aggregate": "token_mean"}, -(2 + 1 - 0.5) / 3),
        ({"aggregate": "seq_mean"}, -((2 + 1) / 2 - 0.5) / 2),
        ({"clip": "ppo"}, -(1.28 + 1 - 0.8) / 16),
        ({"clip": "ppo", "clip_low": 0.4, "clip_high": 0.1}, -(1.1 + 1 - 0.6) / 16),
        ({"clip": "cispo"}, -(1.28 * -0.5 + 1 * -1.0 + 0.5 * 1.5) / 16),
        ({"ratio": "sequence"}, -(2 * math.sqrt(2) - 0.5) / 16),
    ],
)
def test_losses_by_hand(settings: dict[str, Any], expected: float) -> None:
    logp = [torch.tensor([9.0, -0.5, -1.0]), torch.tensor([9.0, -1.5])]
    old = [[-0.5 - math.log(2), -1.0], [-1.5 + math.log(2)]]
    batches = [collate([row(2, 1.0, old[0]), row(1, -1.0, old[1])])]
    assert float(loss_of(batches, [torch.cat(logp)], **settings)) == pytest.approx(expected, rel=1e-5)


def test_dual_clip_bounds_a_bad_token() -> None:
    batch = collate([row(1, -1.0, [-3.0])])
    logp = torch.tensor([0.0, -0.5])  # ratio e^2.5 = 12.2
    assert float(loss_of([batch], [logp], clip="ppo")) == pytest.approx(math.exp(2.5) / 8, rel=1e-5)
    assert float(loss_of([batch], [logp], clip="dual")) == pytest.approx(3.0 / 8, rel=1e-5)


def test_divergences_by_hand_and_their_weight() -> None:
    d = torch.tensor([0.5, -1.0])
    assert divergence("k1", d).tolist() == [-0.5, 1.0]
    assert divergence("k2", d).tolist() == [0.125, 0.5]
    assert divergence("k3", d).tolist() == pytest.approx([math.exp(0.5) - 1.5, math.exp(-1.0)])
    batch = collate([row(2, 0.0, [-1.0, -1.0], reference=-0.5)])
    logp = torch.tensor([7.0, -1.0, -2.0])
    expected = 0.1 * (0.5**2 / 2 + 1.5**2 / 2) / 8
    assert float(loss_of([batch], [logp], kl_weight=0.1)) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(Exception, match="'reference_logp', which the rows lack"):
        PolicyGradient(PolicySettings(kl_weight=0.1), 8).require(collate([row(1, 0.0, [-1.0])]))


@pytest.mark.parametrize("aggregate", ["const", "token_mean", "seq_mean"])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_micro_batches_and_order_change_nothing(aggregate: str, ratio: str) -> None:
    generator = torch.Generator().manual_seed(0)
    lengths, old, logp, rows = (3, 1, 5, 2, 4), [], [], []
    for number, length in enumerate(lengths):
        old.append((-torch.rand(length, generator=generator)).tolist())
        logp.append(torch.cat([torch.zeros(1), -torch.rand(length, generator=generator)]))
        rows.append(row(length, number - 2.0, old[-1]))
    settings = {"aggregate": aggregate, "ratio": ratio, "clip": "ppo"}
    whole = loss_of([collate(rows)], [torch.cat(logp)], **settings)
    parts = loss_of(
        [collate(rows[:2]), collate(rows[2:])], [torch.cat(logp[:2]), torch.cat(logp[2:])], **settings
    )
    turned = loss_of([collate(rows[::-1])], [torch.cat(logp[::-1])], **settings)
    assert float(parts) == pytest.approx(float(whole), rel=1e-5)
    assert float(turned) == pytest.approx(float(whole), rel=1e-5)


@pytest.mark.parametrize("clip", ["none", "ppo", "dual", "cispo"])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_on_policy_every_rule_is_reinforce(clip: str, ratio: str) -> None:
    old = [-0.7, -1.3, -0.2]
    logp = torch.tensor([0.0, *old], requires_grad=True)
    loss_of([collate([row(3, 0.8, old)])], [logp], clip=clip, ratio=ratio).backward()
    assert logp.grad is not None
    assert logp.grad.tolist() == pytest.approx([0.0] + [-0.8 / L_MAX] * 3, rel=1e-5)


def test_the_mean_gradient_is_that_of_the_expected_reward() -> None:
    """V = 3, two tokens: every reply is enumerated, weighed by its probability."""
    torch.manual_seed(0)
    theta = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    rewards = {
        pair: float(pair[0] == pair[1]) + 0.5 * pair[1] for pair in itertools.product(range(3), repeat=2)
    }
    logp = theta.log_softmax(-1)
    expected_reward = sum((logp[0, a] + logp[1, b]).exp() * reward for (a, b), reward in rewards.items())
    (exact,) = torch.autograd.grad(expected_reward, theta, retain_graph=True)  # type: ignore[arg-type]
    mean = float(expected_reward.detach())  # type: ignore[union-attr]
    found = torch.zeros_like(theta)
    for (a, b), reward in rewards.items():
        chosen = torch.stack([logp[0, 0], logp[0, a], logp[1, b]])
        old = [float(logp[0, a].detach()), float(logp[1, b].detach())]
        batch = collate([row(2, reward - mean, old)])
        loss = loss_of([batch], [chosen]) * L_MAX
        (gradient,) = torch.autograd.grad(loss, theta, retain_graph=True)
        found -= gradient * math.exp(sum(old))
    assert torch.allclose(found, exact, atol=1e-6)


def test_k2_as_a_loss_has_the_gradient_of_the_reverse_kl() -> None:
    torch.manual_seed(1)
    theta = torch.randn(4, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(4, dtype=torch.float64).log_softmax(-1)
    logp = theta.log_softmax(-1)
    (exact,) = torch.autograd.grad((logp.exp() * (logp - reference)).sum(), theta, retain_graph=True)
    found = {}
    for kind in ("k1", "k2", "k3"):
        weighed = (logp.detach().exp() * divergence(kind, reference - logp)).sum()
        (found[kind],) = torch.autograd.grad(weighed, theta, retain_graph=True)
    assert torch.allclose(found["k2"], exact, atol=1e-9)
    assert torch.allclose(found["k1"], torch.zeros(4, dtype=torch.float64), atol=1e-9)
    assert not torch.allclose(found["k3"], exact, atol=1e-3)


def test_tuning_has_no_use_for_it() -> None:
    with pytest.raises(ConfigError, match="use coterie train reinforce"):
        objective_class("reinforce").build(None)  # type: ignore[arg-type]
