"""Trainers that step together: in turn, on the same rows, saved and restored with the run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from coterie.config import CheckpointError, TrainingError
from coterie.train import SaveCheckpoint, Trainer
from coterie.train.lockstep import Lockstep
from coterie.train.saving import resume
from tests.train.support import STEPS, Keep, load_model, make_trainer, tiny_model, write_model


def together(*callbacks: Keep, steps: int = STEPS) -> tuple[Trainer, Lockstep]:
    """A trainer and two others in its steps, of other models and another optimiser."""
    members = {
        "dense": make_trainer(model=tiny_model(1, moe=False), steps=steps),
        "muon": make_trainer(model=tiny_model(2), optimiser="muon", steps=steps),
    }
    lockstep = Lockstep(members)
    return make_trainer(lockstep, *callbacks, steps=steps), lockstep


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_each_model_becomes_what_it_becomes_alone() -> None:
    keep = Keep()
    trainer, lockstep = together(keep)
    trainer.run()
    alone = [
        make_trainer(),
        make_trainer(model=tiny_model(1, moe=False)),
        make_trainer(model=tiny_model(2), optimiser="muon"),
    ]
    for one in alone:
        one.run()
    for member, one in zip([trainer, *lockstep.members.values()], alone, strict=True):
        assert same(weights(member), weights(one))
    kinds = [(record["kind"], record["step"]) for record in keep.records]
    assert kinds[:4] == [("student/dense", 1), ("student/muon", 1), ("train", 1), ("student/dense", 2)]


def test_a_resumed_run_is_bit_exact(tmp_path: Path) -> None:
    trainer, lockstep = together()
    trainer.run()

    def saving(trainer: Trainer, lockstep: Lockstep) -> SaveCheckpoint:
        def write(directory: Path) -> None:
            write_model(trainer.model)(directory)
            lockstep.write(directory, lambda path, name: write_model(lockstep.members[name].model)(path))

        return SaveCheckpoint(tmp_path, write, every=5)

    first, others = together()
    save = saving(first, others)
    while first.step_count < 5:
        first.step()
    save.after_step(first)

    again, members = together()

    def read(directory: Path) -> None:
        load_model(again.model)(directory)
        members.read(directory, lambda path, name: load_model(members.members[name].model)(path))

    assert resume(again, tmp_path, read) is not None
    again.run()
    assert [one.step_count for one in (again, *members.members.values())] == [STEPS] * 3
    pairs = zip([trainer, *lockstep.members.values()], [again, *members.members.values()], strict=True)
    for whole, resumed in pairs:
        assert same(weights(whole), weights(resumed))
        ours, theirs = whole.optimiser.state_tensors(), resumed.optimiser.state_tensors()
        assert same(ours, theirs)


def test_a_failing_step_names_the_model_and_moves_nothing_else() -> None:
    trainer, lockstep = together()
    before = weights(trainer)
    with torch.no_grad():
        next(lockstep.members["muon"].model.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"^muon: step 1: the loss is not finite"):
        trainer.step()
    assert same(before, weights(trainer))


def test_checkpoints_without_a_member_are_refused(tmp_path: Path) -> None:
    _, lockstep = together()
    with pytest.raises(CheckpointError, match="lacks the student dense"):
        lockstep.read(tmp_path, lambda path, name: None)
