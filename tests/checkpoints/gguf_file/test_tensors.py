"""Tensors of a GGUF file: whole, by rows, by expert, into targets of other types and orders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from coterie.checkpoints.gguf_file import tensors as module
from coterie.checkpoints.gguf_file.tensors import GgufTensors
from coterie.checkpoints.gguf_file.types import BY_NAME, PLAIN
from coterie.checkpoints.quantised.encoded import Grid
from coterie.config import CheckpointError
from tests.checkpoints.gguf_file.files import random_blocks, reference, write_file

SHAPE = (3, 8, 256)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tensor (experts, out, in) of every block type and one of each plain one."""
    random = np.random.default_rng(5)
    tensors = {}
    for kind, block in BY_NAME.items():
        if kind not in PLAIN:
            packed = random_blocks(kind, np.prod(SHAPE) // block.block, random)
            tensors[kind] = (kind, packed.reshape(*SHAPE[:-1], -1))
    for kind in ("F32", "F16", "BF16"):
        numbers = torch.from_numpy(random.standard_normal(SHAPE, dtype=np.float32)).to(PLAIN[kind])
        tensors[kind] = (kind, numbers.view(torch.uint8).numpy())
    return write_file(tmp_path_factory.mktemp("gguf") / "a.gguf", tensors)


@pytest.fixture(params=[1 << 18, 1 << 10, 256])
def source(file: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> GgufTensors:
    """The file, read in pieces that hold everything, some rows, and one row."""
    monkeypatch.setattr(module, "PIECE", request.param)
    return GgufTensors.open(file)


def wanted(source: GgufTensors, name: str) -> torch.Tensor:
    packed = source.packed_rows(name, 0, 24).numpy()
    return torch.from_numpy(reference(packed, source.type(name)).copy()).view(SHAPE)


def test_every_type_is_read_whole_by_rows_and_by_expert(source: GgufTensors) -> None:
    assert len(list(source)) == len(BY_NAME) - 5 and source.quantised
    for name in source:
        numbers, plain = wanted(source, name), source.dtype(name)
        assert source.shape(name) == SHAPE and source.type(name) == name
        assert plain == PLAIN.get(name, torch.float32)
        assert torch.equal(source.read(name), numbers.to(plain))
        assert torch.equal(source.read_rows(name, 3, 19), numbers.flatten(0, 1)[3:19].to(plain))
        assert torch.equal(source.read_part(name, 2), numbers[2].to(plain))
    assert source.bytes_by_type["Q6_K"] == 24 * 210


def test_targets_of_other_types_and_orders(source: GgufTensors) -> None:
    for name in ("Q4_K", "Q8_0", "F16", "F32"):
        numbers = wanted(source, name)
        rounded = torch.empty(SHAPE, dtype=torch.bfloat16)
        source.read_into(name, rounded)
        assert torch.equal(rounded, numbers.to(torch.bfloat16))
        turned = torch.empty(3, 256, 8)
        source.read_into(name, turned.transpose(1, 2))
        assert torch.equal(turned, numbers.transpose(1, 2))
        # Rows of neighbours (4, 2) go to halves (2, 4).
        halves = torch.empty(3, 2, 4, 256)
        source.read_into(name, halves.transpose(1, 2))
        assert torch.equal(halves, numbers.view(3, 4, 2, 256).transpose(1, 2))


def test_parts(source: GgufTensors) -> None:
    for name in ("Q4_K", "F16"):
        numbers = wanted(source, name).to(source.dtype(name))
        target = torch.empty(3, 256, dtype=source.dtype(name))
        source.read_into(name, target, lambda tensor: tensor[1, 2:5])
        assert torch.equal(target, numbers[1, 2:5])
        target = torch.empty(3, 8, 7, dtype=source.dtype(name))
        source.read_into(name, target, lambda tensor: tensor[..., 3:10])
        assert torch.equal(target, numbers[..., 3:10])
        target = torch.empty(3, 4, 256, dtype=source.dtype(name))
        source.read_into(name, target, lambda tensor: tensor[:, ::2])
        assert torch.equal(target, numbers[:, ::2])


def test_only_what_is_asked_for_is_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, read = GgufTensors.open(file), []
    plain = GgufTensors._read_bytes
    monkeypatch.setattr(
        GgufTensors,
        "_read_bytes",
        lambda self, name, first, rows, memory: read.append(rows) or plain(self, name, first, rows, memory),
    )
    source.read_part("Q5_K", 1)
    source.read_rows("Q5_K", 2, 4)
    source.read_into("Q5_K", torch.empty(8, 256), lambda tensor: tensor[2])
    assert read == [8, 2, 8]


def test_stored_codes_give_the_same_numbers(source: GgufTensors) -> None:
    kept = [name for name in source if source.grid(name) is not None]
    assert set(kept) == {"Q4_0", "Q5_0", "Q8_0", "Q3_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4", "NVFP4"}
    assert source.grid("Q8_0") == Grid(8, 32, torch.float16)
    assert source.grid("Q4_0") == Grid(4, 32, torch.float16)
    for name in kept:
        grid, (codes, scales) = source.grid(name), source.codes(name)
        assert grid is not None and codes.shape == SHAPE and scales.dtype == grid.scales
        assert scales.shape == (3, 8, 256 // grid.block)
        if grid.bits == 4:
            assert codes.min() >= -8 and codes.max() <= 7
        numbers = (codes.float().unflatten(-1, (-1, grid.block)) * scales.float()[..., None]).flatten(-2)
        assert torch.equal(numbers, wanted(source, name))
        for part, whole in zip(source.codes(name, 1), (codes, scales), strict=True):
            assert torch.equal(part, whole[1])


def test_nvfp4_has_a_factor_in_another_tensor(tmp_path: Path) -> None:
    packed = random_blocks("NVFP4", 3 * 4 * 2, np.random.default_rng(4)).reshape(3, 4, -1)
    factors = np.array([0.5, -3.0, 7.7], np.float32)
    tensors = {
        "exps.weight": ("NVFP4", packed),
        "exps.scale": ("F32", factors),
        "exps.input_scale": ("F32", factors),
        "one.weight": ("NVFP4", packed),
        "one.scale": ("F32", factors[2:]),
        "plain.scale": ("F32", factors),
        "wrong.weight": ("NVFP4", packed),
        "wrong.scale": ("F32", factors[:2]),
    }
    source = GgufTensors.open(write_file(tmp_path / "n.gguf", tensors))
    assert list(source) == ["exps.weight", "one.weight", "plain.scale", "wrong.weight"]
    assert "exps.scale" not in source and source.grid("exps.weight") is None
    numbers = torch.from_numpy(reference(packed, "NVFP4"))
    assert torch.equal(source.read("exps.weight"), numbers * torch.from_numpy(factors)[:, None, None])
    assert torch.equal(source.read_part("exps.weight", 1), numbers[1] * -3)
    assert torch.equal(source.read("one.weight"), numbers * torch.tensor(7.7))
    with pytest.raises(
        CheckpointError, match=r"'wrong\.scale' has 2 numbers, 'wrong\.weight' needs one in all"
    ):
        source.read("wrong.weight")


def test_mistakes_are_named_in_one_line(file: Path, tmp_path: Path) -> None:
    source = GgufTensors.open(file)
    with pytest.raises(CheckpointError, match=r"a\.gguf: has no tensor 'none'"):
        source.read("none")
    with pytest.raises(CheckpointError, match="'Q8_0' has no rows 20 to 25"):
        source.read_rows("Q8_0", 20, 25)
    with pytest.raises(
        CheckpointError, match=r"'Q8_0' gives \(3, 8, 256\), which does not fill \(3, 8, 255\)"
    ):
        source.read_into("Q8_0", torch.empty(3, 8, 255))
    packed = random_blocks("Q8_0", 4, np.random.default_rng(0))
    packed[2, :2] = 255
    damaged = GgufTensors.open(write_file(tmp_path / "b.gguf", {"x": ("Q8_0", packed)}))
    for read in (damaged.read, damaged.codes):
        with pytest.raises(
            CheckpointError, match=r"b\.gguf: 'x' has a scale that is infinite or not a number"
        ):
            read("x")


def test_a_file_cut_after_it_was_opened(tmp_path: Path) -> None:
    packed = random_blocks("Q8_0", 64, np.random.default_rng(0))
    path = write_file(tmp_path / "c.gguf", {"x": ("Q8_0", packed)})
    source = GgufTensors.open(path)
    path.write_bytes(path.read_bytes()[:-999])
    with pytest.raises(CheckpointError, match="'x' ends early"):
        source.read("x")
