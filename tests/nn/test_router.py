"""Routing rules against hand-written references, and the balance record."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from coterie.config import BalanceConfig, ConfigError, RouterConfig
from coterie.nn.router import Router
from tests.arithmetic import approx, assert_close, largest

T, D, E = 64, 16, 8
DEPTH = 3  # logits, scores, renormalisation


def make(balance: BalanceConfig | None = None, **settings: object) -> Router:
    torch.manual_seed(0)
    router = Router(
        D, RouterConfig(**({"num_experts": E, "top_k": 2} | settings)), balance or BalanceConfig()
    )
    for parameter in router.parameters():
        parameter.data = torch.randn_like(parameter)
    if router.select_bias is not None:
        # Negative too: the fill value of dropped groups must matter.
        router.select_bias.copy_(torch.randn(E) - 1.0)
    return router


def dense(ids_TK: Tensor, weights_TK: Tensor) -> Tensor:
    return torch.zeros(T, E).scatter(-1, ids_TK, weights_TK)


def test_softmax_then_topk_with_and_without_renormalisation() -> None:
    x = torch.randn(T, D)
    for renormalize in (False, True):
        router = make(renormalize=renormalize)
        routing = router(x)
        probs = (x @ router.weight.T).softmax(-1)
        best = probs.topk(2, -1)
        expected = best.values / best.values.sum(-1, keepdim=True) if renormalize else best.values
        assert_close(dense(routing.ids_TK, routing.weights_TK), dense(best.indices, expected), D, DEPTH)
        assert_close(routing.scores_TE, probs, D, DEPTH)


def test_sigmoid_after_topk_is_independent_per_expert() -> None:
    x = torch.randn(T, D)
    router = make(score="sigmoid", score_after_topk=True, bias=True)
    logits = x @ router.weight.T + router.bias
    best = logits.topk(2, -1)
    routing = router(x)
    expected = dense(best.indices, best.values.sigmoid())
    assert_close(dense(routing.ids_TK, routing.weights_TK), expected, D, DEPTH)


def test_softmax_after_topk_sums_to_one() -> None:
    router = make(score_after_topk=True)
    routing = router(x := torch.randn(T, D))
    best = (x @ router.weight.T).topk(2, -1)
    expected = dense(best.indices, best.values.softmax(-1))
    assert_close(dense(routing.ids_TK, routing.weights_TK), expected, D, DEPTH)


def test_selection_bias_chooses_but_does_not_weigh() -> None:
    router = make(score="sigmoid", select_bias=True, renormalize=True, scale=2.5)
    routing = router(x := torch.randn(T, D))
    scores = (x @ router.weight.T).sigmoid()
    ids = (scores + router.select_bias).topk(2, -1).indices
    chosen = scores.gather(-1, ids)
    expected = dense(ids, chosen / chosen.sum(-1, keepdim=True) * 2.5)
    assert_close(dense(routing.ids_TK, routing.weights_TK), expected, D, DEPTH)
    assert not torch.equal(ids.sort(-1).values, scores.topk(2, -1).indices.sort(-1).values)


@pytest.mark.parametrize("fill", ["zero", "minus_infinity"])
@pytest.mark.parametrize("group_score", ["max", "top2sum"])
def test_groups_are_chosen_first(fill: str, group_score: str) -> None:
    router = make(
        score="sigmoid",
        select_bias=True,
        num_groups=4,
        top_groups=2,
        group_score=group_score,
        group_fill=fill,
        top_k=3,
    )
    x = torch.randn(T, D)
    choice = (x @ router.weight.T).sigmoid().detach() + router.select_bias
    expected = torch.zeros(T, E)
    for t in range(T):
        groups = choice[t].view(4, 2)
        value = groups.max(-1).values if group_score == "max" else groups.sum(-1)
        kept = set(value.topk(2).indices.tolist())
        masked = torch.tensor(
            [
                float(choice[t, e]) if e // 2 in kept else (0.0 if fill == "zero" else float("-inf"))
                for e in range(E)
            ]
        )
        expected[t, masked.topk(3).indices] = 1
    got = torch.zeros(T, E).scatter(-1, router(x).ids_TK, 1.0)
    assert torch.equal(got, expected)


def test_statistics_ignore_padding_and_do_not_depend_on_the_cut() -> None:
    x, valid = torch.randn(T, D), torch.rand(T) > 0.3
    whole, parts = make(BalanceConfig(loss_coef=0.1)), make(BalanceConfig(loss_coef=0.1))
    whole(x[valid], None, 1.0)
    for piece, mask in zip(x.split(16), valid.split(16), strict=True):
        parts(piece, mask, 1.0)
    assert torch.equal(whole.balance.counts_E, parts.balance.counts_E)
    assert_close(whole.balance.score_sum_E, parts.balance.score_sum_E, T, dtype=torch.float32)
    assert int(whole.balance.num_tokens) == int(valid.sum())


def test_balance_loss_gradient_is_that_of_the_written_formula() -> None:
    balance = BalanceConfig(loss_coef=0.3, z_loss_coef=0.07)
    router = make(balance, renormalize=True)
    fraction = torch.rand(E).softmax(0)
    router.balance.fraction_E.copy_(fraction)
    x = torch.randn(T, D)
    (router(x, None, float(T)).weights_TK * 0).sum().backward()
    weight = router.weight.detach().clone().requires_grad_()
    logits = x @ weight.T
    loss = (
        0.3 * E * (fraction * logits.softmax(-1).mean(0)).sum() + 0.07 * logits.logsumexp(-1).square().mean()
    )
    loss.backward()
    assert_close(router.weight.grad, weight.grad, terms=T, depth=DEPTH)


def test_commit_reports_and_moves_the_selection_bias_towards_the_idle() -> None:
    router = make(BalanceConfig(bias_rate=0.01), score="sigmoid", select_bias=True)
    before = router.select_bias.clone()
    counts = router(torch.randn(T, D), None, float(T)).ids_TK.flatten().bincount(minlength=E).double()
    stats = router.balance.commit(router.select_bias)
    assert stats["dead_experts"] == int((counts == 0).sum())
    assert stats["worst_overload"] == approx(float(counts.max() / counts.mean()), terms=E)
    moved = 0.01 * torch.sign(counts.mean() - counts).float()
    assert_close(router.select_bias - before, moved, terms=1, size=largest(before))
    assert_close(router.balance.fraction_E, (counts / counts.sum()).float(), terms=1)
    assert router.balance.commit(router.select_bias) == {}, "nothing was routed since"


def test_uniform_routing_has_balance_loss_one() -> None:
    router = make(BalanceConfig(loss_coef=1.0), top_k=1)
    router.weight.data.zero_()
    router.weight.data[:, :E] = 50 * torch.eye(E)
    x = torch.eye(E).repeat(4, 2)[:, :D]
    router(x, None, 1.0)
    assert router.balance.commit(None)["balance_loss"] == approx(1.0, terms=len(x))


def test_loss_free_bias_evens_out_a_skewed_router() -> None:
    router = make(BalanceConfig(bias_rate=0.02), score="sigmoid", select_bias=True)
    router.select_bias.zero_()
    x = torch.randn(512, D) + 0.5
    overloads = []
    for _ in range(200):
        router(x, None, 512.0)
        overloads.append(router.balance.commit(router.select_bias)["worst_overload"])
    assert overloads[0] > 1.8 and overloads[-1] < 1.35, (overloads[0], overloads[-1])


@pytest.mark.parametrize(
    "settings",
    [{"top_k": 9}, {"num_groups": 3}, {"num_groups": 2, "top_groups": 3}, {"num_groups": 4, "top_k": 3}],
)
def test_contradictory_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        RouterConfig.from_dict({"num_experts": E, "top_k": 2} | settings)
