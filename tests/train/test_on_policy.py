"""Learning on the student's own replies: gradients by enumeration, divergences by hand."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from coterie.data.rows import Row
from coterie.nn.logprobs import token_logprobs
from coterie.nn.transformer import Transformer
from coterie.train.batch import Batch, collate
from coterie.train.distil import Distillation, full_divergence, mixed_divergence
from coterie.train.on_policy import TeacherReward, reply_divergences
from tests.arithmetic import FORWARD_AND_BACKWARD, assert_close, assert_model_close
from tests.train.support import make_row, tiny_config

SIZE = 7  # tokens
PROMPT = [3, 1]


def model(seed: int, moe: bool = False) -> Transformer:
    made = Transformer(tiny_config(moe).model_copy(update={"vocab_size": SIZE, "init_std": 0.5}))
    made.initialise(seed)
    return made


def reply_row(reply: list[int], old: Tensor) -> Row:
    """A row of `PROMPT` and `reply`, whose tokens had the log-probabilities `old`."""
    ids = np.asarray([*PROMPT, *reply], dtype=np.int32)
    weights, logp = np.zeros(len(ids) - 1, np.float32), np.zeros(len(ids) - 1, np.float32)
    weights[len(PROMPT) - 1 :] = 1
    logp[len(PROMPT) - 1 :] = old.numpy()
    streams = {"sample": np.zeros(len(ids) - 1, np.int64), "old_logp": logp}
    return Row(ids[:-1], ids[1:], weights, (len(ids) - 1,), streams=streams)


def every_reply(student: Transformer) -> tuple[Batch, Tensor]:
    """All replies of two tokens as one batch, and the probability of each."""
    replies = [list(pair) for pair in itertools.product(range(SIZE), repeat=2)]
    plain = collate([reply_row(reply, torch.zeros(2)) for reply in replies])
    with torch.no_grad():
        logp_T = token_logprobs(student(plain.ids_T, plain.context), student.head_weight, plain.targets_T)
    old = logp_T.reshape(len(replies), -1)[:, len(PROMPT) - 1 :]
    return collate([reply_row(*pair) for pair in zip(replies, old, strict=True)]), old.sum(1).exp()


def gradients(student: Transformer, total: Tensor) -> dict[str, Tensor]:
    total.backward()
    found = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
    student.zero_grad()
    return found


@pytest.mark.parametrize("moe", [False, True])
def test_the_mean_policy_gradient_is_the_gradient_of_the_reverse_kl(moe: bool) -> None:
    """Over all 49 replies: E[-A_t grad log p] = grad of sum_t KL(student || teacher), prefixes held."""
    student, teacher = model(0, moe), model(1)
    batch, p_N = every_reply(student)
    assert float(p_N.sum()) == pytest.approx(1, abs=1e-5)
    p_T = p_N.repeat_interleave(len(PROMPT) + 1)

    reward = TeacherReward(teacher, 2)
    h_TD = student(batch.ids_T, batch.context)
    logp_T = token_logprobs(h_TD, student.head_weight, batch.targets_T)
    derived = reward.derive(h_TD, student.head_weight, batch)
    weighted = {"advantage": derived["advantage"] * p_T}
    loss, metrics = reward(logp_T, replace(batch, streams={**batch.streams, **weighted}))
    policy = gradients(student, loss)

    exact = Distillation(teacher, None, beta=1.0)
    h_TD = student(batch.ids_T, batch.context)
    kl_T = exact.derive(h_TD, student.head_weight, batch)["divergence"]
    expected = (kl_T * batch.weights_T * p_T).sum()
    divergence = gradients(student, expected)
    # The estimate from sampled tokens is unbiased as well.
    assert_close(metrics["distil_kl"], expected.detach(), batch.num_tokens, 8, size=4.0)
    for name, value in divergence.items():
        config, tokens = student.config, batch.num_tokens
        passes = 2 * FORWARD_AND_BACKWARD
        assert_model_close(config, policy[name], value, tokens, passes=passes, size=4.0, name=name)
    assert float(sum(value.abs().sum() for value in divergence.values())) > 0.1


def test_divergences_by_hand() -> None:
    student, teacher = torch.tensor([[0.25, 0.25, 0.5]]), torch.tensor([[0.5, 0.25, 0.25]])
    scores, taught = student.log() + 3.0, teacher.log()  # scores need no normaliser
    reverse = 0.25 * math.log(2)
    assert float(mixed_divergence(scores, taught, 1.0)) == pytest.approx(reverse, abs=1e-6)
    assert float(mixed_divergence(scores, taught, 0.0)) == pytest.approx(reverse, abs=1e-6)
    # At a half m is (3/8, 1/4, 3/8), and both terms are the same.
    middle = 0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3)
    assert float(mixed_divergence(scores, taught, 0.5)) == pytest.approx(middle, abs=1e-6)
    # At 1/4, m is 1/4 teacher and 3/4 student: (5/16, 1/4, 7/16).
    ahead = 0.5 * math.log(8 / 5) + 0.25 * math.log(4 / 7)
    behind = 0.25 * math.log(4 / 5) + 0.5 * math.log(8 / 7)
    found = float(mixed_divergence(scores, taught, 0.25))
    assert found == pytest.approx(0.25 * ahead + 0.75 * behind, abs=1e-6)


def test_small_shares_tend_to_the_two_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, taught = (torch.randn(5, SIZE, generator=generator).double() for _ in range(2))
    taught = taught.log_softmax(-1)
    student = scores.log_softmax(-1)
    reverse = (student.exp() * (student - taught)).sum(-1)
    tiny = 1e-4
    near = [mixed_divergence(scores, taught.float(), beta) / tiny for beta in (tiny, 1 - tiny)]
    torch.testing.assert_close(near[0], full_divergence(scores, taught), rtol=5e-3, atol=0, check_dtype=False)
    torch.testing.assert_close(near[1], reverse, rtol=5e-3, atol=0, check_dtype=False)


def test_a_larger_student_is_compared_over_the_teachers_tokens() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0, 9.0]])
    taught = torch.tensor([[1.0, 2.0, 3.0]]).log_softmax(-1)
    assert float(mixed_divergence(scores, taught, 1.0)) == pytest.approx(0, abs=1e-6)
    assert float(mixed_divergence(scores, taught, 0.5)) == pytest.approx(0, abs=1e-6)


def test_distances_are_means_over_the_learnt_tokens_of_each_row() -> None:
    student, teacher = model(0), model(1)
    rows = [replace_tokens(make_row(number, size=12 + number, padding=0)) for number in range(3)]
    found = reply_divergences(student.train(), Distillation(teacher, None, beta=1.0), rows)
    assert student.training
    for row, value in zip(rows, found, strict=True):
        batch = collate([row])
        with torch.no_grad():
            ours, theirs = (
                one.logits(one(batch.ids_T, batch.context)).log_softmax(-1) for one in (student, teacher)
            )
        kl_T = (ours.exp() * (ours - theirs)).sum(-1)[batch.weights_T > 0]
        assert value == pytest.approx(float(kl_T.mean()), abs=1e-5)
    same = reply_divergences(student, Distillation(copy.deepcopy(student), None, beta=1.0), rows)
    assert max(map(abs, same)) < 1e-5


def replace_tokens(row: Row) -> Row:
    return replace(row, ids=row.ids % SIZE, targets=row.targets % SIZE)
