"""A layer counts as often as the model has it, the rest once; an expert is read as it is held."""

from itertools import count
from pathlib import Path

import pytest
import torch

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.config import Precision
from coterie.recipes import serve_speed
from tests.checkpoints.test_expert_files import written


def test_layers_count_as_often_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Checkpoint.open(written(tmp_path, "qwen3_moe")).config
    kinds = len(set(config.blocks))
    measured: list[int] = []

    def time(_config, blocks, *_) -> float:
        measured.append(len(blocks))
        return 5.0 + 2.0 * len(blocks)

    monkeypatch.setattr(serve_speed, "_time", time)
    assert serve_speed.step_seconds(config, torch.float32, Precision()) == 5.0 + 2.0 * config.num_layers
    assert measured == [1, 2] * kinds


def test_reading_takes_time_in_every_form(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(written(tmp_path, "llama4_scout"))
    for precision in (Precision(), Precision.parse("int4")):
        assert serve_speed.read_seconds(checkpoint, torch.bfloat16, precision) > 0
    assert serve_speed.disk_seconds(1 << 16) > 0


@pytest.mark.slow
def test_a_step_is_measured(tmp_path: Path) -> None:
    config = Checkpoint.open(written(tmp_path, "qwen3_moe")).config
    ticks = count()
    seconds = serve_speed.step_seconds(
        config, torch.bfloat16, Precision.parse("int8"), clock=lambda: float(next(ticks))
    )
    assert seconds == 1.0  # each step takes one tick, whatever the number of layers
