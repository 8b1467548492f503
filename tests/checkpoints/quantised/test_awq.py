"""AWQ's GEMM form, and its other versions by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.checkpoints.quantised.packers import Pack, awq, directory
from tests.checkpoints.quantised.reading import assert_reads
from tests.checkpoints.quantised.refused import assert_refused

AWQ = {"quant_method": "awq", "bits": 4, "group_size": 16, "zero_point": True, "version": "gemm"}


@pytest.mark.parametrize(
    ("pack", "config"),
    [
        (awq(), {}),
        (awq(32), {"group_size": 32, "version": "GEMM"}),
        (awq(-1), {"group_size": -1, "modules_to_not_convert": ["mlp.gate"]}),
    ],
)
def test_every_group(pack: Pack, config: dict[str, Any], tmp_path: Path) -> None:
    assert_reads(tmp_path, directory(tmp_path, pack, AWQ | config))


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        ({"version": "gemv"}, {}, "the AWQ version 'gemv' is not read here"),
        ({"version": "gemv_fast"}, {}, "the AWQ version 'gemv_fast' is not read here"),
        ({"backend": "llm-awq"}, {}, "the AWQ version 'llm-awq' is not read here"),
        ({"bits": 8}, {}, "8 bits in groups of 16"),
        ({}, {"x.qzeros": None}, "'x.weight' is quantised and 'x.qzeros' is missing"),
        ({"group_size": 32}, {}, r"'x.scales' has shape \(4, 32\); 'x.weight' needs \(2, 32\)"),
        ({}, {"x.qweight": torch.zeros(64, 4, dtype=torch.int64)}, "stored as I64, not I32"),
        ({}, {"x.qweight": torch.zeros(64, dtype=torch.int32)}, "is not a matrix"),
    ],
)
def test_what_does_not_fit_is_one_line(
    config: dict[str, Any], change: dict[str, Tensor | None], message: str, tmp_path: Path
) -> None:
    assert_refused(tmp_path, awq(), AWQ | config, change, message)
