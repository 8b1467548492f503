"""Tensors of a GGUF file with layers that keep a state, worked out by hand from transformers' names."""

from __future__ import annotations

from typing import Any

import numpy as np

Arrays = dict[str, Any]


def _renamed(state: Arrays, disk: str, out: str, names: dict[str, str]) -> Arrays:
    return {
        f"{out}.{theirs}": state[f"{disk}.{ours}"]
        for ours, theirs in names.items()
        if f"{disk}.{ours}" in state
    }


def _short_conv(state: Arrays, disk: str, out: str) -> Arrays:
    wanted = {f"{out}.shortconv.conv.weight": state[f"{disk}.conv.conv.weight"][:, 0]}
    return wanted | {
        f"{out}.shortconv.{part}.weight": state[f"{disk}.conv.{part}.weight"]
        for part in ("in_proj", "out_proj")
    }


def _mamba(state: Arrays, mamba: str, out: str, groups: int) -> Arrays:
    names = {"in_proj.weight": "ssm_in.weight", "out_proj.weight": "ssm_out.weight"}
    names |= {"conv1d.bias": "ssm_conv1d.bias", "dt_bias": "ssm_dt.bias"}
    return _renamed(state, mamba, out, names) | {
        f"{out}.ssm_conv1d.weight": state[f"{mamba}.conv1d.weight"][:, 0],
        f"{out}.ssm_a": -np.exp(state[f"{mamba}.A_log"].astype(np.float64)).astype(np.float32)[:, None],
        f"{out}.ssm_d": state[f"{mamba}.D"][:, None],
        f"{out}.ssm_norm.weight": state[f"{mamba}.norm.weight"].reshape(groups, -1),
    }


def _delta(state: Arrays, disk: str, out: str, config: dict[str, Any]) -> Arrays:
    delta, heads = f"{disk}.linear_attn", config["linear_num_key_heads"]
    copies = config["linear_num_value_heads"] // heads
    keys, values = config["linear_key_head_dim"], config["linear_value_head_dim"]
    decays = -np.exp(state[f"{delta}.A_log"].astype(np.float64)).astype(np.float32)
    conv, steps = state[f"{delta}.conv1d.weight"][:, 0], state[f"{delta}.dt_bias"]
    norm, output = state[f"{delta}.norm.weight"], state[f"{delta}.out_proj.weight"]
    wanted = {f"{out}.ssm_norm.weight": norm}
    if f"{delta}.in_proj_qkvz.weight" in state:  # Qwen3-Next: one head after another
        parts: list[list[Any]] = [[], [], [], []]
        for head in np.split(state[f"{delta}.in_proj_qkvz.weight"], heads):
            ends = np.cumsum([keys, keys, copies * values])
            for part, rows in zip(parts, np.split(head, ends), strict=True):
                part.append(rows)
        return wanted | {
            f"{out}.attn_qkv.weight": np.concatenate([*parts[0], *parts[1], *parts[2]]),
            f"{out}.attn_gate.weight": np.concatenate(parts[3]),
            f"{out}.ssm_ba.weight": state[f"{delta}.in_proj_ba.weight"],
            f"{out}.ssm_conv1d.weight": conv,
            f"{out}.ssm_dt.bias": steps,
            f"{out}.ssm_a": decays,
            f"{out}.ssm_out.weight": output,
        }

    def tiled(tensor: Any) -> Any:  # value head r of key head k comes r-th among the k-ths
        groups = np.split(tensor, heads * copies)
        return np.concatenate([groups[k * copies + r] for r in range(copies) for k in range(heads)])

    plain, qkv = 2 * heads * keys, state[f"{delta}.in_proj_qkv.weight"]
    return wanted | {
        f"{out}.attn_qkv.weight": np.concatenate((qkv[:plain], tiled(qkv[plain:]))),
        f"{out}.attn_gate.weight": tiled(state[f"{delta}.in_proj_z.weight"]),
        f"{out}.ssm_beta.weight": tiled(state[f"{delta}.in_proj_b.weight"]),
        f"{out}.ssm_alpha.weight": tiled(state[f"{delta}.in_proj_a.weight"]),
        f"{out}.ssm_conv1d.weight": np.concatenate((conv[:plain], tiled(conv[plain:]))),
        f"{out}.ssm_dt.bias": tiled(steps),
        f"{out}.ssm_a": tiled(decays),
        f"{out}.ssm_out.weight": tiled(output.T).T,
    }


