"""Distillation over the one loop: the divergence by hand, its gradient, and that nothing else changes."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from coterie.config.distill import TargetKind
from coterie.config.errors import TrainingError
from coterie.config.weighting import WeightSettings
from coterie.data.rows import Row
from coterie.data.teacher_targets import LEAST_LOG, OWN, TargetHeader
from coterie.machine.processes import Processes
from coterie.nn.logprobs import token_logprobs
from coterie.nn.transformer import Transformer
from coterie.train.batch import Batch, collate
from coterie.train.distil import (
    Distillation,
    bucketed_divergence,
    drawn_divergence,
    full_divergence,
    teacher_scores,
)
from coterie.train.objective import CrossEntropy, Objective
from coterie.train.teacher import answers
from tests.arithmetic import FORWARD_AND_BACKWARD, assert_close, assert_model_close, model_tolerance
from tests.train.support import ROW, VOCAB, loss_sums, make_row, tiny_model


def scored(objective: Objective, student: Transformer, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective on one micro-batch, as the loop calls it."""
    h_TD = student(batch.ids_T, batch.context)
    derived = objective.derive(h_TD, student.head_weight, batch)
    logp_T = token_logprobs(h_TD, student.head_weight, batch.targets_T)
    return objective(logp_T, replace(batch, streams={**batch.streams, **derived}))


def test_loss_and_gradient_are_those_of_whole_softmaxes() -> None:
    student, teacher = tiny_model(0), tiny_model(1)
    slow = copy.deepcopy(student)
    batch = collate([make_row(0), make_row(1)])
    total, metrics = scored(
        Distillation(teacher, weighting=WeightSettings(kind="const", most=0.7)), student, batch
    )
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
    total, _ = scored(Distillation(model), student, batch)
    # each of its terms is a difference of two equal log-probabilities
    size = math.log(VOCAB) * math.sqrt(batch.num_tokens)
    assert float(total.detach().abs()) <= model_tolerance(model.config, size, batch.num_tokens)


def test_a_teacher_of_fewer_rows_speaks_of_the_tokens_that_both_have() -> None:
    student, teacher = tiny_model(0), tiny_model(1)
    wide_CV, narrow_CV = torch.randn(5, VOCAB), torch.randn(5, VOCAB - 4).log_softmax(-1)
    padded_CV = torch.nn.functional.pad(narrow_CV, (0, 4), value=-1e4)
    assert_close(full_divergence(wide_CV, narrow_CV), full_divergence(wide_CV, padded_CV), VOCAB, 3)
    h_TD = torch.randn(3, teacher.config.width)
    # a product with fewer columns may add its terms in another order
    size = float(h_TD.norm(dim=1).max() * teacher.head_weight.detach().norm(dim=1).max())
    bound = teacher.config.width * torch.finfo(torch.float32).eps * size
    found_CV, whole_CV = teacher_scores(teacher, h_TD, 7), teacher.logits(h_TD)
    torch.testing.assert_close(found_CV, whole_CV[:, :7], rtol=0, atol=bound)
    del student


def test_buckets_and_draws_by_hand() -> None:
    # student: q = (1/2, 1/4, 1/8, 1/8); teacher: p = (1/4, 1/2, 1/8, 1/8)
    scores_CV = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log() + 3.0
    taught_CV = torch.tensor([[0.25, 0.5, 0.125, 0.125]]).log()
    ln2 = math.log(2)
    assert_close(full_divergence(scores_CV, taught_CV), torch.tensor([0.25 * ln2]), 4, 3)
    # one kept token (id 1, p 1/2 against q 1/4) and the bucket of all others (1/2 against 3/4)
    found = bucketed_divergence(
        scores_CV, torch.tensor([[1]]), taught_CV[:, 1:2], torch.tensor([math.log(0.5)])
    )
    assert_close(found, torch.tensor([0.5 * math.log(2) + 0.5 * math.log(2 / 3)]), 4, 3)
    # draws 1, 1, 0, 3: mean of -log q is (2 + 2 + 1 + 3) ln 2 / 4; the teacher's entropy is 1.75 ln 2
    drawn = drawn_divergence(scores_CV, torch.tensor([[1, 1, 0, 3]]), torch.tensor([1.75 * ln2]))
    assert_close(drawn, torch.tensor([2 * ln2 - 1.75 * ln2]), 4, 3)


def test_a_bucket_with_all_tokens_but_one_is_the_whole_divergence() -> None:
    torch.manual_seed(0)
    scores_CV, taught_CV = torch.randn(6, VOCAB), (2 * torch.randn(6, VOCAB)).log_softmax(-1)
    top = taught_CV.topk(VOCAB - 1)
    tail_C = taught_CV.scatter(1, top.indices, -torch.inf).logsumexp(-1)
    found = bucketed_divergence(scores_CV, top.indices, top.values, tail_C)
    assert_close(found, full_divergence(scores_CV, taught_CV), VOCAB, 3)


