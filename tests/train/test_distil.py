"""Distillation over the one loop: the divergence by hand, its gradient, and that nothing else changes."""

from __future__ import annotations

import copy

import pytest
import torch

from coterie.config import ConfigError
from coterie.nn.logprobs import token_logprobs
from coterie.train.batch import collate
from coterie.train.distil import Distilled
from tests.train.support import make_row, tiny_model


def test_loss_and_gradient_are_those_of_whole_softmaxes() -> None:
    student, teacher = tiny_model(0), tiny_model(1)
    slow = copy.deepcopy(student)
    batch = collate([make_row(0), make_row(1)])
    distilled = Distilled(student, teacher, share=0.7)
    h_TD = distilled(batch.ids_T, batch.context)
    total, metrics = distilled.objective(token_logprobs(h_TD, distilled.head_weight, batch.targets_T), batch)
    total.backward()

    student_TV = slow.logits(slow(batch.ids_T, batch.context)).log_softmax(-1)
    with torch.no_grad():
        teacher_TV = teacher.logits(teacher(batch.ids_T, batch.context)).softmax(-1)
    divergence_T = torch.nn.functional.kl_div(student_TV, teacher_TV, reduction="none").sum(-1)
    picked_T = student_TV.gather(1, batch.targets_T[:, None])[:, 0]
    expected = ((0.7 * divergence_T - 0.3 * picked_T) * batch.weights_T).sum()
    expected.backward()
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(metrics["distil_kl"], (divergence_T * batch.weights_T).sum())
    for (name, ours), theirs in zip(student.named_parameters(), slow.parameters(), strict=True):
        assert theirs.grad is not None and ours.grad is not None, name
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)
    assert all(p.grad is None for p in teacher.parameters())
    assert [n for n, _ in distilled.named_parameters()] == [
        f"student.{n}" for n, _ in student.named_parameters()
    ]


def test_a_model_is_at_no_distance_from_itself() -> None:
    model = tiny_model(0)
    batch = collate([make_row(0)])
    distilled = Distilled(copy.deepcopy(model), model)
    h_TD = distilled(batch.ids_T, batch.context)
    total, _ = distilled.objective(token_logprobs(h_TD, distilled.head_weight, batch.targets_T), batch)
    assert float(total.detach().abs()) < 1e-4


def test_other_vocabularies_are_refused() -> None:
    other = tiny_model(0)
    other.config = other.config.model_copy(update={"vocab_size": 7})
    with pytest.raises(ConfigError, match="different vocabularies"):
        Distilled(tiny_model(0), other)
