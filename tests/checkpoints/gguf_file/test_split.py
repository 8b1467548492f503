"""Models in several GGUF files: any part opens all, and a part that is missing or foreign is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from coterie.checkpoints.gguf_file.tensors import GgufTensors
from coterie.config import CheckpointError
from tests.checkpoints.gguf_file.files import write_file


def parts(folder: Path, names: str = "abc", **wrong: int) -> list[Path]:
    """One tensor a part; the first has the keys of the model. `wrong`: keys of the last part."""
    written = []
    folder.mkdir(exist_ok=True)
    for index, name in enumerate(names):
        keys = {"split.no": index, "split.count": len(names), "split.tensors.count": len(names)}
        if index == 0:
            keys["llama.block_count"] = 7
        if index == len(names) - 1:
            keys |= {f"split.{key}": value for key, value in wrong.items() if key != "tensors"}
            keys |= {"split.tensors.count": wrong["tensors"]} if "tensors" in wrong else {}
        path = folder / f"m-{index + 1:05}-of-{len(names):05}.gguf"
        numbers = np.full((2, 32), index, np.float32)
        written.append(write_file(path, {name: ("F32", numbers)}, keys))
    return written


@pytest.mark.parametrize("given", range(3))
def test_any_part_opens_the_whole_model(given: int, tmp_path: Path) -> None:
    files = parts(tmp_path)
    source = GgufTensors.open(files[given])
    assert list(source) == ["a", "b", "c"] and source.keys["llama.block_count"] == 7
    assert source.paths == tuple(files) and source.file("b") == files[1]
    assert torch.equal(source.read("c"), torch.full((2, 32), 2.0))


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    files = parts(tmp_path)
    files[1].unlink()
    for given in (files[0], files[2]):
        with pytest.raises(CheckpointError, match=r"m-00002-of-00003\.gguf: is missing, part 2 of 3"):
            GgufTensors.open(given)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"no": 1}, "its split.no is 1, not 2"),
        ({"count": 4}, "its split.count is 4, not 3"),
        ({"tensors": 9}, "its split.tensors.count is 9, not 3"),
    ],
)
def test_a_foreign_part_is_named(wrong: dict[str, int], reason: str, tmp_path: Path) -> None:
    files = parts(tmp_path, **wrong)
    with pytest.raises(CheckpointError, match=rf"m-00003-of-00003\.gguf: belongs to another model.*{reason}"):
        GgufTensors.open(files[0])


def test_a_tensor_in_two_parts_or_in_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"m-00003-of-00003\.gguf: tensor 'a' is in m-00001"):
        GgufTensors.open(parts(tmp_path / "x", "aba")[0])
    files = parts(tmp_path / "y")
    parts(tmp_path / "z")
    keys = {"split.no": 1, "split.count": 3, "split.tensors.count": 3}
    write_file(files[1], {name: ("F32", np.zeros((1, 32), np.float32)) for name in "bd"}, keys)
    with pytest.raises(CheckpointError, match="its parts hold 4 tensors, not the 3 it states"):
        GgufTensors.open(files[0])


def test_a_part_under_another_name(tmp_path: Path) -> None:
    path = parts(tmp_path)[0].rename(tmp_path / "model.gguf")
    with pytest.raises(CheckpointError, match=r"is one of 3 parts.*NAME-00001-of-00003\.gguf"):
        GgufTensors.open(path)