_ATTENTION = {
    f"self_attn.{part}_proj.{kind}": f"attn_{name}.{kind}"
    for part, name in (("q", "q"), ("k", "k"), ("v", "v"), ("o", "output"), ("out", "output"))
    for kind in ("weight", "bias")
} | {
    f"self_attn.{part}_{norm}.weight": f"attn_{part}_norm.weight"
    for part in "qk"
    for norm in ("norm", "layernorm")
}
_FFN = {
    f"feed_forward.{ours}.weight": f"ffn_{theirs}.weight"
    for ours, theirs in (("w1", "gate"), ("w3", "up"), ("w2", "down"), ("gate", "gate_inp"))
} | {"feed_forward.expert_bias": "exp_probs_b.bias", "shared_mlp.output_linear.weight": "ffn_down.weight"}


def expected_mixed_layer(
    state: Arrays, disk: str, out: str, arch: str, config: dict[str, Any], ffn: Arrays
) -> Arrays:
    """A layer of an architecture with such layers. `ffn`: what other architectures have of it too."""
    wanted = _renamed(state, disk, out, _ATTENTION | _FFN) | ffn
    second = "post_attention_norm" if arch.startswith("qwen3") else "ffn_norm"
    norms = {"operator_norm": "attn_norm", "input_layernorm": "attn_norm"}
    norms |= {"ffn_norm": "ffn_norm", "post_attention_layernorm": second}
    names = {f"{ours}.weight": f"{theirs}.weight" for ours, theirs in norms.items()}
    wanted |= _renamed(state, disk, out, names)
    if f"{disk}.shared_mlp.input_linear.weight" in state:
        suffix = "_shexp" if f"{out}.ffn_gate_inp.weight" in wanted else ""
        halves = np.split(state[f"{disk}.shared_mlp.input_linear.weight"], 2)
        wanted |= {f"{out}.ffn_{p}{suffix}.weight": h for p, h in zip(("gate", "up"), halves, strict=True)}
        down = wanted.pop(f"{out}.ffn_down.weight")
        wanted[f"{out}.ffn_down{suffix}.weight"] = down
    if f"{disk}.feed_forward.experts.0.w1.weight" in state:
        for ours, theirs in (("w1", "gate"), ("w3", "up"), ("w2", "down")):
            each = [state[f"{disk}.feed_forward.experts.{e}.{ours}.weight"] for e in range(6)]
            wanted[f"{out}.ffn_{theirs}_exps.weight"] = np.stack(each)
    if arch.startswith("qwen3"):
        wanted |= {name: tensor + 1 for name, tensor in wanted.items() if "norm" in name}
    if f"{disk}.conv.conv.weight" in state:
        wanted |= _short_conv(state, disk, out)
    elif f"{disk}.mamba.A_log" in state:
        wanted |= _mamba(state, f"{disk}.mamba", out, config["mamba_n_groups"])
    elif f"{disk}.linear_attn.A_log" in state:
        wanted |= _delta(state, disk, out, config)
    return wanted


_ALONE = {f"{part}_proj.weight": f"attn_{part}.weight" for part in "qkv"} | {
    "o_proj.weight": "attn_output.weight",
    "gate.weight": "ffn_gate_inp.weight",
    "gate.e_score_correction_bias": "exp_probs_b.bias",
    "fc1_latent_proj.weight": "ffn_latent_down.weight",
    "fc2_latent_proj.weight": "ffn_latent_up.weight",
    **{f"{part}_proj.{kind}": f"ffn_{part}.{kind}" for part in ("up", "down") for kind in ("weight", "bias")},
    **{f"shared_experts.{part}_proj.weight": f"ffn_{part}_shexp.weight" for part in ("up", "down")},
}


def expected_nemotron(state: Arrays, config: dict[str, Any]) -> Arrays:
    """The file of a model whose layers are one part each."""
    names = {"embeddings": "token_embd", "norm_f": "output_norm"}
    wanted = {f"{theirs}.weight": state[f"backbone.{ours}.weight"] for ours, theirs in names.items()}
    wanted["output.weight"] = state["lm_head.weight"]
    for layer in range(len(config["layers_block_type"])):
        disk, out = f"backbone.layers.{layer}", f"blk.{layer}"
        wanted[f"{out}.attn_norm.weight"] = state[f"{disk}.norm.weight"]
        wanted |= _renamed(state, f"{disk}.mixer", out, _ALONE)
        if f"{disk}.mixer.A_log" in state:
            wanted |= _mamba(state, f"{disk}.mixer", out, config["n_groups"])
        for part in ("up", "down"):
            experts = [f"{disk}.mixer.experts.{e}.{part}_proj.weight" for e in range(8)]
            if experts[0] in state:
                wanted[f"{out}.ffn_{part}_exps.weight"] = np.stack([state[name] for name in experts])
    return wanted


def turned(wanted: Arrays, out: str, config: dict[str, Any], neighbours: Any) -> Arrays:
    """Queries and keys with the rows of rope next to each other, biases too."""
    heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}
    names = {f"{out}.attn_{part}.{kind}": heads[part] for part in "qk" for kind in ("weight", "bias")}
    return wanted | {name: neighbours(wanted[name], count) for name, count in names.items() if name in wanted}
