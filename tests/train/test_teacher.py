"""A teacher's answers: what is kept of its distribution, and that draws are unbiased and independent."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from coterie.data.rows import Row
from coterie.data.teacher_targets import OWN, TargetHeader
from coterie.train.batch import collate
from coterie.train.distil import drawn_divergence, full_divergence
from coterie.train.teacher import answers
from tests.arithmetic import assert_close, assert_model_close
from tests.train.support import ROW, VOCAB, make_row, tiny_model

TEMPERATURE = 1.5


def header(kind: Any, width: int, seed: int = 0) -> TargetHeader:
    return TargetHeader("t", "w", "d", kind, width, VOCAB, ROW, TEMPERATURE, seed)


def numbered(*numbers: int) -> list[tuple[int, Row]]:
    return [(number, make_row(number)) for number in numbers]


def whole(number: int) -> torch.Tensor:
    teacher, batch = tiny_model(1), collate([make_row(number)])
    with torch.no_grad():
        return teacher.logits(teacher(batch.ids_T, batch.context))


def test_full_rows_and_buckets_are_of_the_distribution_at_the_temperature() -> None:
    teacher, row = tiny_model(1), make_row(3)
    logp_SV = (whole(3) / TEMPERATURE).log_softmax(-1)
    (full,) = answers(teacher, header("full", VOCAB), numbered(3))
    assert_model_close(teacher.config, torch.from_numpy(full["teacher_logps"]), logp_SV, ROW)
    (top,) = answers(teacher, header("topk", 4), numbered(3))
    kept_SK = logp_SV.gather(1, torch.from_numpy(top["teacher_ids"]))
    assert_model_close(teacher.config, torch.from_numpy(top["teacher_logps"]), kept_SK, ROW)
    assert_model_close(teacher.config, kept_SK, logp_SV.sort(descending=True).values[:, :4], ROW)
    mass_S = np.exp(top["teacher_logps"]).sum(-1) + np.exp(top["teacher_tail"])
    assert_close(torch.from_numpy(mass_S), torch.ones(ROW), VOCAB, 4)
    # the target's own log-probability decides who knows it better, so it is that of the plain distribution
    own_S = whole(3).log_softmax(-1).gather(1, torch.from_numpy(row.targets).long()[:, None])[:, 0]
    for found in (full, top):
        assert_model_close(teacher.config, torch.from_numpy(found[OWN]), own_S, ROW)


def test_draws_depend_on_the_row_and_the_seed_alone() -> None:
    teacher = tiny_model(1)
    together = list(answers(teacher, header("sampled", 8), numbered(3, 5, 9)))
    (alone,) = answers(teacher, header("sampled", 8), numbered(5))
    assert np.array_equal(alone["teacher_ids"], together[1]["teacher_ids"])
    (other,) = answers(teacher, header("sampled", 8, seed=1), numbered(5))
    assert not np.array_equal(alone["teacher_ids"], other["teacher_ids"])
    (elsewhere,) = answers(teacher, header("sampled", 8), [(6, make_row(5))])
    assert not np.array_equal(alone["teacher_ids"], elsewhere["teacher_ids"])


def test_draws_are_unbiased() -> None:
    teacher, draws = tiny_model(1), 4000
    p_SV = (whole(3) / TEMPERATURE).softmax(-1).double()
    (found,) = answers(teacher, header("sampled", draws), numbered(3))
    ids_SN = torch.from_numpy(found["teacher_ids"])
    share_SV = torch.zeros(ROW, VOCAB, dtype=torch.float64)
    share_SV.scatter_add_(1, ids_SN, torch.full(ids_SN.shape, 1 / draws, dtype=torch.float64))
    z_SV = (share_SV - p_SV) / (p_SV * (1 - p_SV) / draws).sqrt()
    # about a standard normal number each: none beyond 5, and their squares of mean 1
    assert float(z_SV.abs().max()) < 5
    assert abs(float(z_SV.square().mean()) - 1) < 5 * (2 / z_SV.numel()) ** 0.5
    # the divergence that is learnt from is the whole one, on average over the draws
    scores_SV = torch.randn(ROW, VOCAB, generator=torch.Generator().manual_seed(0))
    exact_S = full_divergence(scores_SV, p_SV.log().float())
    entropy_S = torch.from_numpy(found["teacher_entropy"])
    drawn_S = drawn_divergence(scores_SV, ids_SN, entropy_S)
    costs_SN = -scores_SV.log_softmax(-1).gather(1, ids_SN)
    z_S = (drawn_S - exact_S) / (costs_SN.std(-1) / draws**0.5)
    assert float(z_S.abs().max()) < 5
