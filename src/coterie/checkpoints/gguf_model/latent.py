"""config.json of models with latent attention from a GGUF file."""

from __future__ import annotations

from coterie.checkpoints.gguf_model.decoder import NAMES, Hf, common, routed
from coterie.checkpoints.gguf_model.keys import GgufKeys
from coterie.checkpoints.gguf_model.rope import rope_parameters
from coterie.checkpoints.gguf_model.targets import GROUP_KEYS, LATENT_KEYS, TARGETS
from coterie.config import CheckpointError

_GATING = tuple(key for key in TARGETS["deepseek_v3"].routed_keys if key.place == "router.score")
_LATENT_NAMES = {
    "attention.num_heads": "num_attention_heads",
    "attention.kv_rank": "kv_lora_rank",
    "attention.rope_dim": "qk_rope_head_dim",
    "attention.value_dim": "v_head_dim",
    "attention.head_dim": "qk_head_dim",
    "router.num_experts": "n_routed_experts",
    "router.score": "scoring_func",
}


def read_deepseek(file: GgufKeys) -> Hf:
    """DeepSeek-V2 or V3 and their kin, told apart by the function that scores experts."""
    names = NAMES | _LATENT_NAMES
    sigmoid = file.stated(_GATING, names).get("scoring_func") == "sigmoid"
    family = "deepseek_v3" if sigmoid else "deepseek_v2"
    data: Hf = {"model_type": family} | common(file, LATENT_KEYS, names)
    data |= routed(file, family, _LATENT_NAMES) | file.stated(GROUP_KEYS, names)
    dense = file.count("leading_dense_block_count", 0)
    shared = file.count("expert_shared_count")
    width = file.count("feed_forward_length")
    for name in ("attention.head_count_kv", "attention.key_length", "expert_shared_feed_forward_length"):
        file.get(name, None)  # follow from the others
    head = data.pop("qk_head_dim", None)
    if head is None:
        raise CheckpointError(
            f"{file.where}: has no key '{file.arch}.attention.key_length_mla'; it was written before "
            "llama.cpp stored latent attention as it is now: take a newer file of the model"
        )
    rope_dim = data["qk_rope_head_dim"]
    data |= {
        "q_lora_rank": file.count("attention.q_lora_rank", 0) or None,
        "qk_nope_head_dim": head - rope_dim,
        "num_key_value_heads": data["num_attention_heads"],
        "intermediate_size": width,
        "first_k_dense_replace": dense,
        "n_shared_experts": shared,
        "rope_parameters": rope_parameters(file, TARGETS[family], rope_dim),
    }
    return data | (_v3_groups(file, data) if sigmoid else _v2_groups(file, data))


def _v3_groups(file: GgufKeys, data: Hf) -> Hf:
    if "n_group" not in data and (data["num_hidden_layers"], data["n_routed_experts"]) == (61, 256):
        raise CheckpointError(
            f"{file.where}: has no key '{file.arch}.expert_group_count', and DeepSeek-V3 chooses "
            f"among groups of experts; convert it with --set {file.arch}.expert_group_count=8 --set "
            f"{file.arch}.expert_group_used_count=4"
        )
    return {
        "n_group": data.get("n_group", 1),
        "topk_group": data.get("topk_group", 1),
        "norm_topk_prob": data.get("norm_topk_prob", True),
        "rope_interleave": True,
    }


def _v2_groups(file: GgufKeys, data: Hf) -> Hf:
    if data.pop("norm_topk_prob", False):
        raise CheckpointError(
            f"{file.where}: '{file.arch}.expert_weights_norm' is true, which no softmax router of this "
            "architecture has here"
        )
    grouped = data.get("n_group", 1) > 1
    return {"norm_topk_prob": False, "topk_method": "group_limited_greedy" if grouped else "greedy"}
