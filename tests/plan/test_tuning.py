"""The tuning plan against built models.

Parameters agree exactly, kept activations closely; memory changes in the right direction.
"""

from __future__ import annotations

import math

import pytest
import torch

from coterie.adapters.attach import attach
from coterie.adapters.patch import attach_subset
from coterie.config import AdapterConfig, ConfigError, ExpertSelection
from coterie.families import config_from_hf
from coterie.nn.forward_context import ForwardContext
from coterie.nn.transformer import Transformer
from coterie.plan.counts import count_parameters
from coterie.plan.matrices import matrices
from coterie.plan.tuning import TuneSettings, activation_values, fitting, plan_tune, trained_parameters
from tests.families.hf import _BASE, CONFIGS

FAMILIES = sorted(name for name in CONFIGS if not name.endswith(("yarn", "mscale")))
SHAPE = {
    "vocab_size": 512,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
}
MOE = SHAPE | {
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
}


@pytest.mark.parametrize("name", FAMILIES)
def test_matrices_are_those_of_the_built_model(name: str) -> None:
    config = config_from_hf(_BASE | CONFIGS[name])
    model = Transformer(config)
    built = sum(
        p.numel()
        for n, p in model.named_parameters()
        if p.dim() >= 2 and not n.endswith((".bias", ".conv", "mtp"))
    )
    mtp = sum(p.numel() for p in model.mtp.parameters() if p.dim() >= 2)
    assert sum(matrix.size for matrix in matrices(config)) == built - mtp


@pytest.mark.parametrize(
    "name", ["qwen3_moe", "deepseek_v3", "llama4_maverick", "gpt_oss", "llama_tied_bias"]
)
@pytest.mark.parametrize("dora", [False, True])
def test_factors_are_counted_as_attached(name: str, dora: bool) -> None:
    config = config_from_hf(_BASE | CONFIGS[name])
    model = Transformer(config)
    attach(model, AdapterConfig(rank=3, dora=dora))
    built = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained_parameters(config, TuneSettings(method="dora" if dora else "lora", rank=3)) == built


def test_chosen_experts_and_routers_are_counted_as_attached() -> None:
    config = config_from_hf(MOE)
    model = Transformer(config)
    attach_subset(model, ExpertSelection(experts={0: (1, 2), 1: (3, 4)}))
    built = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained_parameters(config, TuneSettings(method="esft", experts=0.25)) == built
    assert trained_parameters(config, TuneSettings(method="esft", experts={0: 2, 1: 2})) == built
    assert trained_parameters(config, TuneSettings(method="router")) == 2 * 8 * 64
    assert trained_parameters(config, TuneSettings(method="full")) == count_parameters(config).total


def kept(model: Transformer, rows: int, length: int) -> float:
    """Numbers that autograd really keeps per token, parameters aside."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen: dict[int, tuple[int, torch.Tensor]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    ids = torch.randint(0, 512, (rows * length,), generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(ids, ForwardContext.packed([length] * rows, balance_tokens=float(len(ids))))
    return sum(nbytes for nbytes, _ in seen.values()) / 4 / len(ids)


DENSE = SHAPE | {"model_type": "qwen3", "intermediate_size": 160}
LLAMA = DENSE | {"model_type": "llama"}


@pytest.mark.parametrize(
    ("shape", "method"),
    [
        (MOE, "full"),
        (MOE, "lora"),
        (DENSE, "full"),
        (DENSE, "lora"),
        (LLAMA, "full"),
    ],
)
def test_kept_activations_are_counted(shape: dict, method: str) -> None:
    config = config_from_hf(shape)
    model = Transformer(config)
    model.initialise(0)
    if method == "lora":
        attach(model, AdapterConfig(rank=4))
    settings = TuneSettings(method=method, rank=4, row_length=256, batch_rows=4)
    assert activation_values(config, settings) == pytest.approx(kept(model, 4, 256), rel=0.09)


def test_memory_follows_the_settings() -> None:
    config = config_from_hf(MOE | {"hidden_size": 1024, "moe_intermediate_size": 768, "num_hidden_layers": 8})
    full, lora, qlora, esft = (
        plan_tune(config, TuneSettings(method=m)) for m in ("full", "lora", "qlora", "esft")
    )
    total = count_parameters(config).total
    assert full.parts["optimiser"] == 8 * total and full.parts["weights"] == 4 * total
    assert (
        qlora.phases["step"] < lora.phases["step"] < full.phases["step"]
        and esft.phases["step"] < full.phases["step"]
    )
    assert qlora.settings.quant == "int4" and qlora.parts["weights"] < 0.3 * lora.parts["weights"]
    assert (
        plan_tune(config, TuneSettings(batch_rows=8)).parts["activations"] > 1.8 * lora.parts["activations"]
    )
    assert full.flops_per_token == pytest.approx(1.5 * lora.flops_per_token)
    assert lora.peak == max(lora.phases[name] for name in ("load", "step", "save"))


def test_fitting_changes_what_costs_least_first() -> None:
    config = config_from_hf(MOE | {"hidden_size": 1024, "moe_intermediate_size": 768, "num_hidden_layers": 8})
    asked = plan_tune(config, TuneSettings(method="full")).peak
    assert [words for words, _ in fitting(config, TuneSettings(method="full"), asked)] == ["as asked"]
    steps = fitting(config, TuneSettings(method="full"), int(asked * 0.25))
    words = [what for what, _ in steps]
    assert (
        words[:3] == ["as asked", "batch_rows=2 accumulate=2", "batch_rows=1 accumulate=4"]
        and "dtype=bfloat16" in words
    )
    assert steps[-1][1].peak <= asked * 0.25 < steps[-2][1].peak
    hopeless = fitting(config, TuneSettings(method="full"), 1000)
    assert hopeless[-1][1].peak > 1000 and math.isfinite(hopeless[-1][1].flops_per_token)


def test_refusals() -> None:
    dense = config_from_hf(DENSE)
    with pytest.raises(ConfigError, match="this model is dense"):
        plan_tune(dense, TuneSettings(method="esft"))
    with pytest.raises(ConfigError, match="unknown method"):
        plan_tune(dense, TuneSettings(method="sft"))  # type: ignore[arg-type]
