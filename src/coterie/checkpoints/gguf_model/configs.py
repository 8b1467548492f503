"""The config.json of a model from the keys and tensors of its GGUF file.

`Key` says where in our config a value belongs; `_NAMES` says what config.json calls it. What a file cannot
say (which function, which norms, how weights are renormalised) is stated here per architecture, as llama.cpp
has it built in. A key that nobody reads is an error: it may change the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from coterie.checkpoints.gguf_model.keys import GgufKeys
from coterie.checkpoints.gguf_model.rope import rope_parameters
from coterie.checkpoints.gguf_model.targets import (
    GROUP_KEYS,
    GROUPED_KEYS,
    LATENT_KEYS,
    MODEL_KEYS,
    ROUTED_KEYS,
    TARGETS,
    Key,
)
from coterie.config import CheckpointError, suggest

Hf = dict[str, Any]
_GATING = tuple(key for key in TARGETS["deepseek_v3"].routed_keys if key.place == "router.score")
# Place in our config -> key of config.json; `vocab_size` and the number of layers come from the tensors.
_NAMES = {
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
_PARTIAL = {"rope.rotated": "rotary_dim"}  # only the first numbers of a head rotate
_LATENT_NAMES = {
    "attention.num_heads": "num_attention_heads",
    "attention.kv_rank": "kv_lora_rank",
    "attention.rope_dim": "qk_rope_head_dim",
    "attention.value_dim": "v_head_dim",
    "attention.head_dim": "qk_head_dim",
    "router.num_experts": "n_routed_experts",
    "router.score": "scoring_func",
}


def hf_config(file: GgufKeys) -> Hf:
    """config.json of the file's model. Errors: `CheckpointError`, one line."""
    if file.arch not in _READERS:
        hint = suggest(file.arch, _READERS) or f"; read here: {', '.join(sorted(_READERS))}"
        raise CheckpointError(f"{file.where}: its architecture '{file.arch[:60]}' is not read here{hint}")
    file.expect("attention.causal", True)
    try:
        data = _READERS[file.arch](file)
    except (TypeError, ValueError, ArithmeticError, LookupError, RuntimeError) as error:
        # Values are calculated with before ModelConfig checks their types.
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"{file.where}: a key of this '{file.arch}' model cannot be used ({reason})"
        ) from None
    file.refuse_unread()
    return data


def _common(file: GgufKeys, keys: Iterable[Key] = GROUPED_KEYS, names: Mapping[str, str] = _NAMES) -> Hf:
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


def _grouped(file: GgufKeys, family: str, names: Mapping[str, str] | None = None) -> Hf:
    """A decoder with grouped-query attention."""
    keys = (*GROUPED_KEYS, *TARGETS[family].extra_keys)
    data: Hf = {"model_type": family} | _common(file, keys, _NAMES | dict(names or {}))
    data.setdefault("num_key_value_heads", data["num_attention_heads"])
    if "head_dim" not in data:
        data["head_dim"] = data["hidden_size"] // data["num_attention_heads"]
    rotary = int(data.get("rotary_dim") or data["head_dim"])
    rope = rope_parameters(file, TARGETS[family], rotary)
    if rotary != data["head_dim"]:
        rope["partial_rotary_factor"] = rotary / data["head_dim"]
    return data | {"rope_parameters": rope}


def _dense(file: GgufKeys) -> Hf:
    return {"intermediate_size": file.count("feed_forward_length")}


def _routed(file: GgufKeys, family: str, names: Mapping[str, str] | None = None) -> Hf:
    """Experts of one width in every layer; their width is that of the tensors where no key states it."""
    keys = (*ROUTED_KEYS, *TARGETS[family].routed_keys)
    used = _NAMES | dict(names or {})
    found = file.stated(keys, used)
    if "router.score" not in used:
        file.expect("expert_gating_func", 1)  # softmax
    file.count("feed_forward_length", None)
    width = used["moe.expert_width"]
    first = next((name for name in file.shapes if name.endswith("ffn_gate_exps.weight")), "")
    return {width: file.shape(first or "blk.0.ffn_gate_exps.weight")[1]} | found


