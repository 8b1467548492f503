"""Tiny models that llama.cpp can run, one of each kind, as checkpoint directories with a tokenizer."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from coterie.checkpoints.directory import save_model
from coterie.families import config_from_hf
from coterie.gguf.export import export_gguf
from coterie.nn.transformer import Transformer
from coterie.text.tokenizer import Tokenizer
from tests.families.hf import _BASE, randomise, tiny
from tests.families.hf_sandwich import MISTRAL4
from tests.gguf.hybrids import HYBRIDS

VOCAB = 320
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 256,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
}
_MINISTRAL = YARN | {"original_max_position_embeddings": 16, "llama_4_scaling_beta": 0.7}
_PUBLISHED_GAINS = {"mscale": 1.0, "mscale_all_dim": 1.0}
_SINGLE = {"num_local_experts": 4, "num_experts_per_tok": 2}
_TWO = ["sliding_attention", "full_attention"]
_LLAMA4 = {"attention_chunk_size": 8192, "floor_scale": 8192, "attn_scale": 0.1}
# Test name -> model of tests/families/hf.py, what is changed so that llama.cpp has it, its architecture
# there.
KINDS: dict[str, tuple[str, dict[str, Any], str]] = {
    "llama": ("llama", {"intermediate_size": 64}, "llama"),
    "llama_tied_bias": ("llama_tied_bias", {"head_dim": 16}, "llama"),
    "llama_yarn": ("llama_yarn", {"rope_parameters": YARN | {"attention_factor": 1.4}}, "llama"),
    "llama_linear": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 900.0, "factor": 3.0}},
        "llama",
    ),
    "qwen3": ("qwen3", {"rope_parameters": YARN | {"mscale": 1.3, "mscale_all_dim": 0.6}}, "qwen3"),
    "qwen3_moe": ("qwen3_moe", {"mlp_only_layers": [], "moe_intermediate_size": 32}, "qwen3moe"),
    "mixtral": ("mixtral", {"sliding_window": None, "intermediate_size": 32}, "llama"),
    "olmoe": ("olmoe", {"clip_qkv": None, "intermediate_size": 32}, "olmoe"),
    "deepseek_v3": (
        "deepseek_v3",
        {"rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}, "rms_norm_eps": 1e-6},
        "deepseek2",
    ),
    "deepseek_v3_plain_yarn": (
        "deepseek_v3",
        {"rope_parameters": YARN, "n_group": 1, "topk_group": 1},
        "deepseek2",
    ),
    "deepseek_v3_half": ("deepseek_v3_half_full_query", {}, "deepseek2"),
    "deepseek_v2": (
        "deepseek_v2_lite",
        {"rope_parameters": YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}},
        "deepseek2",
    ),
    "gpt_oss": (
        "gpt_oss",
        {
            "swiglu_limit": 7.0,
            "intermediate_size": 32,
            "hidden_size": 64,
            "rope_parameters": YARN,
            "max_position_embeddings": 2048,
        },
        "gpt-oss",
    ),
    "gpt_oss_pattern": (
        "gpt_oss_no_bias",
        {"swiglu_alpha": 1.702, "attention_bias": True, "intermediate_size": 32, "num_experts_per_tok": 2}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 700.0}},
        "gpt-oss",
    ),
    "mistral": ("mistral_full", {"head_dim": 12, "rope_parameters": YARN, "rms_norm_eps": 1e-5}, "llama"),
    "qwen2": ("qwen2", {"rope_parameters": YARN}, "qwen2"),
    "qwen2_tied": ("qwen2_tied", {}, "qwen2"),
    "smollm3": (
        "smollm3",
        {"no_rope_layers": [1, 1, 1, 0], "attention_bias": False, "mlp_bias": False, "rope_parameters": YARN},
        "smollm3",
    ),
    "seed_oss": ("seed_oss", {}, "seed_oss"),
    "ernie4_5": ("ernie4_5", {"use_bias": False, "intermediate_size": 32}, "ernie4_5"),
    "ernie4_5_moe": ("ernie4_5_moe", {}, "ernie4_5-moe"),
    "ernie4_5_moe_no_shared": ("ernie4_5_moe", {"moe_num_shared_experts": 0, "head_dim": 12}, "ernie4_5-moe"),
    "dots1": ("dots1", {"num_key_value_heads": 4, "n_group": 3, "topk_group": 2}, "dots1"),
    "glm4_moe_lite": (
        "glm4_moe_lite",
        {"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"], "rms_norm_eps": 1e-6},
        "deepseek2",
    ),
    "qwen2_moe": ("qwen2_moe", {"mlp_only_layers": []}, "qwen2moe"),
    "glm4_moe": ("glm4_moe", {"n_group": 1, "topk_group": 1}, "glm4moe"),
    "glm4_moe_air": ("glm4_moe_air", {"n_group": 1, "topk_group": 1, "rope_parameters": YARN}, "glm4moe"),
    "minimax_m2": ("minimax_m2", {}, "minimax-m2"),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 12}, "gemma2"),
    "gemma3": (
        "gemma3_text",
        {
            "query_pre_attn_scalar": 12,
            "num_hidden_layers": 7,
            "layer_types": ["sliding_attention"] * 5 + ["full_attention", "sliding_attention"],
        },
        "gemma3",
    ),
    "phi3": ("phi3", {"sliding_window": 300}, "phi3"),
    "phi3_long": ("phi3_longrope", {"max_position_embeddings": 128}, "phi3"),
    "phi3_short": (
        "phi3_longrope",
        {
            "original_max_position_embeddings": 300,
            "max_position_embeddings": 900,
            "tie_word_embeddings": False,
        },
        "phi3",
    ),
    "glm": ("glm", {"head_dim": 8}, "chatglm"),
    "glm4": ("glm4", {"head_dim": 12, "rope_parameters": YARN | {"partial_rotary_factor": 0.5}}, "glm4"),
    "glm4_no_bias": ("glm4_no_bias", {}, "glm4"),
    "granite": ("granite", {"head_dim": 12, "rope_parameters": YARN}, "granite"),
    "granite_tied_bias": ("granite_tied_bias", {"attention_multiplier": 0.015625}, "granite"),
    "granitemoe": ("granitemoe", {"logits_scaling": 6.0}, "granitemoe"),
    "granitemoeshared": ("granitemoeshared", {}, "granitemoe"),
    "ministral3": (
        "ministral3",
        {"sliding_window": None, "rope_parameters": _MINISTRAL | _PUBLISHED_GAINS},
        "mistral3",
    ),
    "ministral3_gains": (
        "ministral3",
        {"sliding_window": None, "rope_parameters": _MINISTRAL | {"mscale": 1.0, "mscale_all_dim": 0.6}},
        "mistral3",
    ),
    "ministral3_own_gain": (
        "ministral3",
        {"sliding_window": None, "rope_parameters": _MINISTRAL | {"attention_factor": 1.3}},
        "mistral3",
    ),
    "ministral3_tied": ("ministral3_tied", {}, "mistral3"),
    "mistral4": ("mistral4", {"rope_parameters": _MINISTRAL | _PUBLISHED_GAINS}, "mistral4"),
    "mistral4_gains": (
        "mistral4",
        {"rope_parameters": _MINISTRAL | {"mscale": 0.7, "mscale_all_dim": 1.2}, "norm_topk_prob": False}
        | {"q_lora_rank": None, "n_group": 1, "topk_group": 1},
        "mistral4",
    ),
    "deepseek_v32": (
        "deepseek_v32",
        {"rope_parameters": YARN | _PUBLISHED_GAINS, "rms_norm_eps": 1e-6, "index_head_dim": 64}
        | {"index_topk": 256},
        "deepseek32",
    ),
    "glm_moe_dsa": (
        "glm_moe_dsa",
        {"rms_norm_eps": 1e-6, "index_head_dim": 64, "mlp_layer_types": ["dense"] + ["sparse"] * 3}
        | {"index_topk": 256, "max_position_embeddings": 900},
        "glm-dsa",
    ),
    "olmo2": ("olmo2", {"attention_bias": False, "rope_parameters": YARN}, "olmo2"),
    "olmo3": (
        "olmo3",
        {
            "rope_parameters": {
                "full_attention": YARN,
                "sliding_attention": {"rope_type": "default", "rope_theta": YARN["rope_theta"]},
            }
        },
        "olmo2",
    ),
    "olmo3_pattern": (
        "olmo3",
        {
            "rope_parameters": {
                kind: {"rope_type": "default", "rope_theta": 60.0}
                for kind in ("full_attention", "sliding_attention")
            },
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
        },
        "olmo2",
    ),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", {}, "hunyuan-dense"),
    "hunyuan_v1_moe": ("hunyuan_v1_moe", {"moe_topk": 3, "attention_bias": False}, "hunyuan-moe"),
    "gemma4": (
        "gemma4_text",
        {"vocab_size_per_layer_input": VOCAB, "layer_types": [*_TWO, *_TWO, *_TWO, _TWO[1]]},
        "gemma4",
    ),
    "gemma4_keys_as_values": (
        "gemma4_text_keys_as_values",
        {"attention_bias": False, "rms_norm_eps": 1e-3},
        "gemma4",
    ),
    "gemma4_moe": ("gemma4_text_moe", {}, "gemma4"),
    "llama4_scout": ("llama4_scout", _LLAMA4, "llama4"),
    "llama4_dense_layers": ("llama4_maverick", _LLAMA4 | _SINGLE | {"use_qk_norm": True}, "llama4"),
    **HYBRIDS,
}


@cache
def tokenizer() -> Tokenizer:
    """A byte-level tokenizer of exactly `VOCAB` tokens, as `Tokenizer.train` makes them for every new
    model.
    """
    words = "the quick brown fox jumps over lazy dogs; they'll count 1234 steps, won't they? "
    words += "Grüße, 你好!\n\n  if x > 1:\n"
    result = Tokenizer.train([words * 20], VOCAB)
    assert result.vocab_size == VOCAB
    return result


def describe(directory: Path, vocab_size: int) -> Path:
    """Put a small model's config.json next to a tokenizer."""
    model = tiny("llama", vocab_size=vocab_size)
    (directory / "config.json").write_text(model.config.to_json_string())
    return directory


