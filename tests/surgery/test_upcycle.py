"""Upcycling: a copy is the same function, and noise and drop change as much as was asked."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from coterie.checkpoints.directory import save_model
from coterie.config import ConfigError
from coterie.families import FAMILIES, config_from_hf, dense_forms, family, routed_form
from coterie.nn.transformer import Transformer
from coterie.surgery.arguments import check_upcycle
from coterie.surgery.densify import densify
from coterie.surgery.upcycle import upcycle
from tests.adapters.test_attach import IDS, built, logits
from tests.arithmetic import assert_model_close
from tests.families.hf import _BASE, CONFIGS, randomise
from tests.surgery.common import moe

_LONGROPE = copy.deepcopy(CONFIGS["phi3_longrope"]["rope_parameters"]) | {
    "partial_rotary_factor": 1.0,
    "short_factor": [1.0, 1.2, 1.5, 1.7],
    "long_factor": [1.5, 2.0, 3.0, 8.0],
}
ALL = CONFIGS | {
    "nemotron_h_plain": CONFIGS["nemotron_h"] | {"mlp_bias": False},
    "phi3_longrope_whole": CONFIGS["phi3_longrope"] | {"rope_parameters": _LONGROPE},
}
DENSE = [name for name in ALL if not config_from_hf(_BASE | ALL[name]).is_moe]
# Dense models that the routed counterpart of their family cannot carry, and why.
BEYOND = {
    "llama_tied_bias": "has biases",
    "granite_tied_bias": "has biases",
    "ernie4_5": "has biases",
    "seed_oss_output_bias": "has biases",
    "nemotron_h": "has biases",
    "phi3_longrope": "no mixtral checkpoint can carry this phi3 model",
}
ROUTED = [name for name in DENSE if routed_form(ALL[name]["model_type"]) and name not in BEYOND]


def dense_model(name: str) -> Transformer:
    model = Transformer(config_from_hf(copy.deepcopy(_BASE | ALL[name])))
    randomise(model)
    return model.eval()


def test_every_dense_family_has_a_routed_form_or_says_why_not() -> None:
    tested = {ALL[name]["model_type"] for name in ROUTED}
    for name in DENSE:
        config = config_from_hf(_BASE | ALL[name])
        assert (routed_form(config.family) is None) == bool(family(config.family).unrouted), name
        if name in ROUTED:
            assert check_upcycle(config, 4, 2).is_moe
            continue
        with pytest.raises(ConfigError, match=BEYOND.get(name, "no routed form of")) as caught:
            check_upcycle(config, 4, 2)
        assert str(caught.value).startswith("upcycle: ") and "\n" not in str(caught.value)
    for routed, chosen in FAMILIES.items():
        assert chosen.texts or set(dense_forms(routed)) <= tested, routed


@pytest.mark.parametrize(("name", "split"), [*((name, 1) for name in ROUTED), ("qwen3", 4), ("qwen2", 2)])
def test_upcycling_by_copy_is_the_dense_model(name: str, split: int, tmp_path: Path) -> None:
    dense = dense_model(name)
    routed = upcycle(dense, num_experts=8, top_k=4, split=split)
    assert routed.config.is_moe and routed.config.family == routed_form(dense.config.family)
    mixtures = dict(routed.config.moe_layers())
    widths = {layer: block.ffn.width // split for layer, block in enumerate(dense.config.blocks) if block.ffn}
    assert {layer: one.expert_width for layer, one in mixtures.items()} == widths
    expected = logits(dense).log_softmax(-1)
    assert_model_close(dense.config, logits(routed).log_softmax(-1), expected, len(IDS))
    rows = moe(routed, min(mixtures)).router.weight
    assert torch.equal(rows[0], rows[split - 1]) and not torch.equal(rows[0], rows[split % 8])
    if split > 1:
        return
    assert_model_close(dense.config, in_transformers(routed, tmp_path).log_softmax(-1), expected, len(IDS))


def in_transformers(model: Transformer, path: Path) -> torch.Tensor:
    save_model(path, model)
    theirs = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    assert theirs.config.model_type == model.config.family
    with torch.no_grad():
        return theirs.eval()(IDS[None]).logits[0]


def test_layers_of_one_part_become_experts_without_gates_and_come_back() -> None:
    dense = dense_model("nemotron_h_plain")
    routed = upcycle(dense, num_experts=4, top_k=2, split=2)
    experts = routed.blocks[1].ffn.experts
    assert experts.up.weight.shape == (4, 20, 32) and not hasattr(experts, "gate_up")
    back = densify(routed, [])
    assert back.config.blocks == dense.config.blocks
    assert all(torch.equal(p, back.state_dict()[name]) for name, p in dense.state_dict().items())
    dropped = upcycle(dense, num_experts=4, variation="drop", amount=0.5)
    assert float((logits(dropped) - logits(dense)).abs().max()) > 0.1


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
