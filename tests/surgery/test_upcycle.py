"""Upcycling: a copy is the same function, and noise and drop change as much as was asked."""

from __future__ import annotations

import pytest
import torch

from coterie.config import ConfigError
from coterie.families import config_from_hf
from coterie.surgery.arguments import check_upcycle
from coterie.surgery.upcycle import upcycle
from tests.adapters.test_attach import IDS, built, logits
from tests.arithmetic import assert_model_close
from tests.families.hf import _BASE, CONFIGS
from tests.surgery.common import moe

ROUTED = {
    "qwen3": "qwen3_moe",
    "llama": "mixtral",
    "mistral": "mixtral",
    "ernie4_5_tied": "ernie4_5_moe",
    "qwen2": "qwen2_moe",
    "granite": "granitemoe",
    "olmo2": "flex_olmo",
    "hunyuan_v1_dense": "hunyuan_v1_moe",
}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("qwen3", 1),
        ("qwen3", 2),
        ("qwen3", 4),
        ("llama", 1),
        ("llama", 2),
        ("mistral", 1),
        ("ernie4_5_tied", 1),
        ("qwen2", 1),
        ("qwen2", 2),
        ("granite", 2),
        ("olmo2", 2),
        ("hunyuan_v1_dense", 1),
    ],
)
def test_upcycling_by_copy_is_the_dense_model(name: str, split: int) -> None:
    dense = built(name)
    routed = upcycle(dense, num_experts=8, top_k=4, split=split)
    assert routed.config.is_moe and routed.config.family == ROUTED[name]
    assert moe(routed).config.expert_width == 48 // split
    found, expected = (logits(model).log_softmax(-1) for model in (routed, dense))
    assert_model_close(dense.config, found, expected, len(IDS))
    rows = moe(routed).router.weight
    assert torch.equal(rows[0], rows[split - 1]) and not torch.equal(rows[0], rows[split % 8])


def test_noise_and_drop_make_experts_differ_by_what_was_asked() -> None:
    dense = built("qwen3")
    noisy, dropped = (
        upcycle(dense, variation="noise", amount=0.01),
        upcycle(dense, variation="drop", amount=0.25),
    )
    original = dense.blocks[0].ffn.down.weight
    assert not torch.equal(moe(noisy).experts.down.weight[0], moe(noisy).experts.down.weight[1])
    spread = float((moe(noisy).experts.down.weight[0] - original).detach().std())
    assert spread == pytest.approx(0.01 * float(original.detach().std()), rel=0.1)
    kept = [(moe(dropped).experts.down.weight[e] == original).all(0) for e in range(8)]
    assert all(int(units.sum()) == 36 for units in kept) and not torch.equal(kept[0], kept[1])
    for part in (slice(0, 48), slice(48, 96)):  # the same units in gate, up and down
        gate = moe(dropped).experts.gate_up.weight[0, part]
        same = (gate == (dense.blocks[0].ffn.gate if part.start == 0 else dense.blocks[0].ffn.up).weight).all(
            1
        )
        assert torch.equal(same, kept[0])
    assert 0 < (logits(noisy) - logits(dense)).abs().max() < (logits(dropped) - logits(dense)).abs().max()


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="mixture of experts already"):
        upcycle(built("mixtral"))
    with pytest.raises(ConfigError, match="must be multiples of split"):
        upcycle(built("qwen3"), num_experts=8, top_k=2, split=4)
    with pytest.raises(ConfigError, match="has biases"):
        upcycle(built("llama_tied_bias"))
    text = _BASE | CONFIGS["mistral"]
    around = config_from_hf({"model_type": "mistral3", "text_config": text, "vision_config": {}})
    with pytest.raises(ConfigError, match=r"--to mistral --drop vision"):
        check_upcycle(around)
