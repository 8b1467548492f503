"""Models with layers that keep a state: their keys in llama.cpp, and which of them it cannot run."""

from __future__ import annotations

from typing import Any

from coterie.config import AttentionConfig, ModelConfig
from coterie.config.mixers import STATE_MIXERS, DeltaNetConfig, Mamba2Config, ShortConvConfig, StateMixer
from coterie.llamacpp.key_tables import Parts
from coterie.llamacpp.mixers import MixedLayers
from coterie.llamacpp.targets import Target

Keys = dict[str, Any]


def unfit_mixer(config: ModelConfig, target: Target) -> str | None:
    """What the architecture does otherwise than this model's layers with a state; None: nothing."""
    mixers = [block.attention for block in config.blocks if isinstance(block.attention, STATE_MIXERS)]
    if target.mixed is not None and not mixers:
        return "needs a layer that keeps a state (layer_types, hybrid_override_pattern)"
    for mixer in mixers:
        if target.mixed is None or mixer.kind != target.mixed.kind:
            return f"has no layer of this kind: {mixer.words}"
        found = _unfit(mixer, target.mixed, config.width)
        if found is not None:
            return found
    if target.mixed is not None and target.mixed.sections and not _covers(_sections(config), config):
        return "turns every angle by time, height or width in turn (mrope_section)"
    return None


def mixed_keys(config: ModelConfig, mixed: MixedLayers) -> Keys:
    """Keys that say which layers keep a state, and how the others see positions."""
    keys: Keys = {}
    attends = [isinstance(block.attention, AttentionConfig) for block in config.blocks]
    attention = config.attentions[0]
    assert isinstance(attention, AttentionConfig)
    if mixed.counted:
        keys["attention.head_count_kv"] = [attention.num_kv_heads if one else 0 for one in attends]
    else:
        every = attends.index(True) + 1
        if attends == [(index + 1) % every == 0 for index in range(len(attends))]:
            keys["full_attention_interval"] = every
        else:
            keys["attention.recurrent_layers"] = [not one for one in attends]
    mamba = _mamba(config)
    if mamba is not None and mixed.usual_step not in (None, mamba.step_low):
        keys["ssm.time_step_min"] = mamba.step_low  # of our own: llama.cpp does not read it
    if mixed.rope_switch:
        keys["rope.scaling.finetuned"] = attention.rope is not None
    if mixed.sections:
        keys["rope.dimension_sections"] = _sections(config)
    return keys


def mixer_differences(config: ModelConfig) -> tuple[str, ...]:
    """What llama.cpp computes differently in these layers."""
    mamba = _mamba(config)
    if mamba is not None and mamba.step_low > 0:
        return (
            f"llama.cpp takes Mamba's time steps as they are, the model none below {mamba.step_low:g} "
            "(time_step_min)",
        )
    if not any(isinstance(block.attention, DeltaNetConfig) for block in config.blocks):
        return ()
    return (
        "llama.cpp divides queries and keys of the delta rule by their length, the model by the root of "
        "its square plus 1e-6",
    )


def _mamba(config: ModelConfig) -> Mamba2Config | None:
    mixers = (block.attention for block in config.blocks)
    return next((one for one in mixers if isinstance(one, Mamba2Config)), None)


def _unfit(mixer: StateMixer, mixed: MixedLayers, width: int) -> str | None:
    if isinstance(mixer, ShortConvConfig):
        return "has no biases in its convolutions (conv_bias)" if mixer.bias else None
    if isinstance(mixer, DeltaNetConfig):
        if mixer.key_dim == mixer.value_dim:
            return None
        return "has one width for keys and values of the delta rule (linear_value_head_dim)"
    assert isinstance(mixer, Mamba2Config)
    if mixer.bias:
        return "has no biases on Mamba's projections (mamba_proj_bias, use_bias)"
    if not mixer.conv_bias:
        return "has a bias on Mamba's convolution (mamba_conv_bias, use_conv_bias)"
    if mixer.step_high is not None or (mixer.step_low and mixed.usual_step is None):
        return "does not limit Mamba's time steps (time_step_limit)"
    if not mixed.any_width and mixer.output_width != 2 * width:
        return "has Mamba layers twice as wide as the model (mamba_expand)"
    return None


def _sections(config: ModelConfig) -> list[int]:
    """How many pairs of a head turn by time, height and width; 0 by a fourth, which text does not have."""
    stated = config.extra.get("rope_parameters", {}).get("mrope_section")
    pairs = Parts.of(config).value("rope.rotated") // 2
    return [*(stated or [len(range(first, pairs, 3)) for first in range(3)]), 0][:4]


def _covers(sections: list[int], config: ModelConfig) -> bool:
    """Whether llama.cpp turns every pair by one of the first three, which are all the position for text."""
    pairs, total = Parts.of(config).value("rope.rotated") // 2, sum(sections)
    places = [index % total for index in range(pairs)] if total else []
    return bool(places) and all(place < 3 * sections[place % 3] for place in places)
