"""Adapters in a model: exactly the stated parameters are trainable, and the outputs follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from coterie.adapters.attach import (
    adapted_layers,
    adapter_state,
    attach,
    merge_adapter,
    put_adapter,
    take_adapter,
)
from coterie.checkpoints.directory import save_model
from coterie.config import AdapterConfig, CheckpointError, ConfigError, ExpertSelection
from coterie.families import config_from_hf
from coterie.nn.forward_context import ForwardContext
from coterie.nn.lora import LoRAExpertLinear, LoRALinear, LoRARouter
from coterie.nn.transformer import Transformer
from tests.arithmetic import assert_model_close
from tests.families.hf import _BASE, CONFIGS, VOCAB, randomise

IDS = torch.randint(0, VOCAB, (24,), generator=torch.Generator().manual_seed(5))
MERGED = 2  # the factors' products follow each other, and merging rounds what was not rounded before
ALL = ["attention", "experts", "shared", "dense", "router", "norm", "embedding", "head"]


def built(name: str, seed: int = 0) -> Transformer:
    model = Transformer(config_from_hf(_BASE | CONFIGS[name]))
    randomise(model, seed)
    return model.eval()


def logits(model: Transformer) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model(IDS, ForwardContext.packed([len(IDS)])))


def randomise_factors(model: Transformer, seed: int = 1, size: float = 0.15) -> None:
    """Every factor and every weight trained in full away from its start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in adapter_state(model).values():
            tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=size)


def config(**changes: Any) -> AdapterConfig:
    return AdapterConfig.from_dict({"rank": 4, "alpha": 6} | changes)


def trainable(model: Transformer) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    "name", ["qwen3", "llama_tied_bias", "qwen3_moe", "mixtral", "deepseek_v3", "gpt_oss"]
)
@pytest.mark.parametrize("dora", [False, True])
def test_attached_is_the_base_bit_for_bit_then_differs_then_merges(name: str, dora: bool) -> None:
    model = built(name)
    before, names = logits(model), [n for n, _ in model.named_parameters()]
    train = dict.fromkeys(ALL, "lora") | {"norm": "full", "embedding": "full"}
    attach(model, config(dora=dora, train=train))
    assert torch.equal(logits(model), before)
    randomise_factors(model, size=0.05)
    adapted = logits(model)
    assert float((adapted - before).abs().max()) > 0.05
    merge_adapter(model)
    assert [n for n, _ in model.named_parameters()] == names and not trainable(model)
    assert_model_close(model.config, logits(model), adapted, len(IDS), passes=MERGED)
    attach(model, config())  # plain again


INTENTS: dict[str, dict[str, str]] = {
    "default": {},
    "experts alone": dict.fromkeys(ALL, "freeze") | {"experts": "lora"},
    "attention full, router lora": dict.fromkeys(ALL, "freeze") | {"attention": "full", "router": "lora"},
    "norms and embedding": dict.fromkeys(ALL, "freeze") | {"norm": "full", "embedding": "full"},
    "everything": dict.fromkeys(ALL, "full"),
}


@pytest.mark.parametrize("intent", INTENTS)
def test_trainable_parameters_are_the_intent(intent: str) -> None:
    model = built("deepseek_v3")
    attach(model, AdapterConfig.from_dict({"rank": 2, "train": INTENTS[intent]}))
    plain = {name for name, _ in built("deepseek_v3").named_parameters()}
    attention = ["q_a", "q_b", "kv_a", "kv_b", "o"]
    expected = {
        "default": {
            f"blocks.{i}.attention.{p}.{f}" for i in range(4) for p in attention for f in ("lora_A", "lora_B")
        }
        | {f"blocks.0.ffn.{p}.{f}" for p in ("gate", "up", "down") for f in ("lora_A", "lora_B")}
        | {
            f"blocks.{i}.ffn.{p}.{f}"
            for i in (1, 2, 3)
            for p in ("experts.gate_up", "experts.down", "shared.gate", "shared.up", "shared.down")
            for f in ("lora_A", "lora_B")
        },
        "experts alone": {
            f"blocks.{i}.ffn.experts.{p}.{f}"
            for i in (1, 2, 3)
            for p in ("gate_up", "down")
            for f in ("lora_A", "lora_B")
        },
        "attention full, router lora": {n for n in plain if ".attention." in n}
        | {f"blocks.{i}.ffn.router.{f}" for i in (1, 2, 3) for f in ("lora_A", "lora_B")},
        "norms and embedding": {"embed.weight", "norm.weight"}
        | {f"blocks.{i}.{n}_norm.weight" for i in range(4) for n in ("attention", "ffn")},
        "everything": plain,
    }
    assert trainable(model) == expected[intent]


