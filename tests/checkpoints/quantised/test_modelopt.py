"""ModelOpt: the same numbers as others, with a second scale that multiplies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.checkpoints.quantised.packers import Pack, directory, fp4, fp8, mxfp8
from tests.checkpoints.quantised.reading import assert_reads
from tests.checkpoints.quantised.refused import assert_refused

NVFP4 = fp4("nvfp4", ".weight", ".weight_scale_2")


def config(algorithm: str, **more: Any) -> dict[str, Any]:
    return {"quant_method": "modelopt", "quant_algo": algorithm} | more


@pytest.mark.parametrize(
    ("pack", "settings"),
    [
        (NVFP4, config("NVFP4", group_size=16, ignore=["lm_head"])),
        (fp8(ending=".weight_scale", flat=True), config("FP8", kv_cache_quant_algo="FP8")),
        (fp8(1, None, ".weight_scale"), config("FP8_PER_CHANNEL_PER_TOKEN")),
        (mxfp8(), config("MXFP8")),
        (fp4("mxfp4", ".weight"), config("W4A8_MXFP4_FP8")),
        (NVFP4, config("MIXED_PRECISION", quantized_layers={"a": {"quant_algo": "NVFP4"}})),
    ],
)
def test_every_algorithm(pack: Pack, settings: dict[str, Any], tmp_path: Path) -> None:
    assert_reads(tmp_path, directory(tmp_path, pack, settings))


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        (config("W4A16_AWQ"), {}, "quant_algo 'w4a16_awq' is not read here"),
        (config("NVFP4_SVD"), {}, "quant_algo 'nvfp4_svd' is not read here"),
        (
            config("MIXED_PRECISION", quantized_layers={"a": {"quant_algo": "W4A8_AWQ"}}),
            {},
            "quant_algo 'w4a8_awq' is not read here",
        ),
        (config("NVFP4"), {"x.pre_quant_scale": torch.ones(64)}, "scales the layer's input"),
        (config("NVFP4"), {"x.weight_scale": None}, "'x.weight_scale' is missing"),
        (config("NVFP4"), {"x.weight_scale_2": None}, "'x.weight_scale_2' is missing"),
        (config("NVFP4"), {"x.weight_scale_2": torch.ones(2)}, r"'x.weight_scale_2' has shape \(2,\)"),
    ],
)
def test_what_does_not_fit_is_one_line(
    settings: dict[str, Any], change: dict[str, Tensor | None], message: str, tmp_path: Path
) -> None:
    assert_refused(tmp_path, NVFP4, settings, change, message)


@pytest.mark.parametrize(
    ("pack", "algorithm"), [(NVFP4, "NVFP4"), (fp8(ending=".weight_scale", flat=True), "FP8")]
)
def test_layers_of_one_part_with_matrices_that_share_a_tensor(
    pack: Pack, algorithm: str, tmp_path: Path
) -> None:
    sizes = {"hidden_size": 64, "head_dim": 16, "mamba_head_dim": 8, "intermediate_size": 64}
    experts = {
        "moe_shared_expert_intermediate_size": 64,
        "n_routed_experts": 2,
        "n_group": 1,
        "topk_group": 1,
    }
    layers = {"hybrid_override_pattern": "ME*-", "num_hidden_layers": 4}
    meant = directory(tmp_path, pack, config(algorithm), "nemotron_h_moe", **sizes, **experts, **layers)
    assert {"backbone.layers.0.mixer.in_proj.weight", "lm_head.weight"} <= meant.keys()
    assert_reads(tmp_path, meant)
