"""config.json of Gemma 4 from a GGUF file, which has keys for sliding layers apart from full ones."""

from __future__ import annotations

import math
from typing import Any

from coterie.checkpoints.gguf_model.decoder import NAMES, Hf, common
from coterie.checkpoints.gguf_model.keys import GgufKeys
from coterie.config import CheckpointError
from coterie.llamacpp.key_tables import GROUPED_KEYS, ROPE_FACTORS

_USUAL_CAP = 30.0  # what llama.cpp takes where a file does not say; 0 is none
_TYPES = {True: "sliding_attention", False: "full_attention"}


def read_gemma4(file: GgufKeys) -> Hf:
    """config.json of the text model. Errors: `CheckpointError` for what its layers cannot have here."""
    data: Hf = {"model_type": "gemma4_text"} | common(file, GROUPED_KEYS[:1], NAMES)
    del data["hidden_act"]
    layers = file.layers
    sliding = [bool(one) for one in file.per_layer("attention.sliding_window_pattern", layers)]
    shared = file.count("attention.shared_kv_layers", 0)
    full_dim, slide_dim = (file.count(f"attention.key_length{kind}") for kind in ("", "_swa"))
    for kind, width in (("", full_dim), ("_swa", slide_dim)):
        file.expect(f"attention.value_length{kind}", width)
        file.expect(f"rope.dimension_count{kind}", width)
    heads = file.per_layer("attention.head_count_kv", layers)
    own = {"head_dim": full_dim, "num_key_value_heads": _same(file, heads, sliding, False)}
    inputs = file.count("embedding_length_per_layer_input", 0)
    return (
        data
        | {
            "hidden_activation": "gelu_pytorch_tanh",
            "head_dim": slide_dim,
            "num_key_value_heads": _same(file, heads, sliding, True),
            "global_head_dim": full_dim,
            "per_layer_config": {str(layer): own for layer in range(layers) if not sliding[layer]},
            "layer_types": [_TYPES[one] for one in sliding],
            "sliding_window": file.count("attention.sliding_window"),
            "num_kv_shared_layers": shared,
            "attention_k_eq_v": _keys_as_values(file, sliding[: layers - shared]),
            "hidden_size_per_layer_input": inputs,
            "vocab_size_per_layer_input": data["vocab_size"],
            "final_logit_softcapping": file.get("final_logit_softcapping", _USUAL_CAP) or None,
            "rope_parameters": _positions(file, full_dim),
        }
        | _feed_forward(file, layers, shared)
    )


def _feed_forward(file: GgufKeys, layers: int, shared: int) -> Hf:
    widths = file.per_layer("feed_forward_length", layers)
    first = widths[0]
    wide = shared > 0 and widths[-1] == 2 * first
    if widths != [first] * (layers - shared) + [widths[-1]] * shared or widths[-1] not in (first, 2 * first):
        raise file.unusable("feed_forward_length", widths, "one width, or twice it in layers that share keys")
    data = {"intermediate_size": first, "use_double_wide_mlp": wide, "enable_moe_block": False}
    count = file.count("expert_count", 0)
    used, width = file.count("expert_used_count", None), file.count("expert_feed_forward_length", None)
    if not count:
        return data
    file.expect("expert_gating_func", 1)
    file.expect("expert_weights_norm", True)
    file.expect("expert_weights_scale", 1.0)
    experts = {"num_experts": count, "top_k_experts": used, "moe_intermediate_size": width}
    return data | experts | {"enable_moe_block": True}


def _positions(file: GgufKeys, width: int) -> Hf:
    """`rope_parameters`: full layers rotate the first pairs of a head, those that are divided by 1."""
    file.expect("rope.scaling.type", "none")
    divisors = file.divisors(ROPE_FACTORS)
    turning = 0 if divisors is None else int((divisors == 1).sum())
    if divisors is None or not bool((divisors[:turning] == 1).all() and (divisors[turning:] >= 1e20).all()):
        raise CheckpointError(
            f"{file.where}: the tensor 'rope_freqs.weight' does not say which pairs of a head rotate; take "
            "another file of the model"
        )
    theta, local = (file.get(f"rope.freq_base{kind}", usual) for kind, usual in (("", 1e6), ("_swa", 1e4)))
    full: Hf = {"rope_type": "default", "rope_theta": theta}
    if 2 * turning != width:
        share = 2 * turning / width
        if int(share * width // 2) < turning:  # the quotient was rounded down
            share = math.nextafter(share, 1)
        full |= {"rope_type": "proportional", "partial_rotary_factor": share}
    return {"full_attention": full, "sliding_attention": {"rope_type": "default", "rope_theta": local}}


def _same(file: GgufKeys, heads: list[Any], sliding: list[bool], kind: bool) -> int:
    """The number of key heads of one kind of layer; of the other kind where there is no such layer."""
    found = {number for number, one in zip(heads, sliding, strict=True) if one == kind} or set(heads)
    if len(found) != 1:
        raise file.unusable("attention.head_count_kv", heads, "one number for each kind of layer")
    return int(found.pop())


def _keys_as_values(file: GgufKeys, sliding: list[bool]) -> bool:
    """Whether full layers have no matrix of values: their keys serve as values."""
    places = [f"blk.{layer}.attn_v.weight" for layer, one in enumerate(sliding) if not one]
    found = {place in file.shapes for place in places}
    if len(found) > 1:
        missing = next(place for place in places if place not in file.shapes)
        raise CheckpointError(f"{file.where}: the tensor '{missing}' is missing; other full layers have one")
    return found == {False}
