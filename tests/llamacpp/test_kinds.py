"""Keys of sliding layers apart from full ones, and what llama.cpp's graph lacks for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from coterie.config import ModelConfig
from coterie.families import config_from_hf
from coterie.llamacpp.kinds import keys_by_kind, lacking, rotation_factors
from tests.families.hf import _BASE, CONFIGS
from tests.gguf.models import KINDS


def config_of(kind: str, **changes: Any) -> ModelConfig:
    name, fixed, _ = KINDS[kind]
    return config_from_hf(_BASE | CONFIGS[name] | fixed | {"vocab_size_per_layer_input": 97} | changes)


def test_keys_of_both_kinds_of_layer() -> None:
    keys = keys_by_kind(config_of("gemma4"))
    assert keys["attention.shared_kv_layers"] == 3 and keys["embedding_length_per_layer_input"] == 12
    assert keys["feed_forward_length"] == [40, 40, 40, 40, 80, 80, 80]
    assert (keys["attention.key_length"], keys["attention.key_length_swa"]) == (16, 8)
    assert keys["rope.freq_base_swa"] == 50.0 and keys["final_logit_softcapping"] == 2.5
    assert keys_by_kind(config_of("gemma4_keys_as_values"))["attention.head_count_kv"] == [2, 2, 2, 2, 2, 1]
    assert rotation_factors(config_of("gemma4")).tolist() == [1.0] * 4 + [np.float32(1e30)] * 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attention_bias": True}, "has no biases in the attention"),
        (
            {"layer_types": CONFIGS["gemma4_text"]["layer_types"]},
            "takes shared keys of the last layers before",
        ),
        (
            {
                "rope_parameters": {
                    "sliding_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.5}
                }
            },
            "rotates whole heads of sliding layers",
        ),
    ],
)
def test_what_llama_cpp_lacks(changes: dict[str, Any], words: str) -> None:
    assert any(words in line for line in lacking(config_of("gemma4", **changes)))
    assert not list(lacking(config_of("gemma4")))
