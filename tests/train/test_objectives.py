"""A new objective is one class and one line: everything else finds it by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from coterie.config import ConfigError, DataError, TrainingError
from coterie.data.rows import Row
from coterie.machine.processes import Processes
from coterie.train import Batch, Objective, collate
from coterie.train.objective import Metrics
from coterie.train.objectives import OBJECTIVES, objective_class
from tests.arithmetic import approx
from tests.train.support import Keep, loss_sums, make_row, make_trainer


@dataclass
class ClippedPolicyGradient(Objective):
    """A toy of what reinforcement learning needs: two streams, a derived one, and a state."""

    streams: ClassVar[tuple[str, ...]] = ("old_logp", "advantage")
    clip: float = 0.2
    updates: int = 0

    def derive(self, h_TD: Tensor, head_VD: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        logp_TV = (h_TD @ head_VD.t()).log_softmax(-1)
        return {"entropy": -(logp_TV.exp() * logp_TV).sum(-1)}

    def __call__(self, logp_T: Tensor, batch: Batch) -> tuple[Tensor, Metrics]:
        ratio_T = (logp_T - batch.streams["old_logp"]).exp()
        gain_T = batch.streams["advantage"]
        bounded_T = torch.minimum(ratio_T * gain_T, ratio_T.clamp(1 - self.clip, 1 + self.clip) * gain_T)
        entropy = (batch.streams["entropy"] * batch.weights_T).sum()
        return -(bounded_T * batch.weights_T).sum() - 0.01 * entropy, {"entropy": entropy.detach()}

    def after_step(self, processes: Processes) -> None:
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.updates = state["updates"]


def rolled_out(sample: int) -> Row:
    rng, row = np.random.default_rng(sample), make_row(sample)
    drawn = {"old_logp": -3 + rng.random(len(row.ids)), "advantage": rng.normal(size=len(row.ids))}
    return replace(row, streams={name: values.astype(np.float32) for name, values in drawn.items()})


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> type[Objective]:
    monkeypatch.setitem(OBJECTIVES, "toy", ClippedPolicyGradient)
    return objective_class("toy")


def test_a_new_objective_trains_and_accumulation_changes_nothing(toy: type[Objective]) -> None:
    kept = [Keep(), Keep()]
    trainers = [
        make_trainer(keep, row=rolled_out, steps=3, batch_rows=rows, accumulate=4 // rows)
        for keep, rows in zip(kept, (4, 1), strict=True)
    ]
    for trainer in trainers:
        trainer.objective = toy()
        trainer.run()
    assert kept[0].losses == approx(kept[1].losses, *loss_sums(3))
    assert kept[0].records[-1]["entropy"] > 0
    state = trainers[0].state()
    assert state.callbacks["ClippedPolicyGradient"] == {"updates": 3}
    again = make_trainer(row=rolled_out)
    again.objective = toy()
    again.load_state(state)
    assert again.objective.state_dict() == {"updates": 3}


def test_rows_without_its_streams_end_the_step_with_their_name(toy: type[Objective]) -> None:
    trainer = make_trainer()
    trainer.objective = toy()
    with pytest.raises(
        TrainingError, match=r"ClippedPolicyGradient needs the stream 'old_logp'.*Row.streams"
    ):
        trainer.step()


def test_streams_are_joined_and_pairs_numbered_on() -> None:
    rows = [
        replace(make_row(sample, padding=2), streams={"pair": np.asarray([0] * 9 + [1] * 13 + [-1] * 2)})
        for sample in range(2)
    ]
    batch = collate(rows)
    assert batch.counts == {"pair": 4}
    assert batch.streams["pair"].tolist() == [*[0] * 9, *[1] * 13, -1, -1, *[2] * 9, *[3] * 13, -1, -1]
    with pytest.raises(DataError, match="row 1 of a batch: its streams are none, and those of row 0 pair"):
        collate([rows[0], make_row(1)])
    with pytest.raises(DataError, match="3 values in the stream 'pair' of 24 tokens"):
        collate([replace(rows[0], streams={"pair": np.zeros(3, dtype=np.int32)})])


def test_an_unknown_name_gets_the_closest_one() -> None:
    with pytest.raises(ConfigError, match=r"objective 'dppo' does not exist \(did you mean 'dpo'\?\)"):
        objective_class("dppo")
