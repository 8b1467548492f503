"""Every block type is unpacked bit for bit as the gguf package does it, and refused where it is no number."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.checkpoints.gguf_file import blocks
from coterie.checkpoints.gguf_file.blocks import CODEBOOKS, NotFiniteError, unpack_blocks
from coterie.checkpoints.gguf_file.types import BY_NAME, PLAIN
from coterie.config import ConfigError
from tests.checkpoints.gguf_file.files import random_blocks, reference

KINDS = [name for name in BY_NAME if name not in PLAIN]
# The bytes of each block's float16 scales.
HALVES = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
}


def unpacked(packed: np.ndarray, kind: str) -> np.ndarray:
    out = torch.full((len(packed), BY_NAME[kind].block), float("nan"))
    unpack_blocks(torch.from_numpy(packed), kind, out)
    return out.numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_random_bits_are_unpacked_bit_for_bit(kind: str) -> None:
    """All patterns of scales: negative, zero, subnormal, the largest."""
    packed = random_blocks(kind, 300, np.random.default_rng(1))
    found, wanted = unpacked(packed, kind), reference(packed, kind)
    np.testing.assert_array_equal(found.view(np.uint32), wanted.view(np.uint32))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(HALVES)), st.data())
def test_every_finite_scale_is_applied_exactly(kind: str, data: st.DataObject) -> None:
    packed = random_blocks(kind, 4, np.random.default_rng(data.draw(st.integers(0, 99))))
    for at in HALVES[kind]:
        scale = data.draw(st.floats(width=16, allow_nan=False, allow_infinity=False))
        packed[:, at : at + 2] = np.array([scale], np.float16).view(np.uint8)
    found, wanted = unpacked(packed, kind), reference(packed, kind)
    np.testing.assert_array_equal(found.view(np.uint32), wanted.view(np.uint32))


@pytest.mark.parametrize("kind", HALVES)
@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf])
def test_a_scale_that_is_no_number_is_refused(kind: str, scale: float) -> None:
    for at in HALVES[kind]:
        packed = random_blocks(kind, 3, np.random.default_rng(2))
        packed[1, at : at + 2] = np.array([scale], np.float16).view(np.uint8)
        with pytest.raises(NotFiniteError):
            unpacked(packed, kind)


def test_exponents_that_are_no_number_are_refused() -> None:
    for kind, at, code in (("MXFP4", 0, 255), ("NVFP4", 3, 127), ("NVFP4", 0, 200)):
        packed = random_blocks(kind, 3, np.random.default_rng(2))
        packed[1, at] = code
        with pytest.raises(NotFiniteError):
            unpacked(packed, kind)


def test_numbers_by_hand() -> None:
    """One block of Q4_0 and of MXFP4, worked out from the format's description."""
    half = np.array([0.5], np.float16).view(np.uint8)
    block = np.concatenate((half, np.array([0x1F] + [0x88] * 15, np.uint8)))[None]
    numbers = unpacked(block, "Q4_0")[0]
    assert numbers[0] == 3.5 and numbers[16] == -3.5 and not numbers[1:16].any()
    block = np.concatenate(([128], [0x72] + [0] * 15)).astype(np.uint8)[None]
    assert unpacked(block, "MXFP4")[0, [0, 1, 16]].tolist() == [2.0, 0.0, 12.0]


def test_codebooks_need_the_package_and_the_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = random_blocks("Q4_K", 2, np.random.default_rng(0))
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    monkeypatch.setattr(blocks, "require_extra", lambda *words: (_ for _ in ()).throw(ConfigError(words[1])))
    assert np.isfinite(unpacked(packed, "Q4_K")).all()
    for kind in CODEBOOKS:
        with pytest.raises(ConfigError, match=f"numbers of type {kind} need the gguf package"):
            unpack_blocks(torch.zeros(1, BY_NAME[kind].nbytes, dtype=torch.uint8), kind, torch.empty(1, 256))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in CODEBOOKS])
def test_at_least_twice_as_fast_as_the_package_on_one_core(kind: str) -> None:
    packed = random_blocks(kind, 2**20 // BY_NAME[kind].block, np.random.default_rng(3))
    rows, raw = packed.reshape(64, -1), torch.from_numpy(packed)
    out = torch.empty(2**20)

    def seconds(run: object) -> float:
        times = []
        for _ in range(5):
            start = time.process_time()
            run()  # type: ignore[operator]
            times.append(time.process_time() - start)
        return min(times)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ours, theirs = seconds(lambda: unpack_blocks(raw, kind, out)), seconds(lambda: reference(rows, kind))
    finally:
        torch.set_num_threads(threads)
    assert 2 * ours < theirs
