"""A file in any type is its checkpoint rounded, and nothing else; one changed number is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.gguf_file.tensors import GgufTensors
from coterie.gguf.export import export_gguf
from coterie.gguf.rounding import FileRounding, file_rounding
from tests.gguf.models import write
from tests.gguf.rewritten import Arrays, rewrite
from tests.verify.test_identity import verdict

QUANTS = ("f32", "f16", "bf16", "q8_0", "q4_0", "mxfp4")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write("qwen3_moe", tmp_path_factory.mktemp("gguf") / "model", 0, num_hidden_layers=2)


def found(directory: Path, file: Path) -> FileRounding:
    return file_rounding(Checkpoint.open(directory), file)


def nudged(directory: Path, out: Path, name: str, factor: float) -> Path:
    """A copy of the directory with one tensor multiplied."""
    out.mkdir()
    for path in directory.iterdir():
        if path.is_file() and path.name != "coterie.json":
            (out / path.name).write_bytes(path.read_bytes())
    tensors = load_file(out / "model.safetensors")
    save_file({n: t * factor if n == name else t for n, t in tensors.items()}, out / "model.safetensors")
    return out


@pytest.mark.parametrize(
    "quant", [quant if quant == "q8_0" else pytest.param(quant, marks=pytest.mark.slow) for quant in QUANTS]
)
def test_every_exported_type_is_the_same_model_and_a_slightly_other_one_is_not(
    quant: str, directory: Path, tmp_path: Path
) -> None:
    file = tmp_path / "model.gguf"
    export_gguf(directory, file, quant)
    rounding = found(directory, file)
    assert rounding.exact and rounding.repacked == sum(rounding.types.values()) > 20
    same = verdict(directory, file)
    assert same.same and any("every byte" in note for note in same.notes)
    # Within the rounding of eight bits, so only the bytes tell.
    other = nudged(directory, tmp_path / "other", "model.layers.1.self_attn.o_proj.weight", 1.0005)
    assert not found(other, file).exact
    assert not verdict(nudged(directory, tmp_path / "far", "model.norm.weight", 1.01), file).same


def test_numbers_within_one_rounding_are_told_from_the_exact_file(directory: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    export_gguf(directory, file, "q8_0")
    packed = GgufTensors.open(file).packed_rows("blk.0.attn_q.weight", 0, 1)
    content = bytearray(file.read_bytes())
    at = content.find(packed.numpy().tobytes())
    codes = np.frombuffer(content, np.int8, 34, at)
    smallest = 2 + int(np.abs(codes[2:].astype(int)).argmin())
    content[at + smallest] = (content[at + smallest] + 2) % 256  # two steps: beyond any rounding
    file.write_bytes(content)
    rounding = found(directory, file)
    assert rounding.wrong == ("blk.0.attn_q.weight",)
    judged = verdict(directory, file)
    assert not judged.same and "first 'blk.0.attn_q.weight'" in judged.reasons[0]


def test_exponentials_may_be_rounded_by_another_program(tmp_path: Path) -> None:
    """Converters take them in float32, whose exponentials differ by a step between processors."""
    model = write("granite_hybrid", tmp_path / "model")
    export_gguf(model, tmp_path / "own.gguf", "f32")

    def moved(factor: float) -> FileRounding:
        def change(tensors: Arrays) -> None:
            tensors["blk.0.ssm_a"] = tensors["blk.0.ssm_a"] * np.float32(factor)

        return found(model, rewrite(tmp_path / "own.gguf", tmp_path / "other.gguf", change=change))

    assert (moved(1 + 2**-23).near, moved(1 + 2**-23).wrong) == (1, ())
    assert moved(1.00001).wrong == ("blk.0.ssm_a",)