def test_without_a_tail_nothing_is_infinite() -> None:
    scores_CV = torch.randn(2, 5, requires_grad=True)
    found = bucketed_divergence(
        scores_CV, torch.tensor([[0], [1]]), torch.zeros(2, 1), torch.full((2,), LEAST_LOG)
    )
    found.sum().backward()
    assert scores_CV.grad is not None and bool(scores_CV.grad.isfinite().all())
    assert_close(found.detach(), -scores_CV.detach().log_softmax(-1).diagonal(), 5, 3)


def peaked(rows: int, vocab_size: int, seed: int) -> Tensor:
    """Scores like a trained model's: Zipf over the vocabulary in another order for each row, and noise."""
    generator = torch.Generator().manual_seed(seed)
    ranks = torch.stack([torch.randperm(vocab_size, generator=generator) for _ in range(rows)])
    return -2.0 * (ranks + 1.0).log() + 0.3 * torch.randn(rows, vocab_size, generator=generator)


def test_bucketed_gradients_point_where_whole_ones_do() -> None:
    taught_CV = peaked(64, 2000, 0).log_softmax(-1)
    # a student that has learnt some of it
    scores_CV = (0.5 * peaked(64, 2000, 0) + 0.5 * torch.randn(64, 2000)).requires_grad_()
    top = taught_CV.topk(16)
    tail_C = taught_CV.scatter(1, top.indices, -torch.inf).logsumexp(-1)
    grads = []
    for found in (
        full_divergence(scores_CV, taught_CV),
        bucketed_divergence(scores_CV, top.indices, top.values, tail_C),
    ):
        grads.append(torch.autograd.grad(found.sum(), scores_CV, retain_graph=True)[0].flatten())
    assert float(torch.cosine_similarity(*grads, dim=0)) > 0.99
    # renormalised over the kept tokens, as others do, it is biased: the student's tail is pushed to nothing
    kept_CV = taught_CV.gather(1, top.indices).log_softmax(-1)
    naive_C = (kept_CV.exp() * (kept_CV - scores_CV.log_softmax(-1).gather(1, top.indices))).sum(-1)
    naive = torch.autograd.grad(naive_C.sum(), scores_CV)[0].flatten()
    errors = [float((found - grads[0]).norm()) for found in (grads[1], naive)]
    assert errors[0] < 0.5 * errors[1]


def test_the_share_follows_ramp_and_gate() -> None:
    logp_T, own_T = torch.tensor([-2.0, -2.0]), torch.tensor([-1.0, -3.0])
    linear = Distillation("full", weighting=WeightSettings(kind="linear", most=0.8, ramp=0.5), steps=10)
    found = []
    for _ in range(7):
        found.append(float(linear.share(logp_T, own_T)[0]))
        linear.after_step(Processes())
    assert found == pytest.approx([0.0, 0.16, 0.32, 0.48, 0.64, 0.8, 0.8])
    gated = Distillation("full", weighting=WeightSettings(kind="gated", most=0.8, ramp=0.0, kappa=0.5))
    # the teacher is better by one nat, then worse: sigmoid(2) and sigmoid(-2)
    assert gated.share(logp_T, own_T).tolist() == pytest.approx([0.8 * 0.880797, 0.8 * 0.119203], abs=1e-6)
    resumed = Distillation("full", weighting=linear.weighting, steps=10)
    resumed.load_state_dict(linear.state_dict())
    assert float(resumed.share(logp_T, own_T)[0]) == pytest.approx(0.8)


def test_weighted_loss_by_hand_and_no_gradient_through_the_share() -> None:
    objective = Distillation(
        "full", None, WeightSettings(kind="gated", most=0.8, ramp=0.0, kappa=0.5), temperature=2.0
    )
    batch = collate([make_row(0, padding=0)])
    logp_T = torch.full((batch.num_tokens,), -2.0, requires_grad=True)
    streams = {"divergence": torch.full_like(logp_T, 0.25), OWN: torch.full_like(logp_T, -1.0)}
    total, metrics = objective(logp_T, replace(batch, streams=streams))
    share = 0.8 / (1 + math.exp(-2))
    weight = batch.weight
    assert float(total.detach()) == pytest.approx(weight * ((1 - share) * 2 + share * 4 * 0.25), rel=1e-5)
    total.backward()
    assert logp_T.grad is not None
    torch.testing.assert_close(logp_T.grad, -(1 - share) * batch.weights_T)
    means = {name: float(value.detach()) / weight for name, value in metrics.items()}
    expected = {"cross_entropy": 2, "distil_kl": 0.25, "distil_share": share, "teacher_better": 1}
    assert means == pytest.approx(expected, rel=1e-5)


