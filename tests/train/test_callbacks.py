"""Records, progress, evaluation, time limits, trackers."""

import io
import json
import sys
import types

import pytest
import torch

from coterie.config import ConfigError, TrainingError
from coterie.train import Evaluate, Interrupts, JsonlLog, Progress, StopAfter, Track, read_records
from coterie.train.callbacks import MOE_FIELDS, TRAIN_FIELDS, progress_line
from tests.train.support import Given, Keep, make_trainer, tiny_model

RECORD = {
    "kind": "train",
    "step": 12,
    "loss": 3.4021,
    "bits_per_byte": 1.506,
    "tokens_per_second": 5310.0,
    "eta_s": 250.4,
}


def test_train_records_have_the_documented_fields_for_moe_and_dense():
    for moe in (True, False):
        keep = Keep()
        make_trainer(keep, model=tiny_model(moe=moe), steps=2, flops_per_token=7.0, bytes_per_token=2.0).run()
        assert set(keep.records[0]) == set(TRAIN_FIELDS) | (set(MOE_FIELDS) if moe else set())
        json.dumps(keep.records, allow_nan=False)
        assert [r["flops"] for r in keep.records] == [7.0 * r["tokens"] for r in keep.records]
        assert keep.records[1]["eta_s"] == 0 and keep.records[0]["eta_s"] == pytest.approx(
            keep.records[0]["seconds"]
        )


def test_the_log_keeps_every_nth_and_the_last(tmp_path):
    path = tmp_path / "new" / "metrics.jsonl"
    make_trainer(JsonlLog(path, every=3), steps=8).run()
    assert [r["step"] for r in read_records(path)] == [3, 6, 8]


def test_a_resumed_log_drops_later_records_and_a_half_written_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"kind": "train", "step": step}) for step in range(1, 6)]
    path.write_text("\n".join(lines) + '\n{"kind": "tr')
    trainer = make_trainer(steps=8)
    trainer.step_count = 3
    JsonlLog(path).on_start(trainer)
    assert [r["step"] for r in read_records(path)] == [1, 2, 3]
    good = path.read_text()
    for line in (
        '{"kind": "train"}',
        '{"step": 1}',
        '{"kind": "train", "step": null}',
        "[]",
        '{"step": 1.5, "kind": "x"}',
    ):
        path.write_text(f"{good}{line}\n")
        with pytest.raises(TrainingError, match=r"line \d+ .*; remove it"):
            read_records(path)
    path.write_text("broken\n" + lines[0] + "\n")
    with pytest.raises(TrainingError, match=r"metrics\.jsonl: line 1 is not"):
        JsonlLog(path).on_start(trainer)


def test_a_log_on_a_full_disk_is_one_line():
    trainer = make_trainer(steps=2)
    with pytest.raises(TrainingError, match=r"/dev/full: cannot be written \(No space left on device\)"):
        JsonlLog("/dev/full").on_record(trainer, {"kind": "eval", "step": 1})


def test_progress_line_by_hand():
    assert progress_line(RECORD, 400) == "step 12/400 | loss 3.402 | 1.506 bits/byte | 5.3k tok/s | ETA 4:10"
    more = RECORD | {"bits_per_byte": None, "tokens_per_second": 99.6, "eta_s": 3725.0}
    more |= {"dead_experts": 3.0, "worst_overload": 2.26}
    assert (
        progress_line(more, 400)
        == "step 12/400 | loss 3.402 | 100 tok/s | ETA 1:02:05 | dead 3 | overload 2.3x"
    )


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_one_live_line_on_a_terminal_and_plain_lines_elsewhere(caplog):
    caplog.set_level("INFO", "coterie")
    plain, terminal = io.StringIO(), Terminal()
    make_trainer(Progress("moe", plain, seconds=0.0), Progress("moe", terminal), steps=3).run()
    assert [line.split(" | ")[0] for line in caplog.messages] == [
        "moe step 1/3",
        "moe step 2/3",
        "moe step 3/3",
    ]
    shown = terminal.getvalue()
    assert shown.startswith("\rmoe step 1/3") and shown.count("\n") == 1 and shown.endswith("\n")
    assert "\rmoe step 3/3" in shown  # the last is always shown
    caplog.clear()
    make_trainer(Progress("", plain, seconds=1e9), steps=3).run()
    assert [line.split(" | ")[0] for line in caplog.messages] == ["step 1/3", "step 3/3"]
    quiet = Terminal()
    caplog.set_level("WARNING", "coterie")
    make_trainer(Progress("", quiet), steps=1).run()
    assert quiet.getvalue() == "" == plain.getvalue()  # whoever silences the logger sees no progress


