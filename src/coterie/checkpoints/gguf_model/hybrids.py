"""config.json of models in GGUF whose layers are of two kinds: attention, and a mixer with a state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coterie.checkpoints.gguf_model.decoder import PARTIAL, Hf, dense_width, expert_groups, grouped, routed
from coterie.checkpoints.gguf_model.keys import GgufKeys
from coterie.checkpoints.gguf_model.variants import GRANITE_SCALES
from coterie.llamacpp.key_tables import MIXER_KEYS
from coterie.llamacpp.targets import TARGETS

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


_NEMOTRON = {
    "mixer.kernel": "conv_kernel",
    "mixer.state": "ssm_state_size",
    "mixer.groups": "n_groups",
    "mixer.num_heads": "mamba_num_heads",
}
_NEMOTRON_EXPERTS = {
    "router.num_experts": "n_routed_experts",
    "router.score": "scoring_func",
    "moe.latent_width": "moe_latent_size",
}


def _kinds(file: GgufKeys, state: str, attention: str) -> Hf:
    """`layer_types` and the number of key heads, which is 0 in layers that keep a state."""
    name, layers = "attention.head_count_kv", file.layers
    counts = file.per_layer(name, layers)
    return {
        "num_key_value_heads": _one(file, name, counts, "one number for all layers with attention, and 0"),
        "layer_types": [attention if count else state for count in counts],
    }


def _one(file: GgufKeys, name: str, values: list[Any], wanted: str) -> Any:
    """The one number among the values of layers that is not 0."""
    found = {value for value in values if value != 0}
    if len(found) != 1:
        raise file.unusable(name, values, wanted)
    return found.pop()


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


def _head_width(file: GgufKeys, heads: int) -> int:
    """The width of a head of Mamba-2."""
    inner = file.count("ssm.inner_size")
    if inner % heads:
        raise file.unusable("ssm.inner_size", inner, f"a multiple of {heads} heads")
    return int(inner // heads)


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
        "mamba_d_head": _head_width(file, data["mamba_n_heads"]),
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


def _nemotron(file: GgufKeys) -> Hf:
    """Nemotron-H and Nemotron 3: two keys say which one part each layer is."""
    heads, width = "attention.head_count_kv", "feed_forward_length"
    mixed = TARGETS["nemotron_h"].mixed
    assert mixed is not None
    counts, widths = (file.per_layer(name, file.layers) for name in (heads, width))
    counts = [0 if wide else count for count, wide in zip(counts, widths, strict=True)]
    routing = file.count("expert_count", 0)
    alone = "E" if routing else "-"
    pairs = zip(counts, widths, strict=True)
    data = grouped(file, "nemotron_h", PARTIAL) | file.stated(MIXER_KEYS["mamba2"], _NEMOTRON)
    for key in MIXER_KEYS["mamba2"]:
        file.get(key.name)
    for name in ("hidden_act", "rotary_dim", "rope_parameters"):  # it has no positions
        data.pop(name, None)
    data |= {
        "hybrid_override_pattern": "".join(alone if wide else "*" if count else "M" for count, wide in pairs),
        "num_key_value_heads": _one(file, heads, counts, "one number for all layers with attention, and 0"),
        "layer_norm_epsilon": data.pop("rms_norm_eps"),
        "mamba_head_dim": _head_width(file, data["mamba_num_heads"]),
        "time_step_min": file.get("ssm.time_step_min", mixed.usual_step),
        "use_conv_bias": True,
        "use_bias": False,
        "mlp_bias": any(name.endswith(".ffn_up.bias") for name in file.shapes),
        "mlp_hidden_act": "relu2",
    }
    if routing:
        return data | _nemotron_experts(file)
    file.count("expert_used_count", None)
    if any(widths):
        data["intermediate_size"] = _one(file, width, widths, "one number for all dense layers, and 0")
    return data


def _nemotron_experts(file: GgufKeys) -> Hf:
    file.expect("expert_gating_func", 2)
    file.expect("expert_shared_count", 1)
    data: Hf = {"norm_topk_prob": False, "routed_scaling_factor": 1.0}
    data |= routed(file, "nemotron_h", _NEMOTRON_EXPERTS) | expert_groups(file)
    data.pop("scoring_func", None)  # always sigmoid
    return data | {"moe_shared_expert_intermediate_size": file.count("expert_shared_feed_forward_length")}


READERS: dict[str, Callable[[GgufKeys], Hf]] = {
    "lfm2": _lfm2_dense,
    "lfm2moe": _lfm2_moe,
    "qwen35": _qwen35,
    "qwen35moe": _delta_moe("qwen3_5_moe_text", {}),
    "qwen3next": _delta_moe(
        "qwen3_next", {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}
    ),
    "granitehybrid": _granite_hybrid,
    "nemotron_h": _nemotron,
    "nemotron_h_moe": _nemotron,
}
