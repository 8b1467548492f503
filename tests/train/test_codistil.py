"""Co-distillation: one forward pass of the teacher, gradients of a distillation, and a teacher untouched."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from coterie.config.weighting import WeightSettings
from coterie.machine.processes import Processes
from coterie.nn.logprobs import token_logprobs
from coterie.nn.transformer import Transformer
from coterie.train import CrossEntropy, Trainer
from coterie.train.batch import Batch, collate
from coterie.train.codistil import Codistillation, SharedForward
from coterie.train.distil import Distillation
from coterie.train.lockstep import Lockstep
from tests.train.support import STEPS, Keep, make_row, make_trainer, tiny_model

GATED = WeightSettings(kind="gated", most=0.8, ramp=0.5, kappa=0.7)


def run_with_student(accumulate: int = 1) -> tuple[Trainer, Trainer, Keep]:
    """A teacher and a dense student, trained together: both trainers and what was logged."""
    teacher, shared, keep = tiny_model(0), SharedForward(), Keep()
    student = make_trainer(model=tiny_model(1, moe=False), accumulate=accumulate, batch_rows=4 // accumulate)
    student.objective = Codistillation(teacher, shared, None, GATED, 1.0, STEPS)
    options = {"accumulate": accumulate, "batch_rows": 4 // accumulate}
    trainer = make_trainer(Lockstep({"small": student}), keep, model=teacher, **options)
    trainer.objective = shared
    trainer.run()
    return trainer, student, keep


def gradient(objective: Distillation, student: Transformer, batch: Batch) -> dict[str, torch.Tensor]:
    h_TD = student(batch.ids_T, batch.context)
    derived = objective.derive(h_TD, student.head_weight, batch)
    logp_T = token_logprobs(h_TD, student.head_weight, batch.targets_T)
    total, _ = objective(logp_T, replace(batch, streams=derived))
    total.backward()
    return {name: p.grad for name, p in student.named_parameters() if p.grad is not None}


def test_a_students_gradient_is_that_of_a_distillation() -> None:
    teacher, shared = tiny_model(0), SharedForward()
    batches = [collate([make_row(0), make_row(1)]), collate([make_row(2)])]
    for batch in batches:
        shared.derive(teacher(batch.ids_T, batch.context), teacher.head_weight, batch)
    batch = collate([make_row(2)])  # read again by the student, so an equal one
    ours = Codistillation(teacher, shared, None, GATED, 1.5, 10)
    theirs = Distillation(copy.deepcopy(teacher), None, GATED, 1.5, 10)
    ours.done = theirs.done = 3
    found = [gradient(one, tiny_model(1, moe=False), batch) for one in (ours, theirs)]
    assert found[0].keys() == found[1].keys() and found[0]
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name
    assert all(p.grad is None for p in teacher.parameters())


def test_hidden_states_are_of_this_step_alone() -> None:
    teacher, shared = tiny_model(0), SharedForward()
    batch = collate([make_row(0)])
    shared.derive(teacher(batch.ids_T, batch.context), teacher.head_weight, batch)
    with pytest.raises(LookupError, match="has not read"):
        shared.hidden(collate([make_row(1)]))
    assert not shared.hidden(batch).requires_grad
    shared.after_step(Processes.current())
    with pytest.raises(LookupError):
        shared.hidden(batch)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_teacher_runs_once_and_is_what_it_is_without_students(accumulate: int) -> None:
    calls = 0
    whole = Transformer.forward

    def counted(self: Transformer, *arguments: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return whole(self, *arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transformer, "forward", counted)
        trainer, student, keep = run_with_student(accumulate)
    assert calls == 2 * STEPS * accumulate  # teacher and student, once for each micro-batch
    alone = make_trainer(accumulate=accumulate, batch_rows=4 // accumulate)
    assert isinstance(alone.objective, CrossEntropy)
    alone.run()
    for (name, ours), theirs in zip(trainer.model.named_parameters(), alone.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    shares = [record["distil_share"] for record in keep.records if record["kind"] == "student/small"]
    assert shares[0] == 0.0 and len(shares) == STEPS  # the ramp begins at nothing
    assert all(0 < share < GATED.most for share in shares[STEPS // 2 :])
    assert student.objective.state_dict() == {"done": STEPS}
