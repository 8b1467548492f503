"""What `config.json` says twice and differently, one line each: which place decides, and which is ignored.

Contradictions that change the model and have no winner are errors of the readers; these lines are about the
others, which transformers resolves without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.families.registry import family
from coterie.families.rope import rope_settings
from coterie.families.wrapper import text_settings

# Names that other families or tools give to one setting. A config's own family reads one or more of them.
_SPELLINGS = (
    ("hidden_act", "hidden_activation", "activation_function"),
    ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_topk", "top_k_experts", "moe_k"),
    ("norm_topk_prob", "moe_renormalize", "route_norm"),
    ("router_aux_loss_coef", "aux_loss_alpha"),
    ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps"),
    ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "multi_query_group_num"),
    ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    ("hidden_size", "n_embd", "d_model", "dim"),
    ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"),
    ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "n_ctx"),
    ("tie_word_embeddings", "tie_embeddings", "share_input_output_embed", "tie_lm_head"),
    ("sliding_window", "window_size", "attention_window_size"),
    ("head_dim", "attention_head_dim", "kv_channels"),
    ("dtype", "torch_dtype"),
    ("rope_theta", "rotary_emb_base", "rope_base", "rotary_base"),
)
# The last two give images angles of height and width, which for text are those of the position.
_TEMPERATURE = {"llama_4_scaling_beta", "original_max_position_embeddings"}  # of queries, in the same place
_DEFAULT_KEYS = {
    "rope_theta", "rope_type", "type", "partial_rotary_factor", "mrope_section", "mrope_interleaved",
}  # fmt: skip


def contradictions(data: Mapping[str, Any], where: str = "config.json") -> list[str]:
    """The contradictions of a config that its family can read. Errors: `ConfigError` for one it cannot."""
    chosen = family(str(data.get("model_type")), where)
    text = data.get("text_config")
    lines = _architecture(data, chosen.architecture)
    if isinstance(text, Mapping) and chosen.texts:
        inner = text_settings(data, chosen.texts, where)
        lines += [f"text_config: {line}" for line in [*_rope(inner, where), *_spellings(inner)]]
        return [*lines, *_outside(data, text, inner["model_type"])]
    return [*lines, *_rope(data, where), *_spellings(data), *_inside(data, text)]


def _architecture(data: Mapping[str, Any], wanted: str) -> list[str]:
    named = data.get("architectures")
    first = named[0] if isinstance(named, list) and named else named
    stem = wanted.removesuffix("ForCausalLM").removesuffix("ForConditionalGeneration").replace("_", "")
    if not isinstance(first, str):
        return []
    plain = first.replace("_", "")  # which releases and transformers use in different places
    if plain.startswith(stem) and plain.removeprefix(stem)[:3] in ("For", "Mod", ""):
        return []
    return [f"model_type '{data['model_type']}' decides; architectures names {first!r}, which is ignored"]


def _rope(data: Mapping[str, Any], where: str) -> list[str]:
    scaling, parameters, theta = (data.get(k) for k in ("rope_scaling", "rope_parameters", "rope_theta"))
    if isinstance(parameters, Mapping) and any(isinstance(value, Mapping) for value in parameters.values()):
        return _layer_ropes(parameters, theta)
    used = rope_settings(data, where)
    lines = []
    if scaling and isinstance(parameters, Mapping):
        shared = {"partial_rotary_factor": data.get("partial_rotary_factor")}
        other = shared | {"rope_theta": used.get("rope_theta", theta)} | _plain(parameters)
        mine = shared | {"rope_theta": other["rope_theta"]} | _plain(used)
        different = sorted(key for key in mine.keys() | other.keys() if mine.get(key) != other.get(key))
        if different:
            lines.append(
                f"rope_scaling decides; rope_parameters differs from it in {', '.join(different)} and is "
                f"ignored"
            )
    for key in ("rope_theta", "partial_rotary_factor"):
        inside, outside = used.get(key), data.get(key)
        if None not in (inside, outside) and inside != outside:
            lines.append(f"{key} {outside} is ignored; the rope settings say {inside}")
    kinds = [used.get(key) for key in ("rope_type", "type")]
    if None not in kinds and kinds[0] != kinds[1]:
        lines.append(f"rope_type '{kinds[0]}' decides; type '{kinds[1]}' is ignored")
    idle = set(used) - _DEFAULT_KEYS - (_TEMPERATURE if used.keys() >= _TEMPERATURE else set())
    if (kinds[0] or kinds[1] or "default") == "default" and idle:
        lines.append(f"rope settings name no rope_type, so {', '.join(sorted(idle))} is ignored")
    return lines


def _layer_ropes(parameters: Mapping[str, Any], theta: Any) -> list[str]:
    """The same for settings per layer type: a theta outside of them that none of them has."""
    inside = [
        part["rope_theta"]
        for part in parameters.values()
        if isinstance(part, Mapping) and "rope_theta" in part
    ]
    if theta is None or not inside or theta in inside:
        return []
    return [f"rope_theta {theta} is ignored; the rope settings of the layer types say {inside[0]}"]


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without nulls, under the new name of the type."""
    plain = {key: value for key, value in parameters.items() if value is not None and key != "type"}
    return {"rope_type": parameters.get("rope_type") or parameters.get("type") or "default"} | plain


def _spellings(data: Mapping[str, Any]) -> list[str]:
    keys = family(str(data["model_type"])).keys | {"dtype"}
    lines = []
    for names in _SPELLINGS:
        given = {name: data[name] for name in names if data.get(name) is not None}
        read = next((name for name in given if name in keys), None)
        for other, value in given.items():
            if read is not None and other not in keys and value != given[read]:
                lines.append(f"'{read}' {given[read]!r} decides; '{other}' {value!r} is ignored")
    return lines


def _outside(data: Mapping[str, Any], text: Mapping[str, Any], model_type: str) -> list[str]:
    """Settings of the text model that are repeated outside of it with another value."""
    keys = (family(model_type).keys & data.keys() & text.keys()) - {"model_type"}
    different = [key for key in sorted(keys) if data[key] != text[key]]
    return [
        f"'{key}' {data[key]!r} outside of text_config decides; the one in it is ignored"
        if key == "tie_word_embeddings"
        else f"text_config decides; '{key}' outside of it is ignored"
        for key in different
    ]


def _inside(data: Mapping[str, Any], text: Any) -> list[str]:
    """Settings in a `text_config` that the family does not read, where the config says something else."""
    if not isinstance(text, Mapping):
        return [] if text is None else ["text_config is ignored: it is not an object"]
    keys = family(str(data["model_type"])).keys - {"model_type"}
    different = [key for key in sorted(keys & text.keys()) if text[key] is not None]
    return [f"text_config: '{key}' is ignored" for key in different if text[key] != data.get(key)]
