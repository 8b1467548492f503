"""Which group each parameter belongs to: named by hand for a model that has one of everything."""

import torch

from coterie.families import config_from_hf
from coterie.nn.parameter_groups import GROUPS, parameter_groups
from coterie.nn.transformer import Transformer

DEEPSEEK = {
    "model_type": "deepseek_v3",
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}


def test_every_parameter_has_the_group_of_its_place():
    with torch.device("meta"):
        model = Transformer(config_from_hf(DEEPSEEK))
    groups = parameter_groups(model)
    assert set(groups) == {name for name, _ in model.named_parameters()}
    expected = {
        "embed.weight": "embedding",
        "head.weight": "head",
        "norm.weight": "norm",
        "blocks.0.attention_norm.weight": "norm",
        "blocks.1.ffn_norm.weight": "norm",
        "blocks.0.attention.q_a.weight": "attention",
        "blocks.0.attention.kv_a_norm.weight": "attention",
        "blocks.0.ffn.gate.weight": "dense",
        "blocks.1.ffn.router.weight": "router",
        "blocks.1.ffn.experts.gate_up.weight": "experts",
        "blocks.1.ffn.experts.down.weight": "experts",
        "blocks.1.ffn.shared.down.weight": "shared",
    }
    assert {name: groups[name] for name in expected} == expected
    assert "extra" not in groups.values() and set(groups.values()) < set(GROUPS)
