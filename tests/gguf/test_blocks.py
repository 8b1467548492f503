"""The number formats: values by hand, error bounds that hold and are not idle, and which tensor gets
which.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import gguf
from coterie.config import CheckpointError
from coterie.gguf.blocks import Choice, allowed_error, choose, pack, row_bytes
from coterie.gguf.export import export_gguf
from coterie.gguf.mixes import MixFacts
from tests.gguf.expected import unpack
from tests.gguf.models import write

FACTS = MixFacts(4, 8, 2, False)
KINDS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "MXFP4", "Q4_1", "Q5_0", "Q5_1")


def row(*values: float) -> Any:
    return np.array([list(values) + [0.0] * (32 - len(values))], np.float32)


def test_q8_0_by_hand() -> None:
    packed = pack(row(12.7, -6.35, 0.04, -0.06), "Q8_0", "x")
    assert packed.shape == (1, 34) and packed[0, 2:6].view(np.int8).tolist() == [127, -64, 0, -1]
    assert packed[0, :2].view(np.float16)[0] == np.float16(0.1)


def test_q4_0_by_hand() -> None:
    packed = pack(row(-8.0, 3.0, 8.0, *[0.0] * 13, 1.4), "Q4_0", "x")
    assert packed.shape == (1, 18) and packed[0, :2].view(np.float16)[0] == 1
    nibbles = packed[0, 2:]
    # Numbers 0-15 in the low halves, 16-31 in the high ones, each plus 8; +8 has no place and becomes 7.
    assert (nibbles[:3] & 15).tolist() == [0, 11, 15] and (nibbles[:2] >> 4).tolist() == [9, 8]
    assert unpack(packed, "Q4_0")[0, [0, 1, 2, 16]].tolist() == [-8, 3, 7, 1]


def test_mxfp4_by_hand() -> None:
    packed = pack(row(6.0, -3.0, 0.5, 0.2), "MXFP4", "x")
    assert packed.shape == (1, 17) and packed[0, 0] == 127
    assert unpack(packed, "MXFP4")[0, :4].tolist() == [6, -3, 0.5, 0]
    assert (packed[0, 1:4] & 15).tolist() == [7, 13, 1]


def test_mxfp4_is_what_the_format_s_own_package_packs() -> None:
    rng = np.random.default_rng(0)
    rows_RI = (rng.standard_normal((2000, 64)) * np.exp2(rng.integers(-60, 60, (2000, 1)))).astype(np.float32)
    # Middles and ties.
    rows_RI[::7] = np.round(rows_RI[::7] * 4 / np.abs(rows_RI[::7]).max(-1, keepdims=True)) / 4
    rows_RI[::11] = 0
    wanted = gguf.quants.quantize(rows_RI, gguf.GGMLQuantizationType.MXFP4)
    np.testing.assert_array_equal(pack(rows_RI, "MXFP4", "x"), wanted)


def test_halves_by_hand() -> None:
    assert pack(row(1.0, 65504.0), "F16", "x").view(np.float16)[0, 1] == 65504
    assert unpack(pack(row(1 + 2.0**-8, 1 + 2.0**-7), "BF16", "x"), "BF16")[0, :2].tolist() == [
        1,
        1 + 2.0**-7,
    ]
    with pytest.raises(CheckpointError, match=r"'x' reaches 6\.55e\+04.*bf16"):
        pack(row(65520.0), "F16", "x")


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(np.float32, (3, 64), elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False)),
    st.sampled_from(KINDS),
)
def test_no_packed_number_is_further_off_than_allowed(rows_RI: Any, kind: str) -> None:
    packed = pack(rows_RI, kind, "x")
    assert packed.nbytes == 3 * row_bytes(64, kind)
    error = np.abs(unpack(packed, kind).astype(np.float64) - rows_RI)
    # MXFP4 scales are powers of two down to 2^-127, so what is next to nothing beside 2^-125 may vanish.
    assert (error <= allowed_error(rows_RI, kind)).all() or np.abs(rows_RI).max() < 1e-30


@pytest.mark.parametrize("kind", KINDS[1:])
def test_the_bound_is_nearly_reached(kind: str) -> None:
    """A bound many times too wide would let a wrong scale pass."""
    rows_RI = np.random.default_rng(0).standard_normal((4000, 32)).astype(np.float32)
    error = np.abs(unpack(pack(rows_RI, kind, "x"), kind).astype(np.float64) - rows_RI)
    assert 0.75 < (error / allowed_error(rows_RI, kind)).max() <= 1


@pytest.mark.parametrize(
    ("name", "shape", "quant", "kind"),
    [
        ("blk.0.attn_q.weight", (64, 64), "q8_0", "Q8_0"),
        ("blk.0.attn_q.weight", (64, 48), "q8_0", "F16"),
        ("blk.0.attn_q.weight", (64, 48), "bf16", "BF16"),
        ("blk.0.attn_norm.weight", (64,), "q4_0", "F32"),
        ("blk.0.ssm_norm.weight", (4, 64), "q4_0", "F32"),
        ("blk.0.shortconv.conv.weight", (256, 32), "q4_k_m", "F32"),
        ("blk.0.ffn_gate_exps.bias", (8, 64), "f16", "F32"),
        ("blk.0.ffn_gate_inp.weight", (8, 64), "q4_0", "F32"),
        ("blk.0.ffn_gate_exps.weight", (8, 64, 64), "mxfp4", "MXFP4"),
        ("blk.0.ffn_gate_exps.weight", (8, 64, 48), "mxfp4", "F16"),
        ("blk.0.ffn_gate_shexp.weight", (64, 64), "mxfp4", "Q8_0"),
        ("token_embd.weight", (100, 64), "q4_0", "Q8_0"),
        ("output.weight", (100, 64), "f16", "F16"),
    ],
)
def test_which_tensor_gets_which_type(name: str, shape: tuple[int, ...], quant: str, kind: str) -> None:
    chosen = choose(name, shape, quant, FACTS)
    assert chosen.type == kind and bool(chosen.reason) == (kind.lower() != quant)
    assert choose(name, shape, "f32", FACTS) == Choice("F32", chosen.reason if kind == "F32" else "")


def test_the_receipt_counts_types_and_says_why(tmp_path: Path) -> None:
    directory = write("qwen3_moe", tmp_path / "m")
    receipt = export_gguf(directory, tmp_path / "x.gguf", "mxfp4")
    assert receipt.tensors == {"F32": 21, "MXFP4": 12, "Q8_0": 18}
    reasons = {group.reason: group for group in receipt.kept}
    assert reasons["mxfp4 is for experts"].type == "Q8_0"
    routers = reasons["routers stay exact: a small error chooses other experts"]
    assert routers.tensors == tuple(f"blk.{layer}.ffn_gate_inp.weight" for layer in range(4))
    assert (
        receipt.to_dict()["tensors"] == receipt.tensors and 0.05 < receipt.errors["MXFP4"].relative_rms < 0.2
    )
    assert receipt.errors["Q8_0"].relative_rms < 0.01


def test_rows_that_fill_no_block_stay_in_halves(tmp_path: Path) -> None:
    receipt = export_gguf(write("deepseek_v3", tmp_path / "m"), tmp_path / "x.gguf", "q4_0")
    (group,) = (group for group in receipt.kept if "rows of 12" in group.reason)
    assert group.type == "F16" and "blk.1.ffn_down_exps.weight" in group.tensors


def test_mxfp4_needs_experts(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="format for experts and this model has none"):
        export_gguf(write("qwen3", tmp_path / "m"), tmp_path / "x.gguf", "mxfp4")
