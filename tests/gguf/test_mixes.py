"""Which matrix gets which type in Q4_K_M and its neighbours, by hand and against llama.cpp's quantiser."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest

from coterie.checkpoints.gguf_file.tensors import GgufTensors
from coterie.gguf.blocks import choose
from coterie.gguf.export import export_gguf
from coterie.gguf.mixes import MIXES, MixFacts, mixed_type
from tests.checkpoints.gguf_file.test_third_party import pytestmark as needs_llama_cpp
from tests.gguf.models import write

_MIXED = [
    "llama",
    "mixtral",
    "llama_tied_bias",
    "qwen3_moe",
    "phi3",
    "glm4",
    "granitemoeshared",
    "olmo2",
    "mistral4",
    "lfm2_moe",
    "qwen3_5",
    "granite_hybrid",
    "nemotron_h",
    "nemotron_h_moe",
]
DENSE, EIGHT = MixFacts(32, 0, 4, False), MixFacts(32, 8, 4, True)


@pytest.mark.parametrize(
    ("name", "quant", "facts", "kind"),
    [
        ("blk.0.ffn_down.weight", "q4_k_m", DENSE, "Q6_K"),
        ("blk.4.ffn_down.weight", "q4_k_m", DENSE, "Q4_K"),
        ("blk.6.ffn_down_exps.weight", "q4_k_m", DENSE, "Q6_K"),
        ("blk.28.attn_v.weight", "q5_k_m", DENSE, "Q6_K"),
        ("blk.3.attn_v.weight", "q4_k_s", DENSE, "Q5_K"),
        ("blk.4.attn_v.weight", "q4_k_s", DENSE, "Q4_K"),
        ("blk.4.attn_q.weight", "q4_k_s", DENSE, "Q4_K"),
        ("blk.1.attn_qkv.weight", "q3_k_m", DENSE, "Q5_K"),
        ("blk.4.attn_qkv.weight", "q4_k_m", DENSE, "Q4_K"),
        ("blk.1.ffn_down.weight", "q3_k_m", DENSE, "Q5_K"),
        ("blk.2.ffn_down.weight", "q3_k_m", DENSE, "Q4_K"),
        ("blk.2.attn_output.weight", "q3_k_l", DENSE, "Q5_K"),
        ("blk.9.attn_v.weight", "q2_k", DENSE, "Q4_K"),
        ("blk.9.attn_k.weight", "q2_k", EIGHT, "Q8_0"),
        ("blk.9.attn_output.weight", "q4_k_m", EIGHT, "Q5_K"),
        ("output.weight", "q2_k", DENSE, "Q6_K"),
        ("token_embd.weight", "q4_k_m", DENSE, "Q4_K"),
        ("token_embd.weight", "q4_k_m", EIGHT, "Q6_K"),
    ],
)
def test_the_rules(name: str, quant: str, facts: MixFacts, kind: str) -> None:
    assert mixed_type(name, 512, quant, facts) == (kind, "")


def test_values_are_counted_apart_from_layers_without() -> None:
    facts = MixFacts(32, 0, 4, False, valued=(5, 11, 17))
    assert mixed_type("blk.11.attn_v.weight", 512, "q3_k_m", facts)[0] == "Q5_K"
    assert mixed_type("blk.17.attn_v.weight", 512, "q3_k_m", facts)[0] == "Q4_K"
    assert mixed_type("blk.17.ffn_down.weight", 512, "q3_k_m", facts)[0] == "Q4_K"


def test_feed_forwards_are_counted_apart_from_layers_without() -> None:
    facts = MixFacts(32, 0, 4, False, fed=(1, 10, 17))
    assert mixed_type("blk.10.ffn_down.weight", 512, "q4_k_m", facts)[0] == "Q6_K"
    assert mixed_type("blk.10.ffn_down.weight", 512, "q4_k_m", DENSE)[0] == "Q4_K"


def test_rows_that_fill_no_block() -> None:
    for quant, kind in (("q2_k", "Q4_0"), ("q4_k_m", "Q5_0"), ("q5_k_s", "Q5_1"), ("q6_k", "Q8_0")):
        found = mixed_type("blk.5.attn_q.weight", 96, quant, DENSE)
        assert found == (kind, "rows of 96 numbers do not fill blocks of 256")
    assert mixed_type("blk.5.attn_q.weight", 100, "q4_k_m", DENSE)[0] == "F16"
    assert choose("blk.0.ffn_gate_inp.weight", (8, 256), "q4_k_m", DENSE).type == "F32"


def sizes(directory: Path, kind: str = "llama") -> Path:
    small: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4}
    return write(kind, directory, **small)


def test_a_file_in_a_mix_is_written_and_read_back(tmp_path: Path) -> None:
    """The export compares every number with its bound, and packs again when it is verified."""
    receipt = export_gguf(sizes(tmp_path / "m"), tmp_path / "x.gguf", "q4_k_m")
    assert set(receipt.tensors) == {"F32", "Q4_K", "Q6_K"}
    assert receipt.errors["Q4_K"].relative_rms < 0.1 and receipt.errors["Q6_K"].relative_rms < 0.03
    assert GgufTensors.open(tmp_path / "x.gguf").keys["general.file_type"] == 15


class TestAgainstLlamaCpp:
    """The quantiser's own choices for the same model."""

    pytestmark = needs_llama_cpp

    @pytest.mark.parametrize("quant", MIXES)
    @pytest.mark.parametrize("kind", _MIXED)
    def test_the_same_type_for_every_tensor(self, quant: str, kind: str, tmp_path: Path) -> None:
        import llama_cpp

        directory = sizes(tmp_path / "m", kind)
        export_gguf(directory, tmp_path / "f32.gguf", "f32")
        export_gguf(directory, tmp_path / "own.gguf", quant)
        parameters = llama_cpp.llama_model_quantize_default_params()
        parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{quant.upper()}")
        parameters.nthread = 1
        done = llama_cpp.llama_model_quantize(
            str(tmp_path / "f32.gguf").encode(),
            str(tmp_path / "theirs.gguf").encode(),
            ctypes.byref(parameters),
        )
        assert done == 0
        own, theirs = (GgufTensors.open(tmp_path / f"{side}.gguf") for side in ("own", "theirs"))
        assert {name: own.type(name) for name in own} == {name: theirs.type(name) for name in theirs}
