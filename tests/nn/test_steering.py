"""Per-token control of routers against a router with other weights, and against plain arithmetic."""

from __future__ import annotations

import pytest
import torch

from coterie.config import ConfigError
from coterie.nn.forward_context import ForwardContext
from coterie.nn.recording import Recorder
from coterie.nn.router import Steer
from coterie.nn.steering import LayerControl, RouterControl, check_control, make_steers
from tests.arithmetic import assert_close, assert_model_close
from tests.infer.models import tiny_model
from tests.nn.test_router import D, E, T, dense, make

FORMS = [
    {"renormalize": True},
    {"renormalize": False},
    {"score": "sigmoid", "score_after_topk": True},
    {"score_after_topk": True, "bias": True},
    {"score": "sigmoid", "select_bias": True, "renormalize": True, "scale": 2.5},
]


@pytest.mark.parametrize("form", FORMS)
def test_a_steer_that_asks_for_nothing_changes_nothing(form):
    router, x = make(**form), torch.randn(T, D)
    plain = router(x)
    steered = router(x, steer=Steer(torch.zeros(T, E), torch.full((T,), 2), 2))
    assert torch.equal(plain.ids_TK, steered.ids_TK) and torch.equal(plain.weights_TK, steered.weights_TK)


@pytest.mark.parametrize("form", FORMS)
def test_bias_and_mask_equal_other_logits(form):
    """Bias on all tokens is the router with that bias; a masked expert is one whose logit is far below all
    others.
    """
    router, x = make(**form), torch.randn(T, D)
    add_E = torch.randn(E)
    add_E[3] = float("-inf")
    steered = router(x, steer=Steer(add_E.expand(T, E), torch.full((T,), 2), 2))
    low_E = add_E.masked_fill(add_E == float("-inf"), -1e4)
    if router.select_bias is not None:
        router.select_bias[3] = -1e4
    expected = router.route(router.logits(x) + low_E)
    assert_close(dense(*steered[:2]), dense(*expected[:2]), terms=D, depth=2)
    assert not (steered.ids_TK[steered.weights_TK != 0] == 3).any()


@pytest.mark.parametrize("form", FORMS)
def test_fewer_and_more_experts_per_token(form):
    x = torch.randn(T, D)
    top_k_T = torch.tensor([1, 2, 3, 4] * (T // 4))
    steered = dense(*make(**form)(x, steer=Steer(None, top_k_T, 4))[:2])
    for top_k in (1, 2, 3, 4):
        alone = make(**form, top_k=top_k)(x)
        rows = top_k_T == top_k
        assert_close(steered[rows], dense(*alone[:2])[rows], terms=D, depth=2)


@pytest.mark.parametrize("form", FORMS)
def test_fixed_experts_are_taken_with_the_weights_of_live_scores(form):
    router, x = make(**form), torch.randn(T, D, requires_grad=True)
    plain = router(x)
    fixed_TK = plain.ids_TK.clone()
    fixed_TK[::2] = -1
    same = router(x, steer=Steer(None, torch.full((T,), 2), 2, fixed_TK))
    assert torch.equal(plain.ids_TK, same.ids_TK) and torch.equal(plain.weights_TK, same.weights_TK)
    others_TK = (plain.ids_TK + 1) % E
    found = router(x, steer=Steer(None, torch.full((T,), 2), 2, others_TK))
    assert torch.equal(found.ids_TK, others_TK)
    # What the scores alone say of these experts, chosen here by a bias that weights do not see.
    chosen_TE = torch.full((T, E), -1e9).scatter(1, others_TK, 0.0)
    scores_TE = router.logits(x) if router.config.score_after_topk else plain.scores_TE
    raw_TE = scores_TE + chosen_TE if router.config.score_after_topk else scores_TE * (chosen_TE == 0)
    if router.config.score_after_topk:
        raw_TE = raw_TE.softmax(-1) if router.config.score == "softmax" else raw_TE.sigmoid()
    if router.config.renormalize:
        raw_TE = raw_TE / raw_TE.sum(-1, keepdim=True)
    assert_close(dense(*found[:2]), raw_TE * router.config.scale, terms=D, depth=2)
    found.weights_TK[:, 0].sum().backward()
    assert router.weight.grad is not None and router.weight.grad.abs().sum() > 0


def test_tokens_of_one_batch_are_steered_apart():
    model = tiny_model("moe")
    ids = torch.randint(0, 61, (20,))
    controls = [RouterControl(((0, LayerControl(masked=(1, 4))),)), RouterControl(), RouterControl(top_k=1)]
    lengths = [7, 5, 8]

    def run(chosen, parts):
        steers = make_steers(model.routers(), list(zip(chosen, parts, strict=True)), torch.device("cpu"))
        return ForwardContext.packed(parts, steers=steers, recorder=Recorder())

    with torch.no_grad():
        context = run(controls, lengths)
        whole = model(ids, context)
        start = 0
        for control, length in zip(controls, lengths, strict=True):
            alone = run([control], [length])
            part = model(ids[start : start + length], alone)
            assert_model_close(model.config, part, whole[start : start + length], length)
            start += length
        plain = model(ids[7:12], ForwardContext.packed([5]))
    assert_model_close(model.config, plain, whole[7:12], 5)
    used = context.recorder.routing[0]
    assert not ({1, 4} & set(used.ids_TK[:7][used.weights_TK[:7] != 0].tolist()))
    assert (context.recorder.routing[1].weights_TK[12:] != 0).sum(-1).tolist() == [1] * 8


@pytest.mark.parametrize(
    ("control", "words"),
    [
        (RouterControl(((9, LayerControl(masked=(0,))),)), "layer 9 has no experts"),
        (RouterControl(((0, LayerControl(masked=(6,))),)), "experts 0 to 5"),
        (RouterControl(((1, LayerControl(masked=(0, 1, 2, 3, 4))),)), "1 experts left"),
        (RouterControl(top_k=7), "needs 7"),
    ],
)
def test_refusals(control, words):
    with pytest.raises(ConfigError, match=words):
        check_control(control, tiny_model("moe").routers())


def test_a_dense_model_has_nothing_to_control():
    with pytest.raises(ConfigError, match="dense"):
        check_control(RouterControl(top_k=1), tiny_model("dense").routers())
