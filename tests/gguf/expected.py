"""Every tensor of a GGUF file worked out by hand from transformers' names: what the tests compare with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

import gguf
from tests.gguf.expected_hybrids import expected_mixed_layer, expected_nemotron, turned
from tests.gguf.hybrids import HYBRIDS
from tests.gguf.models import KINDS

Arrays = dict[str, Any]


# Architectures whose converters bring the rows of rope next to each other.
_NEIGHBOURS = ("llama", "smollm3", "mistral3", "granite", "granitemoe")


def unpack(packed: Any, kind: str) -> Any:
    """Rows of fp32 as the format's own package unpacks them."""
    return np.asarray(gguf.quants.dequantize(packed, gguf.GGMLQuantizationType[kind]), np.float32)


def neighbours(matrix: Any, heads: int) -> Any:
    """Rows (x[j], x[j + D/2]) of every head brought next to each other, as Meta's own files have them."""
    rows = []
    for head in np.split(np.asarray(matrix), heads):
        half = len(head) // 2
        for j in range(half):
            rows += [head[j], head[half + j]]
    return np.stack(rows)


def expected_attention(state: Arrays, disk: str, out: str, arch: str, config: dict[str, Any]) -> Arrays:
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    wanted: Arrays = {}
    for part, theirs, count in (("q", "attn_q", heads), ("k", "attn_k", kv_heads), ("v", "attn_v", 0)):
        for kind in ("weight", "bias"):
            if f"{disk}.self_attn.{part}_proj.{kind}" in state:
                tensor = state[f"{disk}.self_attn.{part}_proj.{kind}"]
                wanted[f"{out}.{theirs}.{kind}"] = (
                    neighbours(tensor, count) if count and arch in _NEIGHBOURS else tensor
                )
    names = {
        "o_proj.weight": "attn_output.weight",
        "o_proj.bias": "attn_output.bias",
        "sinks": "attn_sinks.weight",
    }
    names |= {"q_norm.weight": "attn_q_norm.weight", "k_norm.weight": "attn_k_norm.weight"}
    names |= {f"{part}_layernorm.weight": f"attn_{part[0]}_norm.weight" for part in ("query", "key")}
    if f"{disk}.self_attn.qkv_proj.weight" in state:
        wanted[f"{out}.attn_qkv.weight"] = state[f"{disk}.self_attn.qkv_proj.weight"]
    return wanted | {
        f"{out}.{theirs}": state[f"{disk}.self_attn.{ours}"]
        for ours, theirs in names.items()
        if f"{disk}.self_attn.{ours}" in state
    }


def expected_latent(state: Arrays, disk: str, out: str, half: bool, config: dict[str, Any]) -> Arrays:
    heads, nope, turned = (config[k] for k in ("num_attention_heads", "qk_nope_head_dim", "qk_rope_head_dim"))
    query = "q_b" if f"{disk}.self_attn.q_b_proj.weight" in state else "q"
    queries = state[f"{disk}.self_attn.{query}_proj.weight"]
    keys_in = state[f"{disk}.self_attn.kv_a_proj_with_mqa.weight"]
    if half:
        by_head = np.split(queries, heads)
        queries = np.concatenate([np.concatenate((one[:nope], neighbours(one[nope:], 1))) for one in by_head])
        keys_in = np.concatenate((keys_in[:-turned], neighbours(keys_in[-turned:], 1)))
    both = np.split(state[f"{disk}.self_attn.kv_b_proj.weight"], heads)
    wanted = {
        f"{out}.attn_{query}.weight": queries,
        f"{out}.attn_kv_a_mqa.weight": keys_in,
        f"{out}.attn_kv_a_norm.weight": state[f"{disk}.self_attn.kv_a_layernorm.weight"],
        f"{out}.attn_k_b.weight": np.stack([one[:nope].T for one in both]),
        f"{out}.attn_v_b.weight": np.stack([one[nope:] for one in both]),
        f"{out}.attn_output.weight": state[f"{disk}.self_attn.o_proj.weight"],
    }
    if query == "q_b":
        for part in ("q_a_proj", "q_a_layernorm"):
            theirs = "attn_q_a" + ("_norm" if "norm" in part else "")
            wanted[f"{out}.{theirs}.weight"] = state[f"{disk}.self_attn.{part}.weight"]
    return wanted


def expected_indexer(state: Arrays, disk: str, out: str) -> Arrays:
    names = {
        "wq_b.weight": "attn_q_b.weight",
        "wk.weight": "attn_k.weight",
        "k_norm.weight": "k_norm.weight",
        "k_norm.bias": "k_norm.bias",
        "weights_proj.weight": "proj.weight",
    }
    own = f"{disk}.self_attn.indexer"
    return {
        f"{out}.indexer.{names[name[len(own) + 1 :]]}": state[name] for name in state if name.startswith(own)
    }


