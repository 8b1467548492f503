"""What the families must refuse in one line, and what of them survives another dtype or another balance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.convert import convert_directory
from coterie.checkpoints.directory import load_model, save_model
from coterie.config import ConfigError, MLAConfig, ModelConfig
from coterie.families import config_from_hf, config_to_hf
from tests.families.hf import CONFIGS, config_of, tiny


def hf_config(name: str, **changes: Any) -> dict[str, Any]:
    return config_of(name).to_dict() | changes


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("deepseek_v3", {"scoring_func": "softmax"}, "'scoring_func' is 'softmax'"),
        ("deepseek_v3", {"topk_method": "greedy"}, "'topk_method' is 'greedy'"),
        ("deepseek_v3", {"attention_bias": True}, "'attention_bias' is True"),
        ("deepseek_v3", {"num_key_value_heads": 2}, "'num_key_value_heads' is 2"),
        ("deepseek_v3", {"moe_layer_freq": 2}, "'moe_layer_freq' is 2"),
        ("deepseek_v3", {"n_shared_experts": 0}, "'n_shared_experts' is 0"),
        ("deepseek_v3", {"topk_group": 5}, "top_groups 5 is larger"),
        ("deepseek_v2", {"norm_topk_prob": True}, "'norm_topk_prob' is True"),
        ("deepseek_v2", {"topk_method": "noaux_tc"}, "topk_method 'noaux_tc' is not known"),
        ("qwen2", {"use_sliding_window": True}, "'use_sliding_window' is True"),
        ("qwen2", {"dual_chunk_attention_config": {"chunk_size": 8}}, "'dual_chunk_attention_config' is set"),
        ("mistral", {"attention_bias": True}, "'attention_bias' is True"),
        ("mistral", {"layer_types": ["full_attention"] * 4}, "'layer_types' is .*; only None"),
        ("mistral_full", {"layer_types": ["sliding_attention"] * 4}, "names 'sliding_attention'"),
        ("smollm3", {"no_rope_layers": [1, 0]}, "'no_rope_layers' needs an entry for each of the 4 layers"),
        ("smollm3", {"use_sliding_window": True, "sliding_window": 4}, "'use_sliding_window' is True"),
        ("ernie4_5_moe", {"use_bias": True}, "'use_bias' is True"),
        ("ernie4_5_moe", {"moe_layer_interval": 0}, "cannot be used"),
        ("ernie4_5_moe", {"moe_k": 3, "num_experts_per_tok": 2}, "names of one setting"),
        ("glm4_moe_lite", {"mlp_layer_types": ["dense"]}, "'mlp_layer_types' needs 4 entries"),
        ("glm4_moe_lite", {"mlp_layer_types": ["dense", "moe"] * 2}, "'mlp_layer_types' needs 4 entries"),
        ("glm4_moe_lite", {"first_k_dense_replace": 3}, "'first_k_dense_replace' is 3"),
        (
            "dots1",
            {"layer_types": None, "max_window_layers": 2},
            "'max_window_layers' 2 on have a window",
        ),
        ("dots1", {"layer_types": ["sliding_attention"] * 4}, "'layer_types' names 'sliding_attention'"),
        ("hy_v3", {"num_shared_experts": 0}, "shared_width"),
        ("nemotron_h", {"layers_block_type": ["mamba", "conv"]}, "each layer's kind once.*'conv'"),
        ("nemotron_h", {"hybrid_override_pattern": "M-**"}, "each layer's kind once"),
        ("nemotron_h", {"layers_block_type": ["mamba", "mlp"]}, "no layer has attention"),
        ("nemotron_h", {"num_hidden_layers": 5}, "is 5 and the pattern has 4 layers"),
        ("nemotron_h", {"attention_bias": True}, "'attention_bias' is True"),
        ("nemotron_h", {"tie_word_embeddings": True}, "'tie_word_embeddings' is True"),
        ("nemotron_h", {"mlp_hidden_act": "gelu"}, "'mlp_hidden_act' is 'gelu'"),
        ("nemotron_h", {"time_step_limit": [0.0, 0.1]}, "limited below by time_step_min"),
        ("nemotron_h", {"mamba_proj_bias": True}, "'mamba_proj_bias' is True"),
        ("nemotron_h_moe", {"mlp_bias": True}, "'mlp_bias' is True"),
        ("nemotron_h_moe", {"n_shared_experts": 2}, "'n_shared_experts' is 2"),
        ("hy_v3", {"mlp_bias": True}, "'mlp_bias' is True"),
        ("minimax_m2", {"scoring_func": "softmax"}, "'scoring_func' is 'softmax'"),
        ("minimax_m2", {"shared_intermediate_size": 8}, "'shared_intermediate_size' is 8"),
        ("minimax_m2", {"rotary_dim": 4}, "'rotary_dim' is 4, and 'partial_rotary_factor' says 8"),
        ("ministral3", {"rope_parameters": {"rope_type": "default"}}, "'llama_4_scaling_beta' is missing"),
        (
            "ministral3",
            {"rope_parameters": {"rope_type": "default", "llama_4_scaling_beta": 0.1}},
            "'original_max_position_embeddings' is missing",
        ),
        ("qwen2_moe", {"use_sliding_window": True}, "'use_sliding_window' is True"),
        ("hunyuan_v1_moe", {"moe_topk": [1, 2]}, "'moe_topk' is .*an entry for each layer"),
        ("hunyuan_v1_moe", {"num_shared_expert": [1, 2, 1, 1]}, "'num_shared_expert' is .*1 in every layer"),
        ("hunyuan_v1_moe", {"moe_intermediate_size": 8}, "'moe_intermediate_size' is 8; 12 in every layer"),
        ("hunyuan_v1_dense", {"use_cla": True}, "'use_cla' is True"),
        ("hunyuan_v1_dense", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        ("olmo3", {"rope_parameters": None, "rope_theta": 7.0}, "'rope_theta' is 7.0, which transformers"),
        ("olmo3", {"rope_parameters": {"rope_theta": 7.0}}, "'rope_theta' outside of the layer types"),
        ("gpt_oss", {"layer_types": ["full_attention"]}, "'layer_types' needs 4 entries"),
        ("gpt_oss", {"layer_types": ["chunked_attention"] * 4}, "'layer_types' needs 4 entries"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0, "factor": 2.0}},
            "theta above 1",
        ),
    ],
)
def test_settings_of_another_model_are_refused(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        config_from_hf(hf_config(name, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(set(CONFIGS) - {"deepseek_v2", "deepseek_v2_lite"}))
def test_a_family_refuses_the_other_kind_of_attention(name: str) -> None:
    config = config_from_hf(hf_config(name))
    other = "llama" if isinstance(config.blocks[0].attention, MLAConfig) else "deepseek_v3"
    attention = config_from_hf(hf_config(other)).blocks[0].attention.model_dump()
    blocks = [block | {"attention": block["attention"] and attention} for block in config.to_dict()["blocks"]]
    with pytest.raises(ConfigError, match=r"latent attention|needs layers of attention and of"):
        config_to_hf(ModelConfig.from_dict(config.to_dict() | {"blocks": blocks}))


@pytest.mark.parametrize("name", ["deepseek_v3", "deepseek_v2", "gpt_oss", "ernie4_5_moe", "dots1", "hy_v3"])
def test_the_balance_of_a_training_run_survives_saving(name: str) -> None:
    data = config_from_hf(hf_config(name)).to_dict()
    for block in data["blocks"]:
        if block["ffn"]["kind"] == "moe":
            block["ffn"]["balance"]["loss_coef"] = 0.02
            if block["ffn"]["router"]["select_bias"]:
                block["ffn"]["balance"]["bias_rate"] = 0.005
    config = ModelConfig.from_dict(data)
    assert config_from_hf(config_to_hf(config)).blocks == config.blocks


def test_selection_bias_stays_fp32_in_a_bfloat16_model(tmp_path: Path) -> None:
    tiny("deepseek_v3").save_pretrained(tmp_path / "a")
    loaded = load_model(tmp_path / "a", dtype="bfloat16")
    save_model(tmp_path / "b", loaded.model)
    before, after = (load_file(tmp_path / side / "model.safetensors") for side in "ab")
    key = "model.layers.1.mlp.gate.e_score_correction_bias"
    assert torch.equal(before[key], after[key]) and after[key].dtype == torch.float32
    assert after["model.layers.1.mlp.gate.weight"].dtype == torch.bfloat16
    assert before[key].min() < 0


def test_ernies_router_is_float32_in_a_bfloat16_model(tmp_path: Path) -> None:
    tiny("ernie4_5_moe").bfloat16().save_pretrained(tmp_path / "a")
    tensors = load_file(tmp_path / "a" / "model.safetensors")
    key = "model.layers.1.mlp.gate.weight"
    tensors[key] = tensors[key].float() * 1.001  # as released: numbers that bfloat16 cannot hold
    for name in tensors:
        if name.endswith(("gate.weight", "e_score_correction_bias")):
            tensors[name] = tensors[name].float()
    save_file(tensors, tmp_path / "a" / "model.safetensors", {"format": "pt"})
    checkpoint = Checkpoint.open(tmp_path / "a")
    assert checkpoint.stored_dtype == torch.bfloat16
    loaded = checkpoint.load("bfloat16")
    router = dict(loaded.model.routers())[1]
    assert torch.equal(router.weight, tensors[key]) and router.weight.dtype == torch.float32
    save_model(tmp_path / "b", loaded.model, probes=True)
    after = load_file(tmp_path / "b" / "model.safetensors")
    assert after.keys() == tensors.keys()
    assert all(torch.equal(after[name], tensors[name]) for name in tensors)
    assert {name: after[name].dtype for name in after} == {name: tensors[name].dtype for name in tensors}
    assert Checkpoint.open(tmp_path / "b").load("bfloat16", check=True)
    receipt = convert_directory(tmp_path / "a", tmp_path / "c")
    assert receipt.lossless and receipt.dtype == ("bfloat16", "bfloat16")


def test_layers_past_the_last_one_travel_where_they_are_not_run(tmp_path: Path) -> None:
    tiny("hy_v3").save_pretrained(tmp_path / "a")
    tensors = load_file(tmp_path / "a" / "model.safetensors")
    tensors["model.layers.4.eh_proj.weight"] = torch.ones(32, 64, dtype=torch.bfloat16)
    save_file(tensors, tmp_path / "a" / "model.safetensors", {"format": "pt"})
    save_model(tmp_path / "b", load_model(tmp_path / "a").model)
    assert torch.equal(
        load_file(tmp_path / "b" / "model.safetensors")["model.layers.4.eh_proj.weight"],
        tensors["model.layers.4.eh_proj.weight"],
    )
