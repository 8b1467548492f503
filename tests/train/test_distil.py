"""Distillation over the one loop: the divergence by hand, its gradient, and that nothing else changes."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from coterie.config import ConfigError
from coterie.nn.logprobs import token_logprobs
from coterie.nn.transformer import Transformer
from coterie.train.batch import Batch, collate
from coterie.train.distil import Distillation
from tests.arithmetic import FORWARD_AND_BACKWARD, assert_close, assert_model_close, model_tolerance
from tests.train.support import VOCAB, loss_sums, make_row, tiny_model


def scored(objective: Distillation, student: Transformer, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective on one micro-batch, as the loop calls it."""
    h_TD = student(batch.ids_T, batch.context)
    derived = objective.derive(h_TD, student.head_weight, batch)
    logp_T = token_logprobs(h_TD, student.head_weight, batch.targets_T)
    return objective(logp_T, replace(batch, streams=derived))


def test_loss_and_gradient_are_those_of_whole_softmaxes() -> None:
    student, teacher = tiny_model(0), tiny_model(1)
    slow = copy.deepcopy(student)
    batch = collate([make_row(0), make_row(1)])
    total, metrics = scored(Distillation(student, teacher, share=0.7), student, batch)
    total.backward()

    student_TV = slow.logits(slow(batch.ids_T, batch.context)).log_softmax(-1)
    with torch.no_grad():
        teacher_TV = teacher.logits(teacher(batch.ids_T, batch.context)).softmax(-1)
    divergence_T = torch.nn.functional.kl_div(student_TV, teacher_TV, reduction="none").sum(-1)
    picked_T = student_TV.gather(1, batch.targets_T[:, None])[:, 0]
    expected = ((0.7 * divergence_T - 0.3 * picked_T) * batch.weights_T).sum()
    expected.backward()
    config = student.config
    kl = (divergence_T * batch.weights_T).sum()
    assert_close(total, expected, *loss_sums())
    assert_close(metrics["distil_kl"], kl, *loss_sums())
    for (name, ours), theirs in zip(student.named_parameters(), slow.parameters(), strict=True):
        assert theirs.grad is not None and ours.grad is not None, name
        passes = FORWARD_AND_BACKWARD
        assert_model_close(config, ours.grad, theirs.grad, batch.num_tokens, passes=passes, name=name)
    assert all(p.grad is None for p in teacher.parameters())


def test_a_model_is_at_no_distance_from_itself() -> None:
    model = tiny_model(0)
    batch = collate([make_row(0)])
    student = copy.deepcopy(model)
    total, _ = scored(Distillation(student, model), student, batch)
    # each of its terms is a difference of two equal log-probabilities
    size = math.log(VOCAB) * math.sqrt(batch.num_tokens)
    assert float(total.detach().abs()) <= model_tolerance(model.config, size, batch.num_tokens)


def test_other_vocabularies_are_refused() -> None:
    other = tiny_model(0)
    other.config = other.config.model_copy(update={"vocab_size": 7})
    with pytest.raises(ConfigError, match="different vocabularies"):
        Distillation(tiny_model(0), other)