def test_evaluation_runs_without_gradients_every_n_steps_and_at_the_end():
    seen = []

    def measure(trainer):
        seen.append((trainer.model.training, torch.is_grad_enabled()))
        return {"bits_per_byte": 1.25}

    keep = Keep()
    trainer = make_trainer(Evaluate(3, measure), keep, steps=7, flops_per_token=2.0)
    trainer.run()
    evals = [r for r in keep.records if r["kind"] == "eval"]
    assert [r["step"] for r in evals] == [3, 6, 7]
    assert set(evals[0]) == {"kind", "step", "tokens", "seconds", "flops", "bits_per_byte"}
    assert seen == [(False, False)] * 3 and trainer.model.training and torch.is_grad_enabled()

    keep = Keep()
    make_trainer(Evaluate(0, measure), keep, StopAfter(0.0), steps=7).run()
    assert [(r["kind"], r["step"]) for r in keep.records] == [("train", 1), ("eval", 1)]


def test_evaluation_does_not_change_training():
    plain, evaluated = Keep(), Keep()
    make_trainer(plain).run()
    rows = make_trainer()._fetch()

    def measure(trainer):
        return {"mean": float(trainer.model(rows[0].ids_T, rows[0].context).mean())}

    make_trainer(Evaluate(2, measure), evaluated).run()
    assert evaluated.losses == plain.losses


def test_a_time_limit_ends_the_run():
    trainer = make_trainer(StopAfter(0.0), steps=50)
    assert trainer.run() == "time is up" and trainer.step_count == 1
    assert make_trainer(StopAfter(1e6), steps=2).run() == "finished"


def test_signal_handlers_are_put_back_and_a_second_signal_ends_at_once(caplog):
    import signal

    caplog.set_level("INFO", "coterie")
    before = signal.getsignal(signal.SIGINT)
    trainer = make_trainer(Interrupts("again"), steps=3)
    plain = trainer.objective

    def twice(logp_T, batch):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        return plain(logp_T, batch)

    trainer.objective = Given(twice)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert signal.getsignal(signal.SIGINT) is before and not caplog.messages and trainer.step_count == 0


@pytest.mark.parametrize(("kind", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_a_missing_tracker_says_what_to_install(monkeypatch, tmp_path, kind, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"track={kind}: .*coterie\[track\]"):
        Track(kind, tmp_path)


def test_trackers_get_every_number_by_step(monkeypatch, tmp_path):
    calls = []

    class SummaryWriter:
        def __init__(self, path, purge_step):
            calls.append((path, purge_step))

        def add_scalar(self, name, value, step):
            calls.append((name, value, step))

        def close(self):
            calls.append("closed")

    run = types.SimpleNamespace(
        log=lambda values, step: calls.append((values, step)), finish=lambda: calls.append("end")
    )
    monkeypatch.setitem(
        sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=SummaryWriter)
    )
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **options: run))
    trainer = make_trainer(steps=3)
    record = {"kind": "train", "step": 2, "loss": 1.5, "bits_per_byte": None}
    for kind in ("tensorboard", "wandb"):
        track = Track(kind, tmp_path)
        track.on_start(trainer)
        track.on_record(trainer, record)
        track.on_end(trainer, None)
    assert calls == [
        (str(tmp_path / "tensorboard"), 1),
        ("train/loss", 1.5, 2),
        "closed",
        ({"train/loss": 1.5}, 2),
        "end",
    ]