@cache
def _folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="coterie-gguf-")  # removed with the process


@cache
def _written(kind: str) -> Path:
    return _write(kind, Path(_folder().name) / kind / "m", 0)


@cache
def exported(kind: str) -> tuple[Path, Path]:
    """The directory of a kind and its file in float32, made once in a process; both stay as they are."""
    directory = _written(kind)
    export_gguf(directory, directory.parent / "m.gguf", "f32")
    return directory, directory.parent / "m.gguf"


def write(kind: str, directory: Path, seed: int = 0, **changes: Any) -> Path:
    """The checkpoint `directory` of a kind, every parameter random."""
    if seed or changes:
        return _write(kind, directory, seed, **changes)
    shutil.copytree(_written(kind), directory, dirs_exist_ok=True)
    return directory


def _write(kind: str, directory: Path, seed: int, **changes: Any) -> Path:
    name, fixed, _ = KINDS[kind]
    if name == "mistral4":  # transformers has it inside of another model only
        data = _BASE | {"vocab_size": VOCAB} | MISTRAL4 | fixed | changes
        model = Transformer(config_from_hf(data))
        randomise(model, seed)
        save_model(directory, model, tokenizer(), dtype=torch.float32)
        return directory
    model = tiny(name, seed, **({"vocab_size": VOCAB} | fixed | changes))
    model.save_pretrained(directory)
    tokenizer().save(directory)
    return directory