def test_a_gate_hands_the_noise_of_the_targets_back() -> None:
    """A teacher that is right: the gradient of sampled targets differs from its mean by their noise alone.

    A constant share `s` leaves `1 - s` of it. A gate with the same mean share leaves more, because the
    targets that surprise the teacher, which move the gradient furthest, are those that it takes from it.
    """
    generator = torch.Generator().manual_seed(0)
    p_CV = torch.randn(4096, 64, generator=generator).mul(2).softmax(-1)
    scores_CV = torch.randn(4096, 64, generator=generator)
    targets_C = torch.multinomial(p_CV, 1, generator=generator)[:, 0]
    own_C = p_CV.log().gather(1, targets_C[:, None])[:, 0]
    logp_C = scores_CV.log_softmax(-1).gather(1, targets_C[:, None])[:, 0]
    gated = Distillation("full", weighting=WeightSettings(kind="gated", ramp=0.0)).share(logp_C, own_C)
    noise_CV = p_CV - torch.nn.functional.one_hot(targets_C, 64)  # cross-entropy's gradient less its mean
    errors = [float(((1 - share)[:, None] * noise_CV).norm()) for share in (gated, gated.mean().expand(4096))]
    assert errors[0] > 1.2 * errors[1]


@pytest.mark.parametrize(("seed", "moe"), [(0, False), (1, False), (2, False), (0, True)])
def test_a_teacher_that_knows_the_text_helps_where_there_is_little_of_it(seed: int, moe: bool) -> None:
    """Three rows, seen again and again; `make_row` draws each next token from three equally likely ones."""
    unlearnt, found = tiny_model(seed, moe), []
    rows = [make_row(10 * seed + at, padding=0) for at in range(3)]
    held_out = collate([make_row(1000 + at, padding=0) for at in range(20)])
    for objective in (CrossEntropy(), Distillation("full", weighting=WeightSettings())):
        student = copy.deepcopy(unlearnt)
        batch = collate([replace(row, streams=known(row)) for row in rows])
        optimiser = torch.optim.AdamW(student.parameters(), 0.01)
        for _ in range(40):
            optimiser.zero_grad()
            total, _ = scored(objective, student, batch)
            (total / batch.weight).backward()
            optimiser.step()
        with torch.no_grad():
            h_TD = student(held_out.ids_T, held_out.context)
            logp_T = token_logprobs(h_TD, student.head_weight, held_out.targets_T)
        found.append(-float((logp_T * held_out.weights_T).sum() / held_out.weight))
    assert found[1] < found[0] - 0.1 and found[1] > math.log(3)


def known(row: Row) -> dict[str, np.ndarray]:
    """What a teacher that knows how `make_row` draws would answer."""
    logps_SV = np.full((len(row.ids), VOCAB), LEAST_LOG, np.float32)
    for step in (1, 2, 3):
        logps_SV[np.arange(len(row.ids)), (row.ids + step) % VOCAB] = -math.log(3)
    return {"teacher_logps": logps_SV, OWN: np.full(len(row.ids), -math.log(3), np.float32)}


@pytest.mark.parametrize("kind", ["full", "topk"])
def test_kept_answers_train_as_a_teacher_that_is_asked(kind: TargetKind) -> None:
    student, teacher = tiny_model(0), tiny_model(1)
    rows = [make_row(0), make_row(1)]
    width = VOCAB if kind == "full" else VOCAB - 1
    header = TargetHeader("t", "w", "d", kind, width, VOCAB, ROW, temperature=2.0)
    kept = answers(teacher, header, list(enumerate(rows)))
    taught = [replace(row, streams=dict(found)) for row, found in zip(rows, kept, strict=True)]
    found = []
    for source, given in ((teacher, rows), (kind, taught)):
        model = copy.deepcopy(student)
        objective = Distillation(source, None, WeightSettings(kind="gated", ramp=0.0), temperature=2.0)
        total, _ = scored(objective, model, collate(given))
        total.backward()
        found.append((total.detach(), model.embed.weight.grad))
    assert_close(found[0][0], found[1][0], *loss_sums())
    assert_model_close(
        student.config, found[1][1], found[0][1], 2 * ROW, passes=FORWARD_AND_BACKWARD, name="embed"
    )


def test_rows_without_answers_are_refused() -> None:
    with pytest.raises(TrainingError, match="needs the stream 'teacher_ids'"):
        Distillation("topk").require(collate([make_row(0)]))
