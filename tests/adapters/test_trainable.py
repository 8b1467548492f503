"""Exactly what was asked for is trained, in every architecture, and whatever moves is in the result."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import coterie
from coterie.adapters.trainable import prepare_model
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.config import ConfigError
from coterie.config.tune import TuneConfig
from coterie.nn.experts import ExpertLinear
from coterie.nn.linear import Linear
from coterie.nn.moe import MoE
from coterie.nn.router import Router
from tests.arithmetic import model_tolerance
from tests.recipes.tuned import base, conversations, report_of, tuned

FAMILIES = ["llama", "qwen3", "qwen3_moe", "mixtral", "olmoe", "llama4_maverick", "deepseek_v3", "gpt_oss"]
FROZEN = dict.fromkeys(["attention", "experts", "shared", "dense"], "freeze")
INTENTS: dict[str, dict[str, Any]] = {
    "default": {},
    "experts": {"train": FROZEN | {"dense": "lora", "experts": "lora"}},  # the feed-forwards, where they are
    "attention in full, head": {"train": FROZEN | {"attention": "full", "head": "lora"}},
    "norms, embedding, router": {"train": FROZEN | {"norm": "full", "embedding": "full", "router": "lora"}},
    "full": {"method": "full"},
}
# Groups by name alone, apart from the module that says them in the code.
NAMES = {
    "attention": r"blocks\.\d+\.attention\..*",
    "experts": r"blocks\.\d+\.ffn\.experts\..*",
    "shared": r"blocks\.\d+\.ffn\.shared\..*",
    "router": r"blocks\.\d+\.ffn\.router\..*",
    "dense": r"blocks\.\d+\.ffn\.(gate|up|down)\..*",
    "norm": r"(blocks\.\d+\.\w*norm|norm)\.weight",
    "embedding": r"embed\..*",
    "head": r"head\..*",
}
DEFAULT = FROZEN | dict.fromkeys(["attention", "experts", "shared", "dense"], "lora")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tune")
    conversations(folder / "data.jsonl")
    return folder


def group_of(name: str) -> str:
    return next(group for group, pattern in NAMES.items() if re.fullmatch(pattern, name))


def expected(plain: torch.nn.Module, intent: dict[str, Any]) -> set[str]:
    names = dict(plain.named_parameters())
    if intent.get("method") == "full":
        return set(names)
    wanted: set[str] = set()
    treatments = DEFAULT | intent.get("train", {})
    for name in names:
        how = treatments.get(group_of(name), "freeze")
        layer, _, kind = name.rpartition(".")
        matrix = kind == "weight" and isinstance(plain.get_submodule(layer), Linear | ExpertLinear | Router)
        if how == "full":
            wanted.add(name)
        elif how == "lora" and matrix:
            wanted |= {f"{layer}.lora_A", f"{layer}.lora_B"}
    return wanted


@pytest.mark.parametrize("family", FAMILIES)
def test_trained_tensors_are_exactly_the_intent(family: str, folder: Path) -> None:
    path = base(folder, family)
    plain = coterie.load(path).model
    for intent in INTENTS.values():
        config = TuneConfig.from_dict({"model": str(path), "data": "x"} | intent)
        wanted = expected(plain, intent)
        present = {group_of(name) for name, _ in plain.named_parameters()}
        absent = {group for group, how in intent.get("train", {}).items() if how != "freeze"} - present
        if absent:
            with pytest.raises(ConfigError, match=f"has no '({'|'.join(absent)})'"):
                prepare_model(config, torch.float32, torch.device("cpu"))
            allowed = {g: how for g, how in intent["train"].items() if g not in absent}
            config = TuneConfig.from_dict({"model": str(path), "data": "x", "train": allowed})
        made = prepare_model(config, torch.float32, torch.device("cpu"))
        found = {name for name, parameter in made.model.named_parameters() if parameter.requires_grad}
        assert found == wanted
        assert made.asked == {group_of(name) for name in wanted}


POLICIES: list[Any] = [
    ("deepseek_v3", {"router": "bias"}),
    pytest.param("deepseek_v3", {"router": "bias", "train": FROZEN}, marks=pytest.mark.slow),
    pytest.param("deepseek_v3", {"router": "lora"}, marks=pytest.mark.slow),
    pytest.param("deepseek_v3", {"router": "full", "method": "dora"}, marks=pytest.mark.slow),
    ("deepseek_v3", {"method": "router"}),
    pytest.param("deepseek_v3", {"method": "full", "router": "bias"}, marks=pytest.mark.slow),
    ("gpt_oss", {"router": "bias", "method": "qlora"}),
    ("qwen3_moe", {"router": "dense-grad", "balance": 0.1, "balance_prompts": False}),
    ("mixtral", {"balance": "none", "router": "full", "dropout": 0.1}),
]


@pytest.mark.parametrize(("family", "how"), POLICIES, ids=lambda value: str(value)[:60])
def test_whatever_a_router_policy_moves_is_in_the_result(
    family: str, how: dict[str, Any], folder: Path
) -> None:
    out = folder / f"out-{abs(hash(str((family, how))))}"
    result = tuned(base(folder, family), folder / "data.jsonl", out, lr=0.02, **how)
    config = Checkpoint.open(base(folder, family)).config
    size = math.log(config.vocab_size)
    proof = report_of(result).proof
    assert result.path is not None and proof is not None
    assert proof.reloaded_max <= model_tolerance(config, size, config.max_positions)
    assert proof.moved_mean > 1e-3
    start = coterie.load(base(folder, family)).model
    if result.kind == "model":
        end = coterie.load(result.path).model
    else:
        end = coterie.load(base(folder, family), "float32", "cpu", adapter=result.path).model
    moves = "full" in (how.get("router"), how.get("method")) or how.get("router") in ("bias", "dense-grad")
    moves = moves or how.get("method") == "router"
    for (_, before), (_, after) in zip(start.routers(), end.routers(), strict=True):
        if before.select_bias is not None:
            assert torch.equal(before.select_bias, after.select_bias) != moves
        weight = how.get("router") in ("full", "dense-grad") or how.get("method") == "router"
        assert torch.equal(before.weight, after.weight) != weight
        if before.bias is not None and how.get("router") == "bias":
            assert not torch.equal(before.bias, after.bias)


def test_weights_trained_in_full_in_16_bits_get_a_warning(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    coterie.save(coterie.load(base(folder, "qwen3_moe")), folder / "half", dtype="bfloat16")
    for train, warned in (({"norm": "full"}, True), ({}, False)):
        caplog.clear()
        config = TuneConfig.from_dict({"model": str(folder / "half"), "data": "x", "train": train})
        prepare_model(config, torch.float32, torch.device("cpu"))
        assert ("norm is trained in full in 16 bits" in caplog.text) == warned


def test_dense_gradients_are_switched_on_or_refused(folder: Path) -> None:
    config = TuneConfig.from_dict({"model": str(base(folder, "olmoe")), "data": "x", "router": "dense-grad"})
    model = prepare_model(config, torch.float32, torch.device("cpu")).model
    layers = [block.ffn for block in model.blocks if isinstance(block.ffn, MoE)]
    assert layers and all(layer.dense_gradient for layer in layers)
    for family, router, message in (
        ("llama4_maverick", "dense-grad", "has no output to learn from"),
        ("qwen3_moe", "bias", "has no bias"),
        ("qwen3", "full", "dense"),
    ):
        config = TuneConfig.from_dict({"model": str(base(folder, family)), "data": "x", "router": router})
        with pytest.raises(ConfigError, match=message):
            prepare_model(config, torch.float32, torch.device("cpu"))
