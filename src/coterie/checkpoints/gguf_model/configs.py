"""The config.json of a model from the keys and tensors of its GGUF file.

What a file cannot say (which function, which norms, how weights are renormalised) is stated here per
architecture, as llama.cpp has it built in. A key that nobody reads is an error: it may change the model.
"""

from __future__ import annotations

from collections.abc import Callable

from coterie.checkpoints.gguf_model import hybrids, variants
from coterie.checkpoints.gguf_model.decoder import PARTIAL, Hf, dense_width, grouped, routed, selecting
from coterie.checkpoints.gguf_model.gemma4 import read_gemma4
from coterie.checkpoints.gguf_model.keys import GgufKeys
from coterie.checkpoints.gguf_model.latent import read_deepseek, read_indexed, read_mistral4
from coterie.config import CheckpointError, suggest
from coterie.llamacpp.targets import TARGETS


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


def _llama(file: GgufKeys) -> Hf:
    if file.count("expert_count", 0):
        names = {"router.num_experts": "num_local_experts", "moe.expert_width": "intermediate_size"}
        window = file.count("attention.sliding_window", None)
        return grouped(file, "mixtral") | routed(file, "mixtral", names) | {"sliding_window": window}
    file.count("expert_used_count", None)
    window = file.count("attention.sliding_window", None)
    if window is not None and window < file.count("context_length"):
        return grouped(file, "mistral") | dense_width(file) | {"sliding_window": window}
    biases = {"attention_bias": file.biased, "mlp_bias": file.has("ffn_gate.bias")}
    return grouped(file, "llama") | dense_width(file) | biases


def _plain(family: str, known: Hf | None = None) -> Callable[[GgufKeys], Hf]:
    """A dense decoder; `known`: what config.json says besides the common keys."""
    return lambda file: grouped(file, family) | dense_width(file) | (known or {})


def _seed_oss(file: GgufKeys) -> Hf:
    biases = {"attention_bias": file.biased, "attention_out_bias": False, "mlp_bias": False}
    return grouped(file, "seed_oss") | dense_width(file) | biases


def _qwen3_moe(file: GgufKeys) -> Hf:
    known = {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}
    return grouped(file, "qwen3_moe") | known | routed(file, "qwen3_moe")


def _olmoe(file: GgufKeys) -> Hf:
    known = {"norm_topk_prob": False, "clip_qkv": file.get("attention.clamp_kqv", None)}
    names = {"moe.expert_width": "intermediate_size"}
    return grouped(file, "olmoe") | known | routed(file, "olmoe", names)


def _gpt_oss(file: GgufKeys) -> Hf:
    names = {"router.num_experts": "num_local_experts", "moe.expert_width": "intermediate_size"}
    return (
        grouped(file, "gpt_oss")
        | routed(file, "gpt_oss", names)
        | {
            "sliding_window": file.count("attention.sliding_window"),
            "layer_types": file.layer_types(2),
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
    data = grouped(file, "llama4_text") | routed(file, "llama4_text", names)
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


def _dots1(file: GgufKeys) -> Hf:
    return selecting(file, "dots1") | {"sliding_window": None}


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
        grouped(file, "qwen2_moe")
        | known
        | routed(file, "qwen2_moe")
        | {"shared_expert_intermediate_size": shared}
    )


def _glm4_moe(file: GgufKeys) -> Hf:
    data = selecting(file, "glm4_moe", PARTIAL)
    del data["rotary_dim"]
    found = {"use_qk_norm": file.has("attn_q_norm.weight"), "attention_bias": file.biased}
    return data | found


def _minimax_m2(file: GgufKeys) -> Hf:
    names = {
        "router.num_experts": "num_local_experts",
        "moe.expert_width": "intermediate_size",
        "router.score": "scoring_func",
    }
    return grouped(file, "minimax_m2", PARTIAL) | routed(file, "minimax_m2", names)


def _gemma(family: str) -> Callable[[GgufKeys], Hf]:
    """Gemma 2 and 3: which layers slide and how scores are scaled follow from the sizes."""
    target = TARGETS[family]
    names = {"attention.score_cap": "attn_logit_softcapping", "model.logit_cap": "final_logit_softcapping"}

    def read(file: GgufKeys) -> Hf:
        data: Hf = {name: target.usual.get(name) for name in names.values()}
        data |= grouped(file, family, names) | dense_width(file)
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
    data = grouped(file, "ernie4_5_moe") | routed(file, "ernie4_5_moe", names)
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
    "gemma4": read_gemma4,
    "llama4": _llama4,
    "deepseek2": read_deepseek,
    "mistral4": read_mistral4,
    "deepseek32": read_indexed("deepseek_v32"),
    "glm-dsa": read_indexed("glm_moe_dsa"),
    **variants.READERS,
    **hybrids.READERS,
}
ARCHITECTURES = tuple(sorted(_READERS))
