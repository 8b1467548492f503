"""What decoders have in common when their config.json is made from the keys and tensors of a GGUF file.

`Key` says where in our config a value belongs; `NAMES` says what config.json calls it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from coterie.checkpoints.gguf_model.keys import GgufKeys
from coterie.checkpoints.gguf_model.rope import rope_parameters
from coterie.llamacpp.fused import EXPERTS
from coterie.llamacpp.key_tables import GROUPED_KEYS, MODEL_KEYS, ROUTED_KEYS, Key
from coterie.llamacpp.targets import TARGETS

Hf = dict[str, Any]
# Place in our config -> key of config.json; `vocab_size` and the number of layers come from the tensors.
NAMES = {
    "model.max_positions": "max_position_embeddings",
    "model.width": "hidden_size",
    "model.norm_eps": "rms_norm_eps",
    "attention.num_heads": "num_attention_heads",
    "attention.num_kv_heads": "num_key_value_heads",
    "attention.head_dim": "head_dim",
    "rope.rotated": "head_dim",
    "router.num_experts": "num_experts",
    "router.top_k": "num_experts_per_tok",
    "router.renormalize": "norm_topk_prob",
    "router.scale": "routed_scaling_factor",
    "router.num_groups": "n_group",
    "router.top_groups": "topk_group",
    "moe.expert_width": "moe_intermediate_size",
}
PARTIAL = {"rope.rotated": "rotary_dim"}  # only the first numbers of a head rotate


def common(file: GgufKeys, keys: Iterable[Key] = GROUPED_KEYS, names: Mapping[str, str] = NAMES) -> Hf:
    """What every decoder has, from `MODEL_KEYS` and `keys`."""
    found = file.stated((*MODEL_KEYS, *keys), names)
    for name in ("max_position_embeddings", "hidden_size", "rms_norm_eps", "num_attention_heads"):
        if name not in found:
            place = next(place for place, theirs in names.items() if theirs == name)
            key = next(key for key in (*MODEL_KEYS, *keys) if key.place == place)
            file.get(key.name)  # raises
    return found | {
        "vocab_size": file.shape("token_embd.weight")[0],
        "num_hidden_layers": file.layers,
        "hidden_act": "silu",
        "tie_word_embeddings": not file.has("output.weight"),
    }


def grouped(file: GgufKeys, family: str, names: Mapping[str, str] | None = None) -> Hf:
    """A decoder with grouped-query attention."""
    keys = (*TARGETS[family].attention_keys, *TARGETS[family].extra_keys)
    data: Hf = {"model_type": family} | common(file, keys, NAMES | dict(names or {}))
    data.setdefault("num_key_value_heads", data["num_attention_heads"])
    if "head_dim" not in data:
        data["head_dim"] = data["hidden_size"] // data["num_attention_heads"]
    rotary = int(data.get("rotary_dim") or data["head_dim"])
    rope = rope_parameters(file, TARGETS[family], rotary)
    if rotary != data["head_dim"]:
        rope["partial_rotary_factor"] = rotary / data["head_dim"]
    return data | {"rope_parameters": rope}


def dense_width(file: GgufKeys) -> Hf:
    """The width of dense feed-forwards."""
    return {"intermediate_size": file.count("feed_forward_length")}


def routed(file: GgufKeys, family: str, names: Mapping[str, str] | None = None) -> Hf:
    """Experts of one width in every layer; their width is that of the tensors where no key states it."""
    keys = (*ROUTED_KEYS, *TARGETS[family].routed_keys)
    used = NAMES | dict(names or {})
    found = file.stated(keys, used)
    if "router.score" not in used:
        file.expect("expert_gating_func", 1)  # softmax
    file.get("feed_forward_length", None)
    width = used["moe.expert_width"]
    both = next((shape for name, shape in file.shapes.items() if f".{EXPERTS}." in name), None)
    first = next((name for name in file.shapes if name.endswith("ffn_up_exps.weight")), "")
    rows = file.shape(first or "blk.0.ffn_up_exps.weight")[1] if both is None else both[1] // 2
    return {width: rows} | found


def selecting(file: GgufKeys, family: str, names: Mapping[str, str] | None = None) -> Hf:
    """DeepSeek-V3's router and shared experts behind the first, dense layers, without latent attention."""
    own = {"router.num_experts": "n_routed_experts", "router.score": "scoring_func"}
    data = grouped(file, family, names) | {"norm_topk_prob": True} | dense_width(file)
    return (
        data
        | routed(file, family, own)
        | {
            "first_k_dense_replace": file.count("leading_dense_block_count", 0),
            "n_shared_experts": file.count("expert_shared_count"),
        }
        | expert_groups(file)
    )


def expert_groups(file: GgufKeys) -> Hf:
    """Groups of experts, of which the best are chosen from; one where the file states none."""
    groups = file.count("expert_group_count", 0) or 1
    if groups == 1:
        file.expect("expert_group_used_count", 0, 1)
    return {"n_group": groups, "topk_group": file.count("expert_group_used_count") if groups > 1 else 1}