def _llama(file: GgufKeys) -> Hf:
    if file.count("expert_count", 0):
        names = {"router.num_experts": "num_local_experts", "moe.expert_width": "intermediate_size"}
        window = file.count("attention.sliding_window", None)
        return _grouped(file, "mixtral") | _routed(file, "mixtral", names) | {"sliding_window": window}
    file.count("expert_used_count", None)
    window = file.count("attention.sliding_window", None)
    if window is not None and window < file.count("context_length"):
        return _grouped(file, "mistral") | _dense(file) | {"sliding_window": window}
    biases = {"attention_bias": file.has("attn_q.bias"), "mlp_bias": file.has("ffn_gate.bias")}
    return _grouped(file, "llama") | _dense(file) | biases


def _plain(family: str, known: Hf | None = None) -> Callable[[GgufKeys], Hf]:
    """A dense decoder; `known`: what config.json says besides the common keys."""
    return lambda file: _grouped(file, family) | _dense(file) | (known or {})


def _seed_oss(file: GgufKeys) -> Hf:
    biases = {"attention_bias": file.has("attn_q.bias"), "attention_out_bias": False, "mlp_bias": False}
    return _grouped(file, "seed_oss") | _dense(file) | biases


def _qwen3_moe(file: GgufKeys) -> Hf:
    known = {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}
    return _grouped(file, "qwen3_moe") | known | _routed(file, "qwen3_moe")


def _olmoe(file: GgufKeys) -> Hf:
    known = {"norm_topk_prob": False, "clip_qkv": file.get("attention.clamp_kqv", None)}
    names = {"moe.expert_width": "intermediate_size"}
    return _grouped(file, "olmoe") | known | _routed(file, "olmoe", names)


def _gpt_oss(file: GgufKeys) -> Hf:
    layers = file.layers
    pattern = file.get("attention.sliding_window_pattern", None)
    sliding = [index % 2 == 0 for index in range(layers)]  # llama.cpp's default
    if pattern is not None:
        sliding = file.per_layer("attention.sliding_window_pattern", layers)
    names = {"router.num_experts": "num_local_experts", "moe.expert_width": "intermediate_size"}
    return (
        _grouped(file, "gpt_oss")
        | _routed(file, "gpt_oss", names)
        | {
            "sliding_window": file.count("attention.sliding_window"),
            "layer_types": ["sliding_attention" if one else "full_attention" for one in sliding],
            "attention_bias": True,
            "swiglu_alpha": 1.702,
            "swiglu_limit": 7.0,
        }
    )


def _llama4(file: GgufKeys) -> Hf:
    built_in = TARGETS["llama4_text"].chunked
    assert built_in is not None
    names = {"router.num_experts": "num_local_experts", "moe.expert_width": "intermediate_size"}
    dense = file.count("feed_forward_length")
    data = _grouped(file, "llama4_text") | _routed(file, "llama4_text", names)
    return data | {
        "intermediate_size_mlp": dense,
        "interleave_moe_layer_step": file.count("interleave_moe_layer_step", 1),
        "attention_chunk_size": built_in.window,
        "no_rope_layer_interval": built_in.global_every,
        "use_qk_norm": data["num_local_experts"] != built_in.unnormed_experts,
        "attn_temperature_tuning": True,
        "floor_scale": built_in.floor_scale,
        "attn_scale": built_in.scale,
    }


def _selecting(file: GgufKeys, family: str, names: Mapping[str, str] | None = None) -> Hf:
    """DeepSeek-V3's router and shared experts behind the first, dense layers, without latent attention."""
    own = {"router.num_experts": "n_routed_experts", "router.score": "scoring_func"}
    for name in ("expert_group_count", "expert_group_used_count"):
        file.expect(name, 1)
    data = _grouped(file, family, names) | {"norm_topk_prob": True} | _dense(file)
    return (
        data
        | _routed(file, family, own)
        | {
            "first_k_dense_replace": file.count("leading_dense_block_count", 0),
            "n_shared_experts": file.count("expert_shared_count"),
        }
    )


def _dots1(file: GgufKeys) -> Hf:
    return _selecting(file, "dots1") | {"sliding_window": None}


def _qwen2_moe(file: GgufKeys) -> Hf:
    known = {
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "use_sliding_window": False,
    }
    shared = file.shape("blk.0.ffn_up_shexp.weight")[0]
    file.get("expert_shared_feed_forward_length", None)
    return (
        _grouped(file, "qwen2_moe")
        | known
        | _routed(file, "qwen2_moe")
        | {"shared_expert_intermediate_size": shared}
    )


