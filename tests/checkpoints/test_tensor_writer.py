"""Files of tensors that are made one at a time: any reader opens them, and only one tensor is in memory."""

from __future__ import annotations

import json
import weakref
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from coterie.checkpoints.tensor_reader import read_header
from coterie.checkpoints.tensor_writer import TensorToWrite, write_shards

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.uint8, torch.int64, torch.float8_e4m3fn)
SHAPES = st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 5), max_size=3)), max_size=6)


def piece(name: str, tensor: torch.Tensor) -> TensorToWrite:
    return TensorToWrite(name, tensor.dtype, tuple(tensor.shape), lambda: tensor)


@given(SHAPES)
def test_every_tensor_reads_back_by_safetensors_itself(
    tmp_path_factory: object, kinds: list[tuple[torch.dtype, list[int]]]
) -> None:
    folder = Path(tmp_path_factory.mktemp("written"))  # type: ignore[attr-defined]
    tensors = {
        f"t{number}": torch.randint(0, 99, shape).to(dtype) for number, (dtype, shape) in enumerate(kinds)
    }
    write_shards(folder, [piece(name, tensor) for name, tensor in tensors.items()])
    found = load_file(folder / "model.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        assert torch.equal(found[name].flatten().view(torch.uint8), tensor.flatten().view(torch.uint8))
    for name, entry in read_header(folder / "model.safetensors").items():
        assert entry.start % max(1, tensors[name].dtype.itemsize) == 0
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_one_tensor_at_a_time_in_the_order_given(tmp_path: Path) -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    made: list[str] = []

    def lazy(name: str) -> TensorToWrite:
        def make() -> torch.Tensor:
            assert all(reference() is None for reference in alive)
            tensor = torch.full((3, 4), float(len(made)))
            alive.append(weakref.ref(tensor))
            made.append(name)
            return tensor

        return TensorToWrite(name, torch.float32, (3, 4), make)

    seen: dict[str, float] = {}
    names = ["layer.10", "layer.2", "a", "b"]
    pieces = [lazy(name) for name in names]
    write_shards(tmp_path, pieces, 2 * 48, lambda name, tensor: seen.update({name: float(tensor[0, 0])}))
    assert made == names and seen == {name: float(at) for at, name in enumerate(names)}
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * 48
    assert [index["weight_map"][name][6:11] for name in names] == ["00001", "00001", "00002", "00002"]