def test_selected_experts_alone_have_factors_and_move() -> None:
    model = built("qwen3_moe")
    attach(
        model, config(train=INTENTS["experts alone"]), experts=ExpertSelection(experts={0: (5, 2), 3: (1,)})
    )
    shapes = {name: tuple(layer.lora_A.shape) for name, layer in adapted_layers(model)}
    assert shapes == {
        "blocks.0.ffn.experts.gate_up": (2, 4, 32),
        "blocks.0.ffn.experts.down": (2, 4, 24),
        "blocks.3.ffn.experts.gate_up": (1, 4, 32),
        "blocks.3.ffn.experts.down": (1, 4, 24),
    }
    randomise_factors(model)
    layer = dict(adapted_layers(model))["blocks.0.ffn.experts.gate_up"]
    assert isinstance(layer, LoRAExpertLinear)
    moved = (layer.effective_weight() != layer.weight).flatten(1).any(1)
    assert moved.tolist() == [e in (2, 5) for e in range(8)]


def test_rank_rules_and_the_kinds_of_layers() -> None:
    for rule, rank in (("per-expert", 12), ("active", 4), ("total", 1)):
        model = built("qwen3_moe")
        attach(model, config(rank=12, rank_rule=rule, train={"router": "lora", "head": "lora"}))
        layers = dict(adapted_layers(model))
        assert layers["blocks.0.ffn.experts.down"].rank == rank
        assert layers["blocks.0.attention.q"].rank == 12
        assert isinstance(layers["blocks.0.ffn.router"], LoRARouter) and isinstance(
            layers["head"], LoRALinear
        )


def test_taking_and_putting_back_gives_the_same_model() -> None:
    model = built("deepseek_v3")
    attach(
        model,
        config(dora=True, train={"router": "full", "norm": "full", "head": "lora"}),
        experts=ExpertSelection(experts={1: (0, 7)}),
    )
    randomise_factors(model)
    other = built("deepseek_v3")
    put_adapter(other, take_adapter(model), config())
    assert torch.equal(logits(other), logits(model)) and trainable(other) == trainable(model)


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown group 'expert' \(did you mean 'experts'\?\)"):
        AdapterConfig.from_dict({"train": {"expert": "lora"}})
    with pytest.raises(ConfigError, match="'norm' takes full or freeze"):
        AdapterConfig.from_dict({"train": {"norm": "lora"}})
    with pytest.raises(ConfigError, match="every group is frozen"):
        AdapterConfig.from_dict({"train": dict.fromkeys(ALL, "freeze")})
    dense = built("qwen3")
    with pytest.raises(ConfigError, match="experts=lora reaches no parameter of this qwen3 model"):
        attach(dense, config(train=INTENTS["experts alone"]))
    with pytest.raises(ConfigError, match="layer 1 of this qwen3_moe model has no experts"):
        attach(built("qwen3_moe"), config(), experts=ExpertSelection(experts={1: (0,)}))
    with pytest.raises(ConfigError, match="layer 0 has experts 0 to 7, not 8"):
        attach(built("qwen3_moe"), config(), experts=ExpertSelection(experts={0: (8,)}))
    model = built("qwen3")
    attach(model, config())
    with pytest.raises(ConfigError, match="has one already"):
        attach(model, config())
    with pytest.raises(CheckpointError, match="save the adapter, or merge it first"):
        save_model(tmp_path / "out", model)
    with pytest.raises(ConfigError, match=r"are for a weight \(64, 32\), the model has"):
        put_adapter(built("llama_tied_bias"), take_adapter(model), config())
