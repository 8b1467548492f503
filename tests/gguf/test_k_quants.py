"""K types: exact where the numbers lie on a grid, within their bound elsewhere, as good as llama.cpp's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from coterie.config import CheckpointError
from coterie.gguf.blocks import allowed_error, pack, row_bytes
from coterie.gguf.k_quants import K_TYPES
from tests.checkpoints.gguf_file.test_third_party import pytestmark as needs_llama_cpp
from tests.gguf.expected import unpack

# Relative error of normal numbers: what llama.cpp's own packer reaches, rounded up.
NORMAL = {"Q2_K": 0.3, "Q3_K": 0.155, "Q4_K": 0.073, "Q5_K": 0.037, "Q6_K": 0.0182}


def normal(rows: int, length: int) -> Any:
    return np.random.default_rng(0).standard_normal((rows, length)).astype(np.float32)


@pytest.mark.parametrize("kind", K_TYPES)
def test_normal_numbers_lose_what_llama_cpp_loses(kind: str) -> None:
    rows_RI = normal(64, 512)
    packed = pack(rows_RI, kind, "x")
    assert packed.nbytes == 64 * row_bytes(512, kind)
    error = np.sqrt(((unpack(packed, kind) - rows_RI) ** 2).mean())
    assert NORMAL[kind] / 1.1 < error < NORMAL[kind]


@pytest.mark.parametrize(("kind", "low", "high"), [("Q4_K", 0, 15), ("Q5_K", 0, 31), ("Q2_K", 0, 3)])
def test_codes_with_an_offset_come_back(kind: str, low: int, high: int) -> None:
    """Groups of the same range on a grid of halves: every number is exact."""
    codes = np.random.default_rng(1).integers(low, high + 1, (4, 512))
    codes[:, ::16], codes[:, 1::16] = low, high
    rows_RI = (codes * 0.5 - 1.5).astype(np.float32)
    # 0.5 over 63 or 15 has no exact float16, so the grid is off by its rounding.
    np.testing.assert_allclose(unpack(pack(rows_RI, kind, "x"), kind), rows_RI, atol=high * 0.5 * 2.0**-10)


@pytest.mark.parametrize(("kind", "top"), [("Q3_K", 4), ("Q6_K", 32)])
def test_codes_with_a_sign_come_back(kind: str, top: int) -> None:
    codes = np.random.default_rng(1).integers(-top, top, (4, 512))
    codes[:, ::16] = -top
    rows_RI = (codes * 0.25).astype(np.float32)
    np.testing.assert_array_equal(unpack(pack(rows_RI, kind, "x"), kind), rows_RI)


@settings(max_examples=80, deadline=None)
@given(
    arrays.arrays(np.float32, (2, 256), elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False)),
    st.sampled_from(K_TYPES),
)
@example(np.zeros((1, 256), np.float32), "Q4_K")
@example(np.full((1, 256), -3, np.float32), "Q5_K")
@example(np.full((1, 256), 3, np.float32), "Q2_K")
@example(np.repeat(np.eye(8, dtype=np.float32)[:1], 32, 1), "Q3_K")
@example(np.geomspace(1e-12, 1e4, 256, dtype=np.float32)[None], "Q6_K")
def test_no_packed_number_is_further_off_than_allowed(rows_RI: Any, kind: str) -> None:
    error = np.abs(unpack(pack(rows_RI, kind, "x"), kind).astype(np.float64) - rows_RI)
    assert (error <= allowed_error(rows_RI, kind)).all()


@pytest.mark.parametrize("kind", K_TYPES)
def test_a_bound_that_finds_rows_in_another_order(kind: str) -> None:
    """Numbers of another row, or of another half of their block, are beyond it."""
    rows_RI = normal(8, 512)
    found = unpack(pack(rows_RI, kind, "x"), kind).astype(np.float64)
    bound = allowed_error(rows_RI, kind)
    assert (np.abs(found - rows_RI) <= bound).all()
    if kind not in ("Q2_K", "Q3_K"):  # two and three bits tell too little
        for other in (np.roll(found, 1, 0), np.roll(found, 128, 1), np.roll(found, 1, 1)):
            assert (np.abs(other - rows_RI) > bound).any()


def test_numbers_beyond_a_scale_are_refused() -> None:
    rows_RI = normal(1, 256) * 1e9
    with pytest.raises(CheckpointError, match=r"'x' reaches .* more than the scales of Q4_K hold.*bf16"):
        pack(rows_RI, "Q4_K", "x")
    with pytest.raises(CheckpointError, match="'x' is of type IQ4_NL, which is read here and not written"):
        pack(normal(1, 256), "IQ4_NL", "x")


class TestAgainstLlamaCpp:
    """Blocks of both packers for the same numbers."""

    pytestmark = needs_llama_cpp

    @pytest.mark.parametrize("kind", K_TYPES)
    @pytest.mark.parametrize("spread", [1.0, 1e-3])
    def test_the_same_loss_and_mostly_the_same_blocks(self, kind: str, spread: float) -> None:
        from tests.checkpoints.gguf_file.test_third_party import packed_by_llama_cpp

        random = np.random.default_rng(2)
        rows_RI = (random.standard_t(4, (256, 1024)) * spread).astype(np.float32)
        own, theirs = pack(rows_RI, kind, "x"), packed_by_llama_cpp(rows_RI, kind)
        errors = [np.sqrt(((unpack(packed, kind) - rows_RI) ** 2).mean()) for packed in (own, theirs)]
        assert errors[0] < errors[1] * 1.002
        size = row_bytes(256, kind)
        same = (own.reshape(-1, size) == theirs.reshape(-1, size)).all(-1).mean()
        assert same > 0.75
