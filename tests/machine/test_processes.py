"""Two real processes (gloo) take the steps of one, and only the main one writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from coterie.data.order import Order, read_batches
from coterie.machine.processes import Processes
from coterie.train import JsonlLog, SaveCheckpoint, StopAfter
from tests.arithmetic import approx
from tests.forked import Forked
from tests.train.support import Keep, loss_sums, make_row, make_trainer, write_model

ROWS = [make_row(sample) for sample in range(24)]


def train(out: Path, limit: float = 1e9) -> dict[str, Any]:
    """Six steps of four rows in this process's share of the run; its losses and final weights' sum."""
    processes, keep = Processes.current(), Keep()
    trainer = make_trainer(keep, steps=6, processes=processes)
    order = Order(len(ROWS), 0)
    trainer.batches = lambda start: read_batches(ROWS, order, start, 4, processes.rank, processes.world)
    log, save = JsonlLog(out / "metrics.jsonl"), SaveCheckpoint(out, write_model(trainer.model), every=3)
    # Only the last process meets its time limit.
    stop = StopAfter(limit if processes.rank == processes.world - 1 else 1e9)
    trainer.callbacks += [save, log, stop]
    reason = trainer.run()
    total = sum(float(p.detach().double().abs().sum()) for p in trainer.model.parameters())
    records = [{k: r[k] for k in ("tokens", "dead_experts", "worst_overload")} for r in keep.records]
    return {"reason": reason, "losses": keep.losses, "total": total, "records": records,
            "saved": Path(str(trainer.last_checkpoint)).name}  # fmt: skip


LIMITS = {"whole": 1e9, "stopped": 0.0}


def share(rank: int, folder: Path) -> None:
    """Both runs in one of two processes."""
    torch.set_num_threads(1)
    meeting = f"file://{folder / 'meeting'}"
    torch.distributed.init_process_group("gloo", meeting, rank=rank, world_size=2)
    print(json.dumps({name: train(folder / name, limit) for name, limit in LIMITS.items()}), flush=True)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    pair = [Forked(share, rank, tmp_path) for rank in range(2)]
    found = [json.loads(process.stdout.read()) for process in pair]
    for name, limit in LIMITS.items():
        alone: dict[str, Any] = train(tmp_path / f"{name}-alone", limit)
        for one in (shared[name] for shared in found):
            sums = loss_sums(len(alone["losses"]))
            assert one["losses"] == approx(alone["losses"], *sums)
            assert one["total"] == approx(alone["total"], *sums)
            assert one["records"] == alone["records"]  # routers count the global batch
            assert one["reason"] == alone["reason"] and one["saved"] == alone["saved"]
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, len(alone["losses"]) + 1))


def test_one_process_needs_no_group() -> None:
    one = Processes.current()
    assert one == Processes(0, 1, 0) and one.is_main
    tensor = torch.ones(2)
    one.sum_in_place([tensor])
    assert tensor.tolist() == [1, 1] and one.first_reason(None) is None and one.main_first(lambda: 3) == 3
    assert one.place(torch.device("cuda")) == torch.device("cuda")
    assert Processes(3, 8, 3).place(torch.device("cuda")) == torch.device("cuda", 3)
