"""GPTQ: both formats, all bits, any order of the columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.checkpoints.quantised.packers import Pack, directory, gptq
from tests.checkpoints.quantised.reading import assert_reads
from tests.checkpoints.quantised.refused import assert_refused

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 16}


@pytest.mark.parametrize(
    ("pack", "config"),
    [
        (gptq(), {}),
        (gptq(2, 32, order=False), {"bits": 2, "group_size": 32}),
        (gptq(3, 32, symmetric=True), {"bits": 3, "group_size": 32, "sym": True}),
        (gptq(8, -1), {"bits": 8, "group_size": -1}),
        (gptq(added=0), {"checkpoint_format": "gptq_v2"}),
        (gptq(order=True), {"desc_act": True, "format": "gptq"}),
        (gptq(8), {"bits": 4, "dynamic": {"+:model.*_proj": {"bits": 8}, "-:lm_head": {}}}),
    ],
)
def test_every_form(pack: Pack, config: dict[str, Any], tmp_path: Path) -> None:
    assert_reads(tmp_path, directory(tmp_path, pack, GPTQ | config))


def words(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int32)


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        ({"bits": 5}, {}, "bits is 5; GPTQ is read here with 2, 3, 4 or 8"),
        ({"bits": "4"}, {}, "bits is '4'; a whole number"),
        ({"group_size": 0}, {}, "group_size is 0; -1 or a positive number"),
        ({"checkpoint_format": "marlin"}, {}, "the GPTQ format 'marlin' is not read here"),
        ({"dynamic": {"x": {"method": "awq"}}}, {}, "rule 'x' changes more than bits"),
        ({"dynamic": {"-:x": {}}}, {}, "rule '-:x' leaves out 'x', which is quantised"),
        ({"dynamic": {"(": {}}}, {}, "is not a regular expression"),
        ({"dynamic": {"(a+)+b": {}}}, {}, "repeats a repetition"),
        ({"dynamic": []}, {}, r"dynamic is \[\]; an object"),
        ({}, {"x.scales": None}, "'x.weight' is quantised and 'x.scales' is missing"),
        ({}, {"x.qzeros": None}, "'x.weight' is quantised and 'x.qzeros' is missing"),
        ({"bits": 8}, {}, r"'x.scales' has shape \(4, 32\); 'x.weight' needs \(2, 32\)"),
        ({}, {"x.qzeros": words(4, 3)}, r"'x.qzeros' has shape \(4, 3\); 'x.weight' needs \(4, 4\)"),
        ({}, {"x.g_idx": words(60)}, r"'x.g_idx' has shape \(60,\)"),
        ({}, {"x.g_idx": words(64) + 4}, "'x.g_idx' names groups that 'x.scales' lacks"),
        ({}, {"x.qweight": torch.zeros(8, 32)}, "'x.qweight' is stored as F32, not I32"),
        ({"bits": 3}, {}, "not whole codes of 3 bits"),
        ({}, {"x.weight": torch.zeros(32, 64)}, "'x.weight' is there twice, plain and quantised"),
    ],
)
def test_what_does_not_fit_is_one_line(
    config: dict[str, Any], change: dict[str, Tensor | None], message: str, tmp_path: Path
) -> None:
    assert_refused(tmp_path, gptq(), GPTQ | config, change, message)
