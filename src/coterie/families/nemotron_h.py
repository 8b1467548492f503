"""Nemotron-H and Nemotron 3: each layer is Mamba-2, attention, a dense feed-forward or experts, alone.

Feed-forwards have no gate and square their ReLU; attention has no positions. Experts may work in a latent
space. Layers for multi-token prediction are carried through. Source: arXiv 2504.03624.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import BlockConfig, ConfigError, FeedForwardConfig, ModelConfig
from coterie.config.mixers import Mamba2Config
from coterie.families.base import (
    COMMON_KEYS,
    Family,
    first_ffns,
    grouped_query,
    read_attention,
    read_model,
    read_moe,
    write_model,
)
from coterie.families.deepseek import selecting_router
from coterie.families.mapping import Slot
from coterie.families.mixed_layers import step_limits
from coterie.families.reader import Reader
from coterie.families.slots import LAYER, RoutedNames, moe_slots

_LETTERS = {"mamba": "M", "linear_attention": "M", "attention": "*", "full_attention": "*"}
_LETTERS |= {"mlp": "-", "moe": "E"}
# Our names, and those of older files.
_MAMBA: dict[str, tuple[str, tuple[str, ...], Any]] = {
    "mamba_num_heads": ("num_heads", (), 128),
    "mamba_head_dim": ("head_dim", (), 64),
    "ssm_state_size": ("state", (), 128),
    "n_groups": ("groups", ("mamba_n_groups",), 8),
    "conv_kernel": ("kernel", ("mamba_d_conv",), 4),
    "use_conv_bias": ("conv_bias", ("mamba_conv_bias",), True),
    "use_bias": ("bias", (), False),
    "time_step_min": ("step_low", ("mamba_dt_min",), 0.001),
}
_KEYS = (COMMON_KEYS - {"rms_norm_eps", "hidden_act", "rope_theta", "rope_scaling", "rope_parameters"}) | {
    "hybrid_override_pattern", "layers_block_type", "layer_norm_epsilon", "mlp_hidden_act", "mlp_bias",
    "mamba_hidden_act", "mamba_proj_bias", "time_step_limit", "attention_bias", "residual_in_fp32",
}  # fmt: skip
_ROUTER = {"score": "sigmoid", "select_bias": True, "group_score": "top2sum"}
_MOE_KEYS = frozenset(
    "n_routed_experts num_experts_per_tok moe_intermediate_size moe_shared_expert_intermediate_size "
    "n_shared_experts moe_latent_size routed_scaling_factor n_group topk_group norm_topk_prob "
    "router_aux_loss_coef router_bias_rate".split()
)


def _read_kinds(reader: Reader) -> str:
    """The letter of each layer: M, *, - or E."""
    listed = reader.get("layers_block_type", "layer_types", default=None)
    pattern = reader.get("hybrid_override_pattern", default=None)
    unknown = set(listed or ()) - set(_LETTERS) or set(pattern or "") - set(_LETTERS.values())
    letters = pattern if listed is None or unknown else "".join(_LETTERS[kind] for kind in listed)
    if unknown or not letters or (pattern is not None and pattern != letters):
        wrong = f" (not {min(unknown)!r:.40})" if unknown else ""
        raise ConfigError(
            f"{reader.where}: give each layer's kind once, as 'hybrid_override_pattern' of M, *, - and E or "
            f"as 'layers_block_type' of mamba, attention, mlp and moe{wrong}"
        )
    if reader.get("num_hidden_layers", default=len(letters)) != len(letters):
        raise ConfigError(
            f"{reader.where}: 'num_hidden_layers' is {reader.data['num_hidden_layers']!r:.20} and the "
            f"pattern has {len(letters)} layers; remove one"
        )
    if "*" not in letters:
        raise ConfigError(f"{reader.where}: no layer has attention; a nemotron_h model needs one at least")
    return str(letters)


def _read_mamba(reader: Reader) -> dict[str, Any]:
    reader.expect("mamba_hidden_act", "silu", "swish", None)
    reader.expect("mamba_proj_bias", False, None)
    mixer = {name: reader.get(key, *older, default=usual) for key, (name, older, usual) in _MAMBA.items()}
    low, high = step_limits(reader)
    reader.used.discard("time_step_limit")  # kept as it is: time_step_min decides
    if low not in (0.0, mixer["step_low"]) or high is not None:
        raise ConfigError(
            f"{reader.where}: 'time_step_limit' is {reader.data['time_step_limit']!r:.60}; time steps are "
            "limited below by time_step_min here, and not above"
        )
    return {"kind": "mamba2"} | mixer


def _read_activation(reader: Reader) -> dict[str, Any]:
    activation = reader.get("mlp_hidden_act", default="relu2")
    if activation not in ("relu2", "silu"):
        raise ConfigError(
            f"{reader.where}: 'mlp_hidden_act' is {activation!r:.40}; only 'relu2' or 'silu' is supported"
        )
    return {"activation": activation, "gated": False}


def _read_moe(reader: Reader) -> dict[str, Any]:
    reader.expect("n_shared_experts", 1, None)
    reader.expect("mlp_bias", False, None)
    router = selecting_router(reader, (1, 1), True)
    router["scale"] = reader.get("routed_scaling_factor", default=1.0)
    return read_moe(
        reader,
        reader.get("moe_intermediate_size", default=7688),
        ("n_routed_experts", "num_local_experts", "num_experts"),
        router,
        {"bias_rate": reader.get("router_bias_rate", default=0.0)},
        shared_width=reader.get("moe_shared_expert_intermediate_size", default=7688),
        latent_width=reader.get("moe_latent_size", default=None),
        **_read_activation(reader),
    )


def _read(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(
        {"head_dim": 128, "num_key_value_heads": 8, "max_position_embeddings": 4096} | dict(data), where
    )
    for name in ("attention_bias", "residual_in_fp32", "tie_word_embeddings"):
        reader.expect(name, False, None)
    letters = _read_kinds(reader)
    blocks: dict[str, dict[str, Any]] = {"*": {"attention": read_attention(reader, rope=None), "ffn": None}}
    if "M" in letters:
        blocks["M"] = {"attention": _read_mamba(reader), "ffn": None}
    if "-" in letters:
        width = reader.get("intermediate_size", default=21504)
        ffn = {"kind": "dense", "width": width, "bias": reader.flag("mlp_bias", False)}
        blocks["-"] = {"attention": None, "ffn": ffn | _read_activation(reader)}
    if "E" in letters:
        blocks["E"] = {"attention": None, "ffn": _read_moe(reader)}
    reader.used |= {"hidden_act"}
    eps = reader.get("layer_norm_epsilon", default=1e-5)
    listed = [blocks[letter] for letter in letters]
    return read_model(reader, listed, eps, False, norm_eps=eps, norm_rounding="after_weight")


def _letter(block: BlockConfig) -> str:
    if block.attention is None:
        return "-" if isinstance(block.ffn, FeedForwardConfig) else "E"
    return "M" if isinstance(block.attention, Mamba2Config) else "*"


def _write(config: ModelConfig) -> dict[str, Any]:
    letters = "".join(_letter(block) for block in config.blocks)
    attentions = [grouped_query(config, block) for block in config.blocks if _letter(block) == "*"]
    if not attentions:
        raise ConfigError("a nemotron_h model needs a layer of attention at least")
    data = write_model(config, attentions[0])
    for name in ("rms_norm_eps", "hidden_act"):
        del data[name]
    data |= {"hybrid_override_pattern": letters, "layer_norm_epsilon": config.norm_eps}
    data |= {"attention_bias": False, "residual_in_fp32": False}
    mixers = (block.attention for block in config.blocks)
    mamba = next((one for one in mixers if isinstance(one, Mamba2Config)), None)
    if mamba is not None:
        data |= {key: getattr(mamba, name) for key, (name, *_) in _MAMBA.items()}
        data |= {"mamba_hidden_act": "silu", "mamba_proj_bias": False}
    dense, moe = first_ffns(config)
    if dense is not None:
        data |= {"intermediate_size": dense.width, "mlp_bias": dense.bias, "mlp_hidden_act": dense.activation}
    if moe is None:
        return data
    router = moe.router
    data |= {
        "mlp_hidden_act": moe.activation,
        "mlp_bias": False,
        "n_routed_experts": router.num_experts,
        "num_experts_per_tok": router.top_k,
        "moe_intermediate_size": moe.expert_width,
        "moe_shared_expert_intermediate_size": moe.shared_width,
        "n_shared_experts": 1,
        "moe_latent_size": moe.latent_width,
        "norm_topk_prob": router.renormalize,
        "routed_scaling_factor": router.scale,
        "n_group": router.num_groups,
        "topk_group": router.top_groups,
    }
    own = {"router_aux_loss_coef": moe.balance.loss_coef, "router_bias_rate": moe.balance.bias_rate}
    return data | {key: value for key, value in own.items() if value}


_NAMES = RoutedNames("mixer")
_LAYER = LAYER | {
    "model": "backbone",
    "embed": "embeddings",
    "attention_norm": "norm",
    "ffn_norm": "norm",
    "norm": "norm_f",
    "mamba2": "mixer",
    **{f"attention.{part}": f"mixer.{part}_proj" for part in "qkvo"},
}


def _slots(config: ModelConfig) -> list[Slot]:
    return moe_slots(config, _NAMES, _LAYER)


NEMOTRON_H = Family(
    "nemotron_h",
    "NemotronHForCausalLM",
    _read,
    _write,
    _slots,
    _KEYS | _MOE_KEYS | _MAMBA.keys(),
    ("mtp.",),
    "out-in",
    "nemotron_h",  # the same type with no experts
    upcycled=_ROUTER,
    shared="plain",
    predicting=("mtp.",),
    part_blocks=True,
    peft_refuses=("out_proj",),
    memory_names=(("model.", "backbone."),),
    examples="Nemotron-H 8B to 56B, Nemotron Nano 2, Nemotron 3 Nano and Super",
)
