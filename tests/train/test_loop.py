"""The loop's arithmetic against hand-made steps, and what stops it."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from coterie.config import CheckpointError, DataError, TrainingError
from coterie.data.rows import Row
from coterie.train import Callback, SaveCheckpoint, collate
from coterie.train.loop import learnt_logprobs
from coterie.train.running import NoMoreSteps
from tests.arithmetic import approx, tolerance
from tests.train.support import (
    BATCH_TOKENS,
    Given,
    Keep,
    loss_sums,
    make_row,
    make_trainer,
    step_sums,
    tiny_model,
    write_model,
)


def test_collate_concatenates_and_marks_padding():
    rows = [make_row(0, padding=3, size=10), make_row(1, padding=0, size=10)]
    batch = collate(rows)
    assert batch.ids_T.tolist() == [*rows[0].ids.tolist(), *rows[1].ids.tolist()]
    assert batch.ids_T.dtype == batch.targets_T.dtype == torch.int64
    assert batch.context.lengths == rows[0].lengths + rows[1].lengths
    assert batch.context.valid_T.tolist() == [True] * 7 + [False] * 3 + [True] * 10
    expected = [p for length in batch.context.lengths for p in range(length)]
    assert batch.context.positions_T.tolist() == expected
    assert (batch.num_valid, batch.num_rows) == (17, 2)
    assert batch.weight == float(rows[0].weights.sum() + rows[1].weights.sum())
    assert collate([rows[1]]).context.valid_T is None


def test_collate_makes_steers_of_recorded_experts():
    ids = np.arange(3, dtype=np.int32)
    rows = [
        Row(ids, ids, np.ones(3, np.float32), (3,), streams={"experts.1": np.full((3, 2), at, np.int16)})
        for at in (-1, 4)
    ]
    (steer,) = collate(rows).context.steers.values()
    assert steer.add_TE is None and steer.most == 2 and steer.top_k_T.tolist() == [2] * 6
    assert steer.fixed_TK.tolist() == [[-1, -1]] * 3 + [[4, 4]] * 3 and [*collate(rows).context.steers] == [1]


def test_a_reader_may_end_the_run_between_steps():
    trainer = make_trainer()
    whole = trainer.batches

    def two_steps(start):
        yield from itertools.islice(whole(start), 2 * trainer.accumulate)
        raise NoMoreSteps("learnt")

    trainer.batches = two_steps
    assert trainer.run() == "learnt" and trainer.step_count == 2


def test_collate_refuses_what_does_not_fit():
    row = make_row(0, padding=0)
    with pytest.raises(DataError, match="at least one row"):
        collate([])
    with pytest.raises(DataError, match="row 1"):
        collate([row, Row(row.ids, row.targets, row.weights, (3, 4), 0)])


def test_one_step_equals_a_step_written_out():
    """Plain float32 cross-entropy over all logits, its own clip and AdamW formula, on the dense model."""
    model, reference = tiny_model(moe=False), tiny_model(moe=False)
    trainer = make_trainer(model=model, accumulate=2, batch_rows=2, clip_norm=0.05, bytes_per_token=3.0)
    record = trainer.step()

    batch = collate([make_row(i) for i in range(4)])
    logits = reference.logits(reference(batch.ids_T, batch.context))
    losses = F.cross_entropy(logits, batch.targets_T, reduction="none")
    loss = (losses * batch.weights_T).sum() / batch.weights_T.sum()
    loss.backward()
    loss = loss.detach()
    norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in reference.parameters()))
    assert norm > 0.05  # the clip is active
    lr = 0.02 / 2  # first of two warmup steps
    assert record["loss"] == approx(float(loss), *loss_sums())
    assert record["grad_norm"] == approx(norm, *loss_sums())  # a mean too
    assert record["lr"] == lr and record["tokens"] == batch.num_valid
    assert record["bits_per_byte"] == approx(float(loss) / math.log(2) / 3, *loss_sums())
    for (name, ours), theirs in zip(model.named_parameters(), reference.parameters(), strict=True):
        grad = theirs.grad * min(1.0, 0.05 / (norm + 1e-6))
        decay = 0.1 if theirs.ndim == 2 and not name.startswith("embed") else 0.0
        # first AdamW step: both moments, corrected for their start, are the gradient itself
        expected = theirs * (1 - lr * decay) - lr * grad / (grad.abs() + 1e-8)
        # A gradient's error moves its own weight the further, the smaller the gradient is.
        relative = tolerance(grad, *step_sums()) / (grad.abs() + 1e-8)
        bound = lr * relative.clamp(max=2) + tolerance(expected, terms=2)
        assert ((ours - expected).abs() <= bound).all(), name


def test_objective_metrics_are_means_over_the_step_weight():
    trainer = make_trainer(accumulate=2, batch_rows=2)
    trainer.objective = Given(lambda logp_T, batch: (-logp_T.sum(), {"weights": batch.weights_T.sum()}))
    assert trainer.step()["weights"] == approx(1.0, terms=BATCH_TOKENS)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_nan_ends_the_run_before_the_update_and_names_the_last_checkpoint(tmp_path, where):
    keep = Keep()
    trainer = make_trainer(keep)
    trainer.callbacks.append(SaveCheckpoint(tmp_path, write_model(trainer.model), every=2))
    plain = trainer.objective

    def poisoned(logp_T, batch):
        total, metrics = plain(logp_T, batch)
        if trainer.step_count == 5:
            zero = (logp_T * 0).sum()
            total = total * math.nan if where == "loss" else total + torch.sqrt(zero)  # sqrt'(0) is infinite
        return total, metrics

    trainer.objective = Given(poisoned)
    with pytest.raises(TrainingError) as caught:
        trainer.run()
    message = str(caught.value)
    assert message.startswith(f"step 6: the {where} is not finite") and "\n" not in message
    assert str(tmp_path / "step-000004") in message
    now = dict(trainer.model.named_parameters())
    assert (
        all(torch.equal(now[name], value) for name, value in keep.weights[-1].items())
        and len(keep.weights) == 5
    )
    assert all(p.grad is None for p in now.values())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000002", "step-000004"]


def test_rows_without_a_learnable_token_and_an_end_of_data_are_said():
    def silent(sample):
        row = make_row(sample)
        return Row(row.ids, row.targets, row.weights * 0, row.lengths, row.num_padding)

    with pytest.raises(TrainingError, match=r"step 1: no token has a positive weight \(samples 0 on\)"):
        make_trainer(row=silent).run()
    trainer = make_trainer(accumulate=2)
    trainer.batches = lambda start: iter([[make_row(0)]] * 5)
    with pytest.raises(TrainingError, match="step 3: the data ends at sample 4"):
        trainer.run()


def test_every_callback_hears_of_the_end_and_the_first_error_wins(caplog):
    heard = []

    class Listener(Callback):
        def __init__(self, name, fails=False):
            self.name, self.fails = name, fails

        def on_end(self, trainer, error):
            heard.append((self.name, type(error).__name__))
            if self.fails:
                raise TrainingError(f"{self.name} failed")

    trainer = make_trainer(Listener("a", fails=True), Listener("b"), steps=1)
    with pytest.raises(TrainingError, match="a failed"):
        trainer.run()
    assert heard == [("a", "NoneType"), ("b", "NoneType")]
    heard.clear()
    trainer = make_trainer(Listener("a", fails=True), Listener("b"), steps=1)
    trainer.objective = Given(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.run()
    assert heard == [("a", "ZeroDivisionError"), ("b", "ZeroDivisionError")]
    assert "a failed" in caplog.text


def test_stop_ends_after_the_step_and_the_first_reason_stays():
    class Stopper(Callback):
        def after_step(self, trainer):
            if trainer.step_count == 3:
                trainer.stop("enough")
                trainer.stop("later")

    trainer = make_trainer(Stopper())
    assert trainer.run() == "enough" and trainer.step_count == 3
    assert make_trainer(steps=1).run() == "finished"


def test_state_of_another_seed_model_or_optimiser_is_refused():
    trainer = make_trainer(seed=1)
    trainer.step()
    state = trainer.state()
    with pytest.raises(CheckpointError, match="seed 1, this run has 0"):
        make_trainer(seed=0).load_state(state)
    with pytest.raises(CheckpointError, match="lacks this parameter"):
        make_trainer(seed=1, model=tiny_model(moe=False)).load_state(state)
    with pytest.raises(CheckpointError, match="another optimiser"):
        make_trainer(seed=1, optimiser="muon").load_state(state)


def test_callback_state_and_random_state_come_back():
    class Counter(Callback):
        count = 0

        def after_step(self, trainer):
            self.count += 1

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state):
            self.count = state["count"]

    first, second = Counter(), Counter()
    trainer = make_trainer(first, steps=4)
    trainer.run()
    torch.rand(5)
    state = trainer.state()
    expected = torch.rand(3)
    make_trainer(second).load_state(state)
    assert second.count == 4 and torch.equal(torch.rand(3), expected)


def test_what_is_not_learnt_has_no_scores() -> None:
    random = np.random.default_rng(0)
    head_VD = torch.randn(50, 8, requires_grad=True)
    for learnt, indexed in ((0.5, True), (0.9, False), (0.0, True)):
        weights = (random.random(40) < learnt).astype(np.float32) * 2
        batch = collate([Row(random.integers(0, 50, 40), random.integers(0, 50, 40), weights, (40,))])
        assert (batch.learnt_N is not None) == indexed
        h_TD = torch.randn(40, 8, requires_grad=True)
        want_T = torch.log_softmax(h_TD @ head_VD.T, -1).gather(1, batch.targets_T[:, None])[:, 0]
        found_T = learnt_logprobs(h_TD, head_VD, batch, None)
        assert indexed is False or not found_T[batch.weights_T == 0].any()
        wanted = torch.autograd.grad((want_T * batch.weights_T).sum(), (h_TD, head_VD))
        found = torch.autograd.grad((found_T * batch.weights_T).sum(), (h_TD, head_VD))
        for ours, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(
                ours, theirs, rtol=1e-5, atol=1e-5
            )  # sums of up to 50 terms of size 10
