"""config.json of models in GGUF whose layers are of two kinds: attention, and a mixer with a state."""

from __future__ import annotations

from collections.abc import Callable

from coterie.checkpoints.gguf_model.decoder import PARTIAL, Hf, dense_width, grouped, routed
from coterie.checkpoints.gguf_model.keys import GgufKeys
from coterie.checkpoints.gguf_model.variants import GRANITE_SCALES
from coterie.llamacpp.key_tables import MIXER_KEYS

_DELTA = {
    "mixer.kernel": "linear_conv_kernel_dim",
    "mixer.key_dim": "linear_key_head_dim",
    "mixer.num_key_heads": "linear_num_key_heads",
    "mixer.num_value_heads": "linear_num_value_heads",
}
_MAMBA = {
    "mixer.kernel": "mamba_d_conv",
    "mixer.state": "mamba_d_state",
    "mixer.groups": "mamba_n_groups",
    "mixer.num_heads": "mamba_n_heads",
}


def _kinds(file: GgufKeys, state: str, attention: str) -> Hf:
    """`layer_types` and the number of key heads, which is 0 in layers that keep a state."""
    name, layers = "attention.head_count_kv", file.layers
    counts = file.per_layer(name, layers)
    found = {count for count in counts if count != 0}
    if len(found) != 1:
        raise file.unusable(name, counts, "one number for all layers with attention, and 0")
    return {
        "num_key_value_heads": found.pop(),
        "layer_types": [attention if count else state for count in counts],
    }


def _lfm2(file: GgufKeys, family: str) -> Hf:
    data = grouped(file, family)
    data["norm_eps"] = data.pop("rms_norm_eps")
    conv = file.stated(MIXER_KEYS["short_conv"], {"mixer.kernel": "conv_L_cache"})
    if not conv:
        file.get("shortconv.l_cache")  # raises
    tied = data["tie_word_embeddings"]
    return data | conv | _kinds(file, "conv", "full_attention") | {"conv_bias": False, "tie_embedding": tied}


def _lfm2_dense(file: GgufKeys) -> Hf:
    return _lfm2(file, "lfm2") | dense_width(file) | {"block_auto_adjust_ff_dim": False}


def _lfm2_moe(file: GgufKeys) -> Hf:
    names = {"router.score": "scoring_func"}
    data = _lfm2(file, "lfm2_moe") | dense_width(file) | routed(file, "lfm2_moe", names)
    file.expect("expert_gating_func", 2)
    del data["scoring_func"]  # always sigmoid
    return data | {
        "num_dense_layers": file.count("leading_dense_block_count", 0),
        "use_expert_bias": True,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.0,
    }


def _delta(file: GgufKeys, family: str) -> Hf:
    """Gated DeltaNet and gated attention."""
    data = grouped(file, family, PARTIAL)
    data.pop("rotary_dim", None)
    data |= file.stated(MIXER_KEYS["gated_delta"], _DELTA)
    for key in MIXER_KEYS["gated_delta"]:
        file.get(key.name)
    layers, name = file.layers, "attention.recurrent_layers"
    every = file.count("full_attention_interval", 4)
    states = [(index + 1) % every != 0 for index in range(layers)]
    if file.get(name, None) is not None:
        states = [bool(one) for one in file.per_layer(name, layers)]
    sections = file.get("rope.dimension_sections", None)
    if sections is not None:
        grid = {"mrope_section": sections[:3], "mrope_interleaved": True}
        data["rope_parameters"] = data["rope_parameters"] | grid
    return data | {
        "linear_value_head_dim": file.count("ssm.inner_size") // data["linear_num_value_heads"],
        "layer_types": ["linear_attention" if one else "full_attention" for one in states],
    }


def _qwen35(file: GgufKeys) -> Hf:
    return _delta(file, "qwen3_5_text") | dense_width(file)


def _delta_moe(family: str, known: Hf) -> Callable[[GgufKeys], Hf]:
    def read(file: GgufKeys) -> Hf:
        shared = file.shape("blk.0.ffn_up_shexp.weight")[0]
        file.get("expert_shared_feed_forward_length", None)
        return (
            _delta(file, family) | routed(file, family) | known | {"shared_expert_intermediate_size": shared}
        )

    return read


def _granite_hybrid(file: GgufKeys) -> Hf:
    """Granite 4 with Mamba-2 layers; converters call one without them a plain Granite."""
    family = "granitemoehybrid"
    for name in ("logit_scale", "attention.scale"):
        file.get(name)
    data = grouped(file, family, GRANITE_SCALES) | file.stated(MIXER_KEYS["mamba2"], _MAMBA)
    for key in MIXER_KEYS["mamba2"]:
        file.get(key.name)
    inner = file.count("ssm.inner_size")
    data |= _kinds(file, "mamba", "attention") | {
        "attention_bias": file.biased,
        "position_embedding_type": "rope" if file.get("rope.scaling.finetuned", True) else "nope",
        "mamba_d_head": inner // data["mamba_n_heads"],
        "mamba_expand": inner // data["hidden_size"],
        "mamba_conv_bias": True,
        "mamba_proj_bias": False,
        "num_local_experts": file.count("expert_count", 0),
    }
    if not data["num_local_experts"]:
        file.count("expert_used_count", None)
        file.count("expert_shared_feed_forward_length", None)
        return data | {"shared_intermediate_size": file.count("feed_forward_length")}
    names = {"router.num_experts": "num_local_experts", "moe.expert_width": "intermediate_size"}
    shared = file.count("expert_shared_feed_forward_length")
    return data | routed(file, family, names) | {"shared_intermediate_size": shared}


READERS: dict[str, Callable[[GgufKeys], Hf]] = {
    "lfm2": _lfm2_dense,
    "lfm2moe": _lfm2_moe,
    "qwen35": _qwen35,
    "qwen35moe": _delta_moe("qwen3_5_moe_text", {}),
    "qwen3next": _delta_moe(
        "qwen3_next", {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}
    ),
    "granitehybrid": _granite_hybrid,
}