def _glm4_moe(file: GgufKeys) -> Hf:
    data = _selecting(file, "glm4_moe", _PARTIAL)
    del data["rotary_dim"]
    found = {"use_qk_norm": file.has("attn_q_norm.weight"), "attention_bias": file.has("attn_q.bias")}
    return data | found


def _minimax_m2(file: GgufKeys) -> Hf:
    names = {
        "router.num_experts": "num_local_experts",
        "moe.expert_width": "intermediate_size",
        "router.score": "scoring_func",
    }
    return _grouped(file, "minimax_m2", _PARTIAL) | _routed(file, "minimax_m2", names)


def _gemma(family: str) -> Callable[[GgufKeys], Hf]:
    """Gemma 2 and 3: which layers slide and how scores are scaled follow from the sizes."""
    target = TARGETS[family]
    names = {"attention.score_cap": "attn_logit_softcapping", "model.logit_cap": "final_logit_softcapping"}

    def read(file: GgufKeys) -> Hf:
        data: Hf = {"attn_logit_softcapping": None, "final_logit_softcapping": None}
        data |= _grouped(file, family, names) | _dense(file)
        del data["hidden_act"]
        wide = data["num_hidden_layers"] == target.wide_scale_layers
        every = target.sliding or 1
        kinds = [
            "sliding_attention" if (index + 1) % every else "full_attention"
            for index in range(data["num_hidden_layers"])
        ]
        if target.local_theta is not None:
            theta = file.get("rope.freq_base_swa", target.local_theta)
            local = {"rope_type": "default", "rope_theta": theta}
            data["rope_parameters"] = {
                "full_attention": data["rope_parameters"],
                "sliding_attention": local,
            }
        return data | {
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": data["hidden_size"] // data["num_attention_heads"]
            if wide
            else data["head_dim"],
            "sliding_window": file.count("attention.sliding_window"),
            "layer_types": kinds,
        }

    return read


def _ernie_moe(file: GgufKeys) -> Hf:
    names = {"router.num_experts": "moe_num_experts", "router.top_k": "moe_k"}
    data = _grouped(file, "ernie4_5_moe") | _routed(file, "ernie4_5_moe", names)
    for name in ("expert_shared_count", "expert_shared_feed_forward_length"):
        file.get(name, None)  # converters differ in what they write here; the tensors tell
    shared = next((file.shapes[name][0] for name in file.shapes if name.endswith("ffn_up_shexp.weight")), 0)
    return data | {
        "intermediate_size": file.count("feed_forward_length"),
        "moe_num_shared_experts": shared // data["moe_intermediate_size"],
        "moe_layer_start_index": file.count("leading_dense_block_count", 0),
        "moe_layer_end_index": -1,
        "moe_layer_interval": file.count("interleave_moe_layer_step", 1),
        "use_bias": False,
    }


def _deepseek(file: GgufKeys) -> Hf:
    names = _NAMES | _LATENT_NAMES
    sigmoid = file.stated(_GATING, names).get("scoring_func") == "sigmoid"
    family = "deepseek_v3" if sigmoid else "deepseek_v2"
    data: Hf = {"model_type": family} | _common(file, LATENT_KEYS, names)
    data |= _routed(file, family, _LATENT_NAMES) | file.stated(GROUP_KEYS, names)
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


_READERS: dict[str, Callable[[GgufKeys], Hf]] = {
    "llama": _llama,
    "qwen2": _plain("qwen2", {"use_sliding_window": False}),
    "qwen3": _plain("qwen3"),
    "smollm3": _plain("smollm3", {"no_rope_layer_interval": TARGETS["smollm3"].no_rope_every}),
    "seed_oss": _seed_oss,
    "ernie4_5": _plain("ernie4_5", {"use_bias": False}),
    "ernie4_5-moe": _ernie_moe,
    "dots1": _dots1,
    "qwen2moe": _qwen2_moe,
    "glm4moe": _glm4_moe,
    "minimax-m2": _minimax_m2,
    "gemma2": _gemma("gemma2"),
    "gemma3": _gemma("gemma3_text"),
    "qwen3moe": _qwen3_moe,
    "olmoe": _olmoe,
    "gpt-oss": _gpt_oss,
    "llama4": _llama4,
    "deepseek2": _deepseek,
}
ARCHITECTURES = tuple(sorted(_READERS))
