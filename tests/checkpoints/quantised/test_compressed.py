"""compressed-tensors: every format, groups by name and by class, and the parts that are left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.checkpoints.quantised.packers import (
    Pack,
    directory,
    fp4,
    fp8,
    mxfp8,
    packed,
    whole8,
)
from tests.checkpoints.quantised.reading import assert_reads
from tests.checkpoints.quantised.refused import assert_refused


def config(layout: str, targets: tuple[str, ...] = ("Linear",), **weights: Any) -> dict[str, Any]:
    given = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
    group = {"targets": list(targets), "weights": given | weights}
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head", "re:.*mlp.gate$"],
    }


PACK, FLOAT = "pack-quantized", {"num_bits": 8, "type": "float"}


@pytest.mark.parametrize(
    ("pack", "settings"),
    [
        (packed(), config(PACK)),
        (packed(8, -1, dtype=torch.float16), config(PACK, num_bits=8, strategy="channel", group_size=None)),
        (packed(3, 16, "packed"), config(PACK, num_bits=3, group_size=16, symmetric=False)),
        (packed(4, 32, "int8"), config(PACK, symmetric=False)),
        (packed(4, 16, order=True), config(PACK, group_size=16, actorder="group")),
        (whole8(), config("int-quantized", num_bits=8, strategy="channel")),
        (whole8(None), config("naive-quantized", num_bits=8, strategy="tensor")),
        (whole8(1, 32, zero=True), config("int-quantized", num_bits=8, symmetric=False)),
        (fp8(1, None, ".weight_scale"), config("float-quantized", **FLOAT, strategy="channel")),
        (fp8(ending=".weight_scale", flat=True), config("float-quantized", **FLOAT, strategy="tensor")),
        (
            fp8(16, 24, ".weight_scale"),
            config("float-quantized", **FLOAT, strategy="block", block_structure=[16, 24]),
        ),
        (mxfp8(), config("mxfp8-quantized", **FLOAT)),
        (fp4("nvfp4"), config("nvfp4-pack-quantized", type="float", group_size=16)),
        (fp4("mxfp4"), config("mxfp4-pack-quantized", type="float")),
    ],
)
def test_every_format(pack: Pack, settings: dict[str, Any], tmp_path: Path) -> None:
    assert_reads(tmp_path, directory(tmp_path, pack, settings))


def test_groups_pick_modules_by_name_before_class(tmp_path: Path) -> None:
    """Experts in 4 bits, attention in FP8, as Kimi's are; the config is one level deeper."""
    settings = config("mixed-precision")
    attention = {"targets": ["re:.*self_attn.*"], "weights": FLOAT | {"strategy": "tensor"}}
    settings["config_groups"] = {"group_0": settings["config_groups"]["group_0"], "group_1": attention}
    inner = {key: settings.pop(key) for key in ("config_groups", "format", "ignore")}

    settings |= {"quantization_config": inner}
    float8 = fp8(ending=".weight_scale", flat=True)
    meant = directory(tmp_path, packed(), settings, attention=float8)
    assert_reads(tmp_path, meant)


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        (config("marlin-24"), {}, "the format 'marlin-24' is not read here"),
        (config(PACK) | {"sparsity_config": {"format": "sparse-24-bitmask"}}, {}, "sparse format"),
        (config(PACK, num_bits=9), {}, "num_bits 9 of type int is not read here"),
        (config(PACK, type="float"), {}, "num_bits 4 of type float is not read here"),
        (config(PACK, group_size=0, strategy="group"), {}, "group_size is 0; -1 or a positive number"),
        (config(PACK, num_bits=8), {}, r"'x.weight_packed' has shape \(32, 8\); \(32, 64\) in 8 bits needs"),
        (config(PACK, symmetric=False), {}, "'x.weight_zero_point' is missing"),
        (config(PACK, group_size=16), {}, r"'x.weight_scale' has shape \(32, 2\); .* needs \(32, 4\)"),
        (config(PACK), {"x.weight_scale": None}, "'x.weight_scale' is missing"),
        (config(PACK), {"x.weight_shape": None}, "'x.weight_shape' is missing"),
        (config(PACK), {"x.weight_shape": torch.tensor([-32, 64])}, r"says \(-32, 64\)"),
        (config(PACK), {"x.weight_g_idx": torch.full((64,), 2)}, "names groups that 'x.weight_scale' lacks"),
        (config(PACK), {"x.weight": torch.zeros(32, 64)}, "is there twice, plain and quantised"),
        (config(PACK, targets=("re:(",)), {}, "is not a regular expression"),
        (config(PACK) | {"config_groups": {}}, {}, "no group names 'x'"),
        (config(PACK) | {"config_groups": {"a": {"targets": 3}}}, {}, "targets is 3; a list"),
        (config(PACK) | {"config_groups": {"a": 3}}, {}, "targets is None; a list"),
    ],
)
def test_what_does_not_fit_is_one_line(
    settings: dict[str, Any], change: dict[str, Tensor | None], message: str, tmp_path: Path
) -> None:
    assert_refused(tmp_path, packed(), settings, change, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x.weight_global_scale": None}, "'x.weight_global_scale' is missing"),
        ({"x.weight_scale": None}, "'x.weight_scale' is missing"),
        ({"x.weight_scale": torch.zeros(32, 2).to(torch.float8_e4m3fn)}, r"'x.weight' needs \(32, 4\)"),
    ],
)
def test_what_does_not_fit_of_nvfp4_is_one_line(
    change: dict[str, Tensor | None], message: str, tmp_path: Path
) -> None:
    settings = config("nvfp4-pack-quantized", type="float", group_size=16)
    assert_refused(tmp_path, fp4("nvfp4"), settings, change, message)
