"""The copy of a run's best evaluation: when it is written, taken up again, used, and thrown away."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from coterie.train import Evaluate, Trainer
from coterie.train.keep_best import KeepBest
from tests.train.support import Keep, load_model, make_trainer, write_model


def run(
    folder: Path, values: list[float], steps: int | None = None, start: int = 0
) -> tuple[Trainer, KeepBest, Keep]:
    """A run whose evaluation after each step finds the next of `values`."""
    trainer, keep = make_trainer(steps=len(values)), Keep()
    best = KeepBest(folder / "best", "found", write_model(trainer.model), load_model(trainer.model))
    trainer.callbacks = [Evaluate(1, lambda t: {"found": values[t.step_count - 1]}), best, keep]
    trainer.step_count = start
    if steps is not None:
        keep.after_step = lambda t: t.stop("enough") if t.step_count == steps else None  # type: ignore[method-assign]
    trainer.run()
    return trainer, best, keep


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([3.0, 2.0, 1.0], 3),
        ([1.0, 2.0, 3.0], 1),
        ([2.0, 1.0, 3.0], 2),
        ([2.0, 1.0, 1.0], 3),  # as good as the best: the last
        ([float("nan"), 2.0, 3.0], 2),
        ([1.0], 1),
    ],
)
def test_the_weights_of_the_best_evaluation_are_restored(
    values: list[float], kept: int, tmp_path: Path
) -> None:
    trainer, best, keep = run(tmp_path, values)
    assert best.restore(trainer) == kept and best.value == values[kept - 1]
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, keep.weights[kept - 1][name]), name
    assert (tmp_path / "best").exists() == (kept < len(values))


def test_a_resumed_run_takes_up_the_copy_and_a_new_one_does_not(tmp_path: Path) -> None:
    run(tmp_path, [1.0, 2.0, 3.0], steps=2)
    trainer, best, _ = run(tmp_path, [1.0, 2.0, 3.0], start=2)
    assert best.restore(trainer) == 1 and best.value == 1.0
    trainer, best, _ = run(tmp_path, [5.0, 4.0, 6.0])
    assert best.restore(trainer) == 2 and best.value == 4.0


@pytest.mark.parametrize("harm", ["cut", "no value", "no manifest"])
def test_a_damaged_copy_is_named_and_left(
    harm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, [1.0, 2.0, 3.0], steps=2)
    if harm == "cut":
        file = tmp_path / "best/model.safetensors"
        file.write_bytes(file.read_bytes()[:-8])
    elif harm == "no manifest":
        (tmp_path / "best/coterie.json").unlink()
    else:
        (tmp_path / "best/coterie.json").write_text("{}")
    trainer, best, _ = run(tmp_path, [1.0, 2.0, 3.0], start=2)
    assert best.restore(trainer) == 3
    (line,) = [record.getMessage() for record in caplog.records]
    assert "the copy of the best evaluation is not used: " in line and "\n" not in line


def test_a_copy_that_cannot_be_written_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    trainer, best, _ = run(tmp_path, [1.0, 2.0])
    assert best.restore(trainer) == 2
    (line,) = [record.getMessage() for record in caplog.records]
    assert "No space left on device" in line and line.endswith("training continues")
    assert not list(tmp_path.iterdir())
