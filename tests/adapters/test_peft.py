"""Adapters exchanged with peft on transformers 5, both ways, for every family: equal logits."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from coterie.adapters.apply import apply_in_place
from coterie.adapters.attach import adapter_state, attach
from coterie.adapters.files import read_adapter, save_adapter
from coterie.checkpoints.directory import load_model
from coterie.nn.forward_context import ForwardContext
from coterie.nn.transformer import Transformer
from tests.adapters.test_attach import IDS, MERGED, config, randomise_factors
from tests.arithmetic import assert_model_close
from tests.families.hf import tiny

FAMILIES = [
    "llama_tied_bias",
    "qwen3",
    "qwen3_moe",
    "mixtral",
    "olmoe",
    "deepseek_v3",
    "deepseek_v2_lite",
    "gpt_oss",
    "llama4_scout",
    "llama4_maverick",
    "ernie4_5_moe",
    "hy_v3",
    "granitemoeshared",
    "phi3",
    "glm4",
    "qwen3_5_text",
    "qwen3_next",
    "qwen2_moe",
    "minimax_m2",
    "hunyuan_v1_moe",
    "olmo3",
    "gemma4_text_moe",
    "nemotron_h_moe",
]
ROUTERS = {
    "granitemoeshared": "block_sparse_moe.router",
    "gemma4_text_moe": "router.proj",
    "gpt_oss": "mlp.router",
    "nemotron_h_moe": "mixer.gate",
    "llama4_scout": "feed_forward.router",
    "llama4_maverick": "feed_forward.router",
}


def logits(model: Transformer) -> torch.Tensor:
    with torch.no_grad():
        return model.eval().logits(model(IDS, ForwardContext.packed([len(IDS)])))


def their_logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS[None]).logits[0]


def theirs(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
    )


def saved_base(name: str, path: Path) -> Path:
    tiny(name).save_pretrained(path / "base")
    return path / "base"


def close(model: Transformer, reference: torch.Tensor, before: torch.Tensor) -> None:
    assert float((reference - before).abs().max()) > 0.1, "the adapter does nothing"
    assert_model_close(model.config, logits(model), reference, len(IDS), passes=MERGED)


def loaded_by_peft(base: Path, adapter: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # peft warns of missing and unexpected keys
        return PeftModel.from_pretrained(theirs(base), str(adapter))


TRAINED: list[dict[str, Any]] = [{"router": "lora", "head": "lora"}, {"norm": "full", "embedding": "full"}]
# One family of each form of what PEFT adapts: experts apart, fused and with biases, joined matrices, latents,
# a router of another name or with parameters of its own, layers with a state. The others differ in names,
# which test_peft_names.py checks for every family and `test_we_load_pefts` in the other direction.
FORMS = {
    "qwen3_moe",
    "mixtral",
    "deepseek_v3",
    "gpt_oss",
    "llama4_scout",
    "granitemoeshared",
    "phi3",
    "qwen3_next",
}
FORMS |= {"gemma4_text_moe", "minimax_m2"}
OURS = [
    pytest.param(name, train, marks=[] if name in forms else [pytest.mark.slow])
    for train, forms in zip(TRAINED, (FORMS, {"llama_tied_bias", "olmo3", "gemma4_text_moe"}), strict=True)
    for name in FAMILIES
    if name != "nemotron_h_moe"
]


@pytest.mark.parametrize(("name", "train"), OURS, ids=str)
def test_peft_loads_ours(name: str, train: dict[str, Any], tmp_path: Path) -> None:
    base = saved_base(name, tmp_path)
    model = load_model(base).model
    before = logits(model)
    attach(model, config(train=train, rank=4, rank_rule="active"))
    randomise_factors(model)
    save_adapter(tmp_path / "adapter", model, base)
    ours = logits(model)
    close(model, their_logits(loaded_by_peft(base, tmp_path / "adapter")), before)
    again = load_model(base).model
    apply_in_place(again, tmp_path / "adapter", base)
    assert torch.equal(logits(again), ours)
    assert adapter_state(again).keys() == adapter_state(model).keys()


def test_factors_that_peft_refuses_are_said_and_the_others_load(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = saved_base("nemotron_h_moe", tmp_path)
    for attention in ("lora", "freeze"):
        model = load_model(base).model
        before = logits(model)
        attach(model, config(train={"attention": attention, "router": "lora"}, rank=4, rank_rule="active"))
        randomise_factors(model)
        save_adapter(tmp_path / attention, model, base)
        ours, again = logits(model), load_model(base).model
        apply_in_place(again, tmp_path / attention, base)
        assert torch.equal(logits(again), ours)
    assert "PEFT has no form for factors on out_proj of a nemotron_h model" in caplog.text
    with pytest.raises(KeyError, match="COTERIE"):
        loaded_by_peft(base, tmp_path / "lora")
    close(model, their_logits(loaded_by_peft(base, tmp_path / "freeze")), before)


def test_peft_loads_a_router_with_parameters_next_to_its_matrix(tmp_path: Path) -> None:
    base = saved_base("gemma4_text_moe", tmp_path)
    model = load_model(base).model
    before = logits(model)
    attach(model, config(train={"router": "full"}, rank=4, rank_rule="active"))
    randomise_factors(model)
    with torch.no_grad():
        for _, router in model.routers():
            assert router.input_scale is not None and router.expert_scale is not None
            router.input_scale.mul_(1.3)
            router.expert_scale.mul_(0.7)
    save_adapter(tmp_path / "adapter", model, base)
    close(model, their_logits(loaded_by_peft(base, tmp_path / "adapter")), before)
    again = load_model(base).model
    apply_in_place(again, tmp_path / "adapter", base)
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("name", FAMILIES)
def test_we_load_pefts(name: str, tmp_path: Path) -> None:
    base = saved_base(name, tmp_path)
    model = theirs(base)
    before = their_logits(model)
    parameters = [n for n, _ in model.named_parameters()]
    experts = sorted(
        {n.split("layers.")[1].partition(".")[2] for n in parameters if ".experts." in n and "bias" not in n}
    )
    router = [f"{ROUTERS.get(name, 'mlp.gate')}.weight"] if experts else []
    attention = sorted(
        {
            n.split(".")[-2]
            for n in parameters
            if n.endswith("_proj.weight") and ("self_attn" in n or n.split(".")[-2] in ("q_proj", "in_proj"))
        }
    )
    settings = LoraConfig(
        r=3,
        lora_alpha=5,
        target_modules=attention,
        target_parameters=experts + router,
        rank_pattern={"q_proj": 2, "experts.down_proj": 4},
        alpha_pattern={"experts.gate_up_proj": 9},
        use_rslora=name == "mixtral",
        modules_to_save=[
            n.removesuffix(".weight") for n in parameters if re.fullmatch(r"model\.norm\w*\.weight", n)
        ],
    )
    torch.manual_seed(0)  # PEFT's own draws: others may put two experts so near that rounding swaps them
    adapted = get_peft_model(model, settings)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.15)
    adapted.save_pretrained(tmp_path / "adapter")
    ours = load_model(base).model
    apply_in_place(ours, tmp_path / "adapter", base)
    close(ours, their_logits(adapted), before)
    assert read_adapter(tmp_path / "adapter").stamp == {}


@pytest.mark.parametrize(
    "name", ["qwen3", "qwen3_moe", "deepseek_v3", "mixtral", "gpt_oss", "llama4_maverick"]
)
def test_weights_trained_in_full_travel_as_modules_to_save(name: str, tmp_path: Path) -> None:
    base = saved_base(name, tmp_path)
    model = load_model(base).model
    before = logits(model)
    train = dict.fromkeys(("experts", "shared", "dense", "router", "norm"), "full") | {"head": "lora"}
    attach(model, config(train=train | {"attention": "lora" if name == "gpt_oss" else "full"}))
    randomise_factors(model, size=0.05)
    save_adapter(tmp_path / "adapter", model, base)
    close(model, their_logits(loaded_by_peft(base, tmp_path / "adapter")), before)
    again = load_model(base).model
    apply_in_place(again, tmp_path / "adapter", base)
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("qwen3_moe", {"dora": True}, "DoRA on experts, DoRA on gate, DoRA on up"),
        ("gpt_oss", {"train": {"attention": "full"}}, "sinks trained in full"),
        ("qwen3", {"train": dict.fromkeys(("attention", "dense"), "full")}, "an adapter without factors"),
    ],
)
def test_what_peft_cannot_express_it_refuses_and_we_say_so(
    name: str, changes: dict[str, Any], reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = saved_base(name, tmp_path)
    model = load_model(base).model
    attach(model, config(**changes))
    randomise_factors(model)
    save_adapter(tmp_path / "adapter", model, base)
    assert "PEFT has no form for" in caplog.text and reason.split(",")[0] in caplog.text
    with pytest.raises((ValueError, KeyError, TypeError)):
        PeftModel.from_pretrained(theirs(base), str(tmp_path / "adapter"))
    again = load_model(base).model
    apply_in_place(again, tmp_path / "adapter", base)
    assert torch.equal(logits(again), logits(model))


def test_dora_on_linear_layers_is_pefts(tmp_path: Path) -> None:
    base = saved_base("qwen3", tmp_path)
    model = load_model(base).model
    before = logits(model)
    attach(model, config(dora=True))
    randomise_factors(model)
    save_adapter(tmp_path / "adapter", model, base)
    close(model, their_logits(loaded_by_peft(base, tmp_path / "adapter")), before)