def expected_ffn(state: Arrays, disk: str, out: str) -> Arrays:
    wanted: Arrays = {}
    places = {
        "mlp": "",
        "feed_forward": "",
        "mlp.shared_experts": "_shexp",
        "feed_forward.shared_expert": "_shexp",
        "mlp.shared_expert": "_shexp",
        "mlp.shared_mlp": "_shexp",
    }
    for place, suffix in places.items():
        for part in ("gate", "up", "down"):
            for kind in ("weight", "bias"):
                if f"{disk}.{place}.{part}_proj.{kind}" in state:
                    wanted[f"{out}.ffn_{part}{suffix}.{kind}"] = state[f"{disk}.{place}.{part}_proj.{kind}"]
    if f"{disk}.mlp.gate_up_proj.weight" in state:
        wanted[f"{out}.ffn_up.weight"] = state[f"{disk}.mlp.gate_up_proj.weight"]
    if f"{disk}.mlp.shared_expert_gate.weight" in state:
        wanted[f"{out}.ffn_gate_inp_shexp.weight"] = state[f"{disk}.mlp.shared_expert_gate.weight"][0]
    if f"{disk}.block_sparse_moe.e_score_correction_bias" in state:
        wanted[f"{out}.exp_probs_b.bias"] = state[f"{disk}.block_sparse_moe.e_score_correction_bias"]
    routers = ("mlp.gate", "mlp.router", "feed_forward.router", "block_sparse_moe.gate", "mlp.gate.wg")
    for router in (*routers, "block_sparse_moe.router.layer"):
        for kind in ("weight", "bias"):
            if f"{disk}.{router}.{kind}" in state:
                wanted[f"{out}.ffn_gate_inp.{kind}"] = state[f"{disk}.{router}.{kind}"]
    for place in ("gate", "moe_statics"):
        if f"{disk}.mlp.{place}.e_score_correction_bias" in state:
            bias = state[f"{disk}.mlp.{place}.e_score_correction_bias"]
            wanted[f"{out}.exp_probs_b.bias"] = bias.reshape(-1)
    for place, names in {
        "mlp": ("gate_proj", "up_proj", "down_proj"),
        "block_sparse_moe": ("w1", "w3", "w2"),
    }.items():
        for part, name in zip(("gate", "up", "down"), names, strict=True):
            found = [f"{disk}.{place}.experts.{e}.{name}.weight" for e in range(12)]
            stacked = [state[key] for key in found if key in state]
            if stacked:
                wanted[f"{out}.ffn_{part}_exps.weight"] = np.stack(stacked)
    return wanted | expected_fused(state, disk, out)


def expected_fused(state: Arrays, disk: str, out: str) -> Arrays:
    if f"{disk}.feed_forward.experts.gate_up_proj" in state:  # Llama 4: (E, in, [gate | up])
        both = state[f"{disk}.feed_forward.experts.gate_up_proj"].swapaxes(1, 2)
        gate, up = np.split(both, 2, axis=1)
        down = state[f"{disk}.feed_forward.experts.down_proj"].swapaxes(1, 2)
        return dict(
            zip((f"{out}.ffn_{p}_exps.weight" for p in ("gate", "up", "down")), (gate, up, down), strict=True)
        )
    granite, shared = f"{disk}.block_sparse_moe", f"{disk}.shared_mlp"
    if f"{granite}.input_linear.weight" in state:  # Granite: [gate | up] rows
        names = {f"{granite}.input_linear.weight": "_exps", f"{shared}.input_linear.weight": "_shexp"}
        wanted: Arrays = {}
        for name, suffix in names.items():
            if name in state:
                halves = zip(("gate", "up"), np.split(state[name], 2, axis=-2), strict=True)
                wanted |= {f"{out}.ffn_{part}{suffix}.weight": half for part, half in halves}
                down = name.replace("input", "output")
                wanted[f"{out}.ffn_down{suffix}.weight"] = state[down]
        return wanted
    if f"{disk}.mlp.experts.gate_up_proj" not in state:
        return {}
    if f"{disk}.mlp.experts.gate_up_proj_bias" not in state:  # Mistral 4: [gate | up] rows
        gate, up = np.split(state[f"{disk}.mlp.experts.gate_up_proj"], 2, axis=1)
        down = state[f"{disk}.mlp.experts.down_proj"]
        return {
            f"{out}.ffn_{part}_exps.weight": t for part, t in (("gate", gate), ("up", up), ("down", down))
        }
    both, bias = state[f"{disk}.mlp.experts.gate_up_proj"], state[f"{disk}.mlp.experts.gate_up_proj_bias"]
    return {  # gpt-oss: columns in turn
        f"{out}.ffn_gate_exps.weight": both[:, :, 0::2].swapaxes(1, 2),
        f"{out}.ffn_up_exps.weight": both[:, :, 1::2].swapaxes(1, 2),
        f"{out}.ffn_gate_exps.bias": bias[:, 0::2],
        f"{out}.ffn_up_exps.bias": bias[:, 1::2],
        f"{out}.ffn_down_exps.weight": state[f"{disk}.mlp.experts.down_proj"].swapaxes(1, 2),
        f"{out}.ffn_down_exps.bias": state[f"{disk}.mlp.experts.down_proj_bias"],
    }


