"""bitsandbytes: tables of 16 numbers, nested scales, blocks that cross rows, and int8 by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.checkpoints.quantised.packers import Pack, directory, rows8, table4
from tests.checkpoints.quantised.reading import assert_reads
from tests.checkpoints.quantised.refused import assert_refused

FOUR = {"quant_method": "bitsandbytes", "load_in_4bit": True}
STATE = "x.weight.quant_state.bitsandbytes__nf4"


@pytest.mark.parametrize(
    "pack", [table4(), table4("fp4", 128), table4(nested=4), table4(block=48, nested=256), rows8]
)
def test_every_form(pack: Pack, tmp_path: Path) -> None:
    assert_reads(tmp_path, directory(tmp_path, pack, FOUR))


def text(**changes: Any) -> Tensor:
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [32, 64]} | changes
    return torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({STATE: None}, f"'x.weight' is quantised and '{STATE}' is missing"),
        ({STATE: text(shape=[32, 65])}, r"'x.weight' has 1024 bytes; \(32, 65\) in 4 bits needs half"),
        ({STATE: text(shape=[-1, 64])}, "no usable shape and blocksize"),
        ({STATE: text(shape=[2**40, 64])}, "no usable shape and blocksize"),
        ({STATE: text(blocksize=0)}, "no usable shape and blocksize"),
        ({STATE: text(blocksize=32)}, r"'x.weight.absmax' has shape \(32,\); 'x.weight' needs \(64,\)"),
        ({STATE: text(quant_type="fp4")}, "says quant_type 'fp4'"),
        ({STATE: torch.zeros(4, dtype=torch.uint8)}, "not valid JSON"),
        ({STATE: torch.zeros(20_000, dtype=torch.uint8)}, "too long"),
        ({"x.weight.absmax": None}, "'x.weight.absmax' is missing"),
        ({"x.weight.absmax": torch.zeros(32, dtype=torch.uint8)}, "lacks nested_blocksize"),
        ({"x.weight.quant_map": torch.zeros(8)}, r"'x.weight.quant_map' has shape \(8,\)"),
    ],
)
def test_what_does_not_fit_is_one_line(
    change: dict[str, Tensor | None], message: str, tmp_path: Path
) -> None:
    assert_refused(tmp_path, table4(), FOUR, change, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x.SCB": None}, "'x.weight' is quantised and 'x.SCB' is missing"),
        ({"x.SCB": torch.ones(31)}, r"'x.SCB' has shape \(31,\); 'x.weight' needs \(32,\)"),
        ({"x.weight_format": torch.tensor(2, dtype=torch.uint8)}, "says that rows are reordered"),
    ],
)
def test_what_does_not_fit_of_int8_is_one_line(
    change: dict[str, Tensor | None], message: str, tmp_path: Path
) -> None:
    assert_refused(tmp_path, rows8, {"quant_method": "bitsandbytes"}, change, message)
