"""config.json of Llama's and Mixtral's variants in GGUF: multipliers, late norms, growing queries."""

from __future__ import annotations

from collections.abc import Callable

from coterie.checkpoints.gguf_model.decoder import PARTIAL, Hf, dense_width, grouped, routed
from coterie.checkpoints.gguf_model.keys import GgufKeys
from coterie.checkpoints.gguf_model.rope import rope_parameters
from coterie.llamacpp.targets import TARGETS

GRANITE_SCALES = {
    "model.embed_scale": "embedding_multiplier",
    "model.residual_scale": "residual_multiplier",
    "model.logit_divisor": "logits_scaling",
    "attention.softmax_scale": "attention_multiplier",
}
_EXPERTS = {"router.num_experts": "num_local_experts", "moe.expert_width": "intermediate_size"}


def _granite(file: GgufKeys) -> Hf:
    """Granite, also of the hybrid kind where all layers attend."""
    file.expect("rope.scaling.finetuned", True)  # false: llama.cpp leaves positions out
    for name in ("logit_scale", "attention.scale"):  # transformers and llama.cpp fill in other values
        file.get(name)
    routing = file.count("expert_count", 0)
    shared = file.count("expert_shared_feed_forward_length", 0) if routing else 0
    family = "granite" if not routing else "granitemoeshared" if shared else "granitemoe"
    data = grouped(file, family, GRANITE_SCALES)
    data["attention_bias"] = file.biased
    if not routing:
        file.count("expert_used_count", None)
        return data | dense_width(file) | {"mlp_bias": file.has("ffn_gate.bias")}
    data |= routed(file, family, _EXPERTS)
    return data | ({"shared_intermediate_size": shared} if shared else {})


def _mistral3(file: GgufKeys) -> Hf:
    """Ministral 3, or a Mistral whose queries do not grow with their position."""
    beta = file.get("attention.temperature_scale", None)
    data = grouped(file, "ministral3" if beta else "mistral") | dense_width(file) | {"sliding_window": None}
    if not beta:
        rope = rope_parameters(file, TARGETS["ministral3"], data["head_dim"])
        return data | {"rope_parameters": rope}
    original = file.count("rope.scaling.original_context_length", data["max_position_embeddings"])
    own = {"llama_4_scaling_beta": beta, "original_max_position_embeddings": original}
    return data | {"rope_parameters": data["rope_parameters"] | own}


def _olmo2(file: GgufKeys) -> Hf:
    """OLMo 2, or OLMo 3, which has a sliding window and scales the positions of its full layers only."""
    window = file.count("attention.sliding_window", 0)
    data = grouped(file, "olmo3" if window else "olmo2") | dense_width(file) | {"attention_bias": False}
    if not window:
        return data
    rope = data["rope_parameters"]
    file.expect("rope.freq_base_swa", rope["rope_theta"])
    return data | {
        "sliding_window": window,
        "layer_types": file.layer_types(4),
        "rope_parameters": {
            "full_attention": rope,
            "sliding_attention": {"rope_type": "default", "rope_theta": rope["rope_theta"]},
        },
    }


def _hunyuan_dense(file: GgufKeys) -> Hf:
    return grouped(file, "hunyuan_v1_dense") | dense_width(file) | {"attention_bias": False}


def _hunyuan_moe(file: GgufKeys) -> Hf:
    names = {"router.top_k": "moe_topk", "moe.expert_width": "intermediate_size"}
    data = grouped(file, "hunyuan_v1_moe") | routed(file, "hunyuan_v1_moe", names)
    file.expect("expert_shared_count", 1)
    file.expect("expert_shared_feed_forward_length", data["intermediate_size"])
    return data | {"attention_bias": False}


def _phi3(file: GgufKeys) -> Hf:
    """Phi-3 and Phi-4: llama.cpp ignores the window, the models do not; 0 is none."""
    data = grouped(file, "phi3", PARTIAL) | dense_width(file)
    data.pop("rotary_dim", None)
    original = file.count("rope.scaling.original_context_length", data["max_position_embeddings"])
    window = file.count("attention.sliding_window", 0) or None
    return data | {"sliding_window": window, "original_max_position_embeddings": original}


def _glm(family: str) -> Callable[[GgufKeys], Hf]:
    """GLM-4, of which the first numbers of every head rotate."""

    def read(file: GgufKeys) -> Hf:
        data = grouped(file, family, PARTIAL) | dense_width(file)
        rotary = data.pop("rotary_dim", data["head_dim"])
        data["rope_parameters"]["partial_rotary_factor"] = rotary / data["head_dim"]
        return data | {"attention_bias": file.biased}

    return read


READERS: dict[str, Callable[[GgufKeys], Hf]] = {
    "granite": _granite,
    "granitemoe": _granite,
    "mistral3": _mistral3,
    "olmo2": _olmo2,
    "phi3": _phi3,
    "chatglm": _glm("glm"),
    "glm4": _glm("glm4"),
    "hunyuan-dense": _hunyuan_dense,
    "hunyuan-moe": _hunyuan_moe,
}