def expected_gemma4(state: Arrays, disk: str, out: str) -> Arrays:
    names = {
        "layer_scalar": "layer_output_scale.weight",
        "per_layer_input_gate.weight": "inp_gate.weight",
        "per_layer_projection.weight": "proj.weight",
        "post_per_layer_input_norm.weight": "post_norm.weight",
        "router.proj.weight": "ffn_gate_inp.weight",
        "router.scale": "ffn_gate_inp.scale",
        "router.per_expert_scale": "ffn_down_exps.scale",
        "experts.gate_up_proj": "ffn_gate_up_exps.weight",
        "experts.down_proj": "ffn_down_exps.weight",
        "pre_feedforward_layernorm_2.weight": "pre_ffw_norm_2.weight",
        "post_feedforward_layernorm_1.weight": "post_ffw_norm_1.weight",
        "post_feedforward_layernorm_2.weight": "post_ffw_norm_2.weight",
    }
    return {
        f"{out}.{theirs}": state[f"{disk}.{ours}"]
        for ours, theirs in names.items()
        if f"{disk}.{ours}" in state
    }


def expected(directory: Path, kind: str, config: dict[str, Any]) -> Arrays:
    """Every tensor of the GGUF file from the names and shapes of transformers, written down by hand."""
    state = {name: tensor.numpy() for name, tensor in load_file(directory / "model.safetensors").items()}
    arch = KINDS[kind][2]
    if arch.startswith("nemotron"):
        return expected_nemotron(state, config)
    last = {
        "model.norm.weight": "output_norm.weight",
        "model.embedding_norm.weight": "token_embd_norm.weight",
    }
    wanted = {"token_embd.weight": state["model.embed_tokens.weight"]}
    wanted |= {theirs: state[name] for name, theirs in last.items() if name in state}
    if "lm_head.weight" in state:
        wanted["output.weight"] = state["lm_head.weight"]
    for layer in range(config["num_hidden_layers"]):
        disk, out = f"model.layers.{layer}", f"blk.{layer}"
        if kind in HYBRIDS:
            ffn = expected_ffn(state, disk, out)
            found = expected_mixed_layer(state, disk, out, arch, config, ffn)
            wanted |= turned(found, out, config, neighbours) if arch.startswith("granite") else found
            continue
        if f"{disk}.input_layernorm.weight" in state:
            wanted[f"{out}.attn_norm.weight"] = state[f"{disk}.input_layernorm.weight"]
        second = "post_attention_norm" if arch in ("gpt-oss", "seed_oss", "glm4moe") else "ffn_norm"
        if arch == "gemma4":
            wanted |= expected_gemma4(state, disk, out)
        if arch.startswith("gemma") or arch == "olmo2":
            second = "post_attention_norm"
            if arch.startswith("gemma"):
                wanted[f"{out}.ffn_norm.weight"] = state[f"{disk}.pre_feedforward_layernorm.weight"]
            wanted[f"{out}.post_ffw_norm.weight"] = state[f"{disk}.post_feedforward_layernorm.weight"]
        wanted[f"{out}.{second}.weight"] = state[f"{disk}.post_attention_layernorm.weight"]
        if arch == "glm4":
            wanted[f"{out}.post_attention_norm.weight"] = state[f"{disk}.post_self_attn_layernorm.weight"]
            wanted[f"{out}.post_ffw_norm.weight"] = state[f"{disk}.post_mlp_layernorm.weight"]
        if arch in ("deepseek32", "glm-dsa"):
            wanted |= expected_indexer(state, disk, out)
        if arch in ("deepseek2", "mistral4", "deepseek32", "glm-dsa"):
            wanted |= expected_latent(state, disk, out, kind == "deepseek_v3_half", config)
        else:
            wanted |= expected_attention(state, disk, out, arch, config)
        wanted |= expected_ffn(state, disk, out)
    if arch.startswith("qwen3") and kind in HYBRIDS:
        wanted["output_norm.weight"] = wanted["output_norm.weight"] + 1
    if arch in ("gemma2", "gemma3"):
        wanted |= {name: tensor + 1 for name, tensor in wanted.items() if "norm" in name}
    if arch == "gemma4":
        for theirs, ours in {
            "per_layer_token_embd": "embed_tokens_per_layer",
            "per_layer_model_proj": "per_layer_model_projection",
            "per_layer_proj_norm": "per_layer_projection_norm",
        }.items():
            if f"model.{ours}.weight" in state:
                wanted[f"{theirs}.weight"] = state[f"model.{ours}.weight"]
        turning = config["rope_parameters"]["full_attention"]["partial_rotary_factor"]
        pairs = config["per_layer_config"][str(config["num_hidden_layers"] - 1)]["head_dim"] // 2
        factors = [1.0] * int(turning * pairs) + [1e30] * (pairs - int(turning * pairs))
        wanted["rope_freqs.weight"] = np.asarray(factors, np.float32)
    return wanted
