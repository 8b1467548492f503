"""All families by `model_type`, and the conversion of their configs both ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import ConfigError, ModelConfig, suggest
from coterie.families.base import Family
from coterie.families.deepseek import DEEPSEEK_V2, DEEPSEEK_V3
from coterie.families.deepseek_v32 import DEEPSEEK_V32, GLM_MOE_DSA
from coterie.families.dots1 import DOTS1
from coterie.families.ernie4_5 import ERNIE4_5, ERNIE4_5_MOE
from coterie.families.gemma import GEMMA2, GEMMA3, GEMMA3_TEXT
from coterie.families.gemma4 import GEMMA4, GEMMA4_TEXT, GEMMA4_UNIFIED, GEMMA4_UNIFIED_TEXT
from coterie.families.glm4 import GLM, GLM4
from coterie.families.glm4_moe import GLM4_MOE
from coterie.families.glm4_moe_lite import GLM4_MOE_LITE
from coterie.families.gpt_oss import GPT_OSS
from coterie.families.granite import GRANITE, GRANITEMOE, GRANITEMOEHYBRID, GRANITEMOESHARED
from coterie.families.hunyuan_v1 import HUNYUAN_V1_DENSE, HUNYUAN_V1_MOE
from coterie.families.hy_v3 import HY_V3
from coterie.families.kimi import KIMI_K2, KIMI_K25
from coterie.families.lfm2 import LFM2, LFM2_MOE
from coterie.families.llama import LLAMA
from coterie.families.llama4 import LLAMA4, LLAMA4_TEXT
from coterie.families.minimax_m2 import MINIMAX_M2
from coterie.families.ministral3 import MINISTRAL3
from coterie.families.mistral import MISTRAL, MISTRAL3
from coterie.families.mistral4 import MISTRAL4
from coterie.families.mixtral import MIXTRAL
from coterie.families.muse_glimmer import MUSE_GLIMMER, MUSE_GLIMMER_TEXT
from coterie.families.nemotron_h import NEMOTRON_H
from coterie.families.olmo import FLEX_OLMO, OLMO2, OLMO3
from coterie.families.phi3 import PHI3
from coterie.families.qwen2 import QWEN2
from coterie.families.qwen2_moe import QWEN2_MOE
from coterie.families.qwen3 import OLMOE, QWEN3, QWEN3_MOE
from coterie.families.qwen3_next import (
    QWEN3_5,
    QWEN3_5_MOE,
    QWEN3_5_MOE_TEXT,
    QWEN3_5_TEXT,
    QWEN3_NEXT,
)
from coterie.families.seed_oss import SEED_OSS
from coterie.families.smollm3 import SMOLLM3
from coterie.families.unsupported import UNSUPPORTED
from coterie.families.wrapper import text_alone, with_text_of

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        LLAMA,
        MISTRAL,
        MINISTRAL3,
        MISTRAL3,
        QWEN2,
        QWEN2_MOE,
        SMOLLM3,
        SEED_OSS,
        PHI3,
        GLM,
        GLM4,
        GEMMA2,
        GEMMA3_TEXT,
        GEMMA3,
        GEMMA4_TEXT,
        GEMMA4,
        GEMMA4_UNIFIED_TEXT,
        GEMMA4_UNIFIED,
        MUSE_GLIMMER_TEXT,
        MUSE_GLIMMER,
        ERNIE4_5,
        ERNIE4_5_MOE,
        QWEN3,
        QWEN3_MOE,
        MIXTRAL,
        OLMOE,
        LLAMA4,
        LLAMA4_TEXT,
        DEEPSEEK_V2,
        DEEPSEEK_V3,
        DEEPSEEK_V32,
        GLM_MOE_DSA,
        MISTRAL4,
        KIMI_K2,
        KIMI_K25,
        GLM4_MOE,
        GLM4_MOE_LITE,
        MINIMAX_M2,
        GRANITE,
        GRANITEMOE,
        GRANITEMOESHARED,
        GRANITEMOEHYBRID,
        NEMOTRON_H,
        OLMO2,
        OLMO3,
        FLEX_OLMO,
        HUNYUAN_V1_DENSE,
        HUNYUAN_V1_MOE,
        DOTS1,
        HY_V3,
        GPT_OSS,
        LFM2,
        LFM2_MOE,
        QWEN3_NEXT,
        QWEN3_5_TEXT,
        QWEN3_5_MOE_TEXT,
        QWEN3_5,
        QWEN3_5_MOE,
    )
}


_SPELLING = 0.88  # one letter of five; published types that are closer to another one are in UNSUPPORTED


def family(model_type: str, where: str = "model") -> Family:
    """The family of a `model_type`; `ConfigError` says what an unsupported one needs, or names the known."""
    if model_type not in FAMILIES:
        needs = UNSUPPORTED.get(model_type.removesuffix("_text"))
        if needs is not None:
            raise ConfigError(
                f"{where}: model_type '{model_type}' is not supported: it needs {needs}; docs/families.md "
                "lists what is"
            )
        hint = suggest(model_type, FAMILIES, _SPELLING) or f"; known: {', '.join(sorted(FAMILIES))}"
        raise ConfigError(f"{where}: model_type '{model_type[:60]}' is not supported{hint}")
    return FAMILIES[model_type]


def routed_form(model_type: str) -> str | None:
    """The family with experts whose dense counterpart is `model_type`; None where there is none."""
    return next((name for name, chosen in FAMILIES.items() if model_type in dense_forms(name)), None)


def dense_forms(model_type: str) -> tuple[str, ...]:
    """The dense counterparts of a family with experts, the one to prefer first."""
    chosen = family(model_type)
    return (*((chosen.dense,) if chosen.dense is not None else ()), *chosen.also_dense)


def retyped(config: ModelConfig, model_type: str) -> ModelConfig:
    """The config under the type of its routed or dense counterpart.

    The keys of its origin that hold there stay: the ids of special tokens and, for a model around a text
    model, what describes the other parts.
    """
    target = family(model_type)
    if not target.texts:
        kept = {key: value for key, value in config.extra.items() if key in _TOKEN_KEYS}
        return config.model_copy(update={"family": model_type, "extra": kept})
    inner = text_alone(config).family
    counterparts = {*dense_forms(inner), routed_form(inner)}
    return with_text_of(config, model_type, next(name for name in target.texts if name in counterparts))


def unwrapped(config: ModelConfig) -> ModelConfig:
    """The text model alone, under its own family; the config itself where nothing is around it."""
    return text_alone(config) if family(config.family).texts else config


def float32_parameters(config: ModelConfig) -> frozenset[str]:
    """Our names of the parameters that are float32 in a model and in files of any type."""
    return frozenset(slot.name for slot in family(config.family).slots(config) if slot.float32)


_TOKEN_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")
_QUANTISATION = ("quantization_config", "compression_config")


def quantisation_of(data: Mapping[str, Any]) -> Any:
    """The `quantization_config` of a config.json, in `text_config` where the whole has none."""
    text = data.get("text_config")
    inner = text.get("quantization_config") if isinstance(text, Mapping) else None
    return data.get("quantization_config") or inner


def config_from_hf(data: Mapping[str, Any], where: str = "config.json", strict: bool = False) -> ModelConfig:
    """`ModelConfig` from Hugging Face keys.

    Unknown keys are kept in `extra` for the round trip; with `strict`, for models described by hand, they are
    errors.
    Errors: `ConfigError`, one line, naming the key.
    """
    model_type = data.get("model_type")
    if not isinstance(model_type, str):
        raise ConfigError(f"{where}: 'model_type' is missing; known: {', '.join(sorted(FAMILIES))}")
    chosen = family(model_type, where)
    if strict:
        for key in data:
            if key not in chosen.keys:
                hint = suggest(key, chosen.keys) or f"; {model_type} takes: {', '.join(sorted(chosen.keys))}"
                raise ConfigError(f"{where}: unknown key '{key}'{hint}")
    # These keys describe the weights on disk; the model that is built is never quantised by it.
    data = {key: value for key, value in data.items() if key not in _QUANTISATION}
    try:
        return chosen.read(data, where)
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        # Readers calculate with values before ModelConfig checks their types.
        raise ConfigError(
            f"{where}: a value of this {model_type} config cannot be used ({str(error)[:200]})"
        ) from None


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """`config.json` of the model, unknown keys of its origin included.

    Errors: `ConfigError` when the family's published form cannot carry the model (reading it back gives
    another one).
    """
    chosen = family(config.family)
    wrong = next((i for i, block in enumerate(config.blocks) if block.is_whole == chosen.part_blocks), None)
    if wrong is not None:
        has = "both a mixer and a feed-forward" if chosen.part_blocks else "a mixer or a feed-forward alone"
        raise ConfigError(f"a {config.family} checkpoint cannot carry this model: layer {wrong} has {has}")
    data = config.extra | {"architectures": [chosen.architecture], "model_type": chosen.model_type}
    data |= chosen.write(config)
    back = chosen.read(data, "config.json")
    if back.model_copy(update={"extra": {}}) != config.model_copy(update={"extra": {}}):
        field = first_difference(config.to_dict(), back.to_dict())
        raise ConfigError(
            f"a {config.family} checkpoint cannot carry this model: '{field}' would be lost on reading back"
        )
    return data


def first_difference(ours: Any, back: Any, path: str = "") -> str:
    """Dotted path of the first setting in which two configs (`to_dict`) differ, without `extra`; else ""."""
    if isinstance(ours, dict) and isinstance(back, dict):
        for key in ours:
            if key != "extra" and ours[key] != back.get(key):
                return first_difference(ours[key], back.get(key), f"{path}.{key}".lstrip("."))
    if isinstance(ours, list) and isinstance(back, list) and len(ours) == len(back):
        for index, (a, b) in enumerate(zip(ours, back, strict=True)):
            if a != b:
                return first_difference(a, b, f"{path}.{index}")
    return path
