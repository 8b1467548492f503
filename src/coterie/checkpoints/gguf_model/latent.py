"""config.json of models with latent attention from a GGUF file."""

from __future__ import annotations

from collections.abc import Callable

from coterie.checkpoints.gguf_model.decoder import NAMES, Hf, common, routed
from coterie.checkpoints.gguf_model.keys import GgufKeys
from coterie.checkpoints.gguf_model.rope import rope_parameters
from coterie.config import CheckpointError
from coterie.llamacpp.fused import KV_B
from coterie.llamacpp.indexer import FULL, SHARED, TYPES
from coterie.llamacpp.key_tables import GROUP_KEYS, INDEXER_KEYS, LATENT_KEYS, Key
from coterie.llamacpp.targets import TARGETS

_GATING = tuple(key for key in TARGETS["deepseek_v3"].routed_keys if key.place == "router.score")
# Files with `kv_b` in one piece state the lengths of heads where newer ones state those of the latent.
_OLD_KEYS = (
    *(key for key in LATENT_KEYS if key.name != "attention.value_length"),
    Key("attention.key_length", "attention.head_dim"),
    Key("attention.value_length", "attention.value_dim"),
)
_GLM52_CONTEXT = 1 << 20  # shorter ones are GLM-5 and 5.1, whose layers share no keys
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
    sigmoid = file.stated(_GATING, NAMES | _LATENT_NAMES).get("scoring_func") == "sigmoid"
    if not sigmoid and file.get("attention.temperature_scale", None):
        return _mistral_large(file)
    data = _decoder(file, "deepseek_v3" if sigmoid else "deepseek_v2")
    return data | (_v3_groups(file, data) if sigmoid else _v2_groups(file, data))


def read_mistral4(file: GgufKeys) -> Hf:
    """Mistral 4: queries grow with their position, which converters of the Hugging Face form do not say."""
    data = _decoder(file, "mistral4")
    beta = file.get("attention.temperature_scale", None)
    if beta is None:
        raise CheckpointError(
            f"{file.where}: has no key '{file.arch}.attention.temperature_scale', and Mistral 4's queries "
            "grow with their position; convert it with --set and this key: 0.1 for Mistral Small 4, else "
            "llama_4_scaling_beta of the original's config.json"
        )
    stated = file.count("rope.scaling.original_context_length", data["max_position_embeddings"])
    original = file.count("attention.temperature_length", stated)
    if data.pop("scoring_func", "softmax") != "softmax":
        raise file.unusable("expert_gating_func", 2, "1")
    own = {"llama_4_scaling_beta": beta, "original_max_position_embeddings": original}
    return data | {
        "n_group": data.get("n_group", 1),
        "topk_group": data.get("topk_group", 1),
        "norm_topk_prob": data.get("norm_topk_prob", False),
        "rope_interleave": True,
        "rope_parameters": data["rope_parameters"] | own,
    }


def read_indexed(family: str) -> Callable[[GgufKeys], Hf]:
    """DeepSeek-V3's decoder with an indexer, of which config.json states the sizes and the layers."""
    target = TARGETS[family]

    def read(file: GgufKeys) -> Hf:
        if not target.yarn_multiplier:
            file.expect("rope.scaling.type", "none")
        data: Hf = {"norm_topk_prob": False, "routed_scaling_factor": 1.0} | _decoder(file, family)
        file.count("attention.q_lora_rank")
        if data.get("scoring_func", "sigmoid") != "sigmoid":
            raise file.unusable("expert_gating_func", 1, "2")
        data |= {key.place.removeprefix("extra."): file.count(key.name) for key in INDEXER_KEYS}
        if target.indexer == "some":
            data["indexer_types"] = _indexer_types(file)
        return data | _v3_groups(file, data)

    return read


def _indexer_types(file: GgufKeys) -> list[str]:
    """Which layers have an indexer: as a key says, else as llama.cpp takes it.

    Files of GLM-5.2 and 5.3 have no key, and hold the tensors of an indexer in every layer.
    """
    long = file.count("context_length") >= _GLM52_CONTEXT
    usual = [not long or layer < 2 or layer % 4 == 2 for layer in range(file.layers)]
    stated = file.per_layer(TYPES, file.layers, usual)
    if any(one not in (0, 1) for one in stated):
        raise file.unusable(TYPES, stated, "true or false for each layer")
    return [FULL if one else SHARED for one in stated]


def _mistral_large(file: GgufKeys) -> Hf:
    """Mistral Large 3 from Mistral's own form: Mistral 4's decoder under DeepSeek's name.

    The two names multiply softmax scales alike where the multiplier is 0.1.
    """
    if (
        file.get("rope.scaling.type", "none") == "yarn"
        and file.get("rope.scaling.yarn_log_multiplier") != 0.1
    ):
        raise file.unusable(
            "rope.scaling.yarn_log_multiplier", file.get("rope.scaling.yarn_log_multiplier"), "0.1"
        )
    return read_mistral4(file)


def _decoder(file: GgufKeys, family: str) -> Hf:
    """What all of them have: latent attention, experts behind dense layers, shared experts."""
    names = NAMES | _LATENT_NAMES
    old = file.has(f"{KV_B}.weight")
    data: Hf = {"model_type": family} | common(file, _OLD_KEYS if old else LATENT_KEYS, names)
    data |= routed(file, family, _LATENT_NAMES) | file.stated(GROUP_KEYS, names)
    for name in ("attention.head_count_kv", "attention.key_length", "expert_shared_feed_forward_length"):
        file.get(name, None)  # follow from the others
    head = data.pop("qk_head_dim", None)
    if head is None:
        raise CheckpointError(
            f"{file.where}: has no key '{file.arch}.attention.key_length_mla', and no tensor '{KV_B}' as "
            "files from before that key have: take another file of the model"
        )
    rope_dim = data["qk_rope_head_dim"]
    return data | {
        "q_lora_rank": file.count("attention.q_lora_rank", 0) or None,
        "qk_nope_head_dim": head - rope_dim,
        "num_key_value_heads": data["num_attention_heads"],
        "intermediate_size": file.count("feed_forward_length"),
        "first_k_dense_replace": file.count("leading_dense_block_count", 0),
        "n_shared_experts": file.count("expert_shared_count"),
        "rope_parameters": rope_parameters(file, TARGETS[family], rope_dim),
    }


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
