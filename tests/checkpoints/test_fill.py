"""Filling a model: from any source, and with little more memory than the model, measured in a new process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from coterie.checkpoints.fill import fill_model, place_tensors
from coterie.checkpoints.quantised.encoded import Grid
from coterie.checkpoints.tensor_source import TensorSource
from coterie.checkpoints.tensor_writer import disk_tensor, disk_tensors, write_model_files
from coterie.config import CheckpointError
from coterie.families import config_from_hf
from coterie.nn.materialise import materialise
from coterie.nn.transformer import Transformer
from tests.nn.test_transformer import SMALL

CHILD = """
import json, sys
from pathlib import Path
from coterie.checkpoints.directory import load_model
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))
before = peak()
model = load_model(sys.argv[1], dtype=sys.argv[2]).model
held = sum(p.nbytes for p in model.parameters())
print(json.dumps({"grown": peak() - before, "held": held}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc (Linux)")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_peak_is_the_model_and_one_shard(tmp_path: Path, dtype: str) -> None:
    shape = {
        "vocab_size": 4096,
        "hidden_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "head_dim": 64,
    }
    experts = {
        "num_experts": 32,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 512,
        "intermediate_size": 1024,
    }
    config = config_from_hf({"model_type": "qwen3_moe", "max_position_embeddings": 512} | shape | experts)
    shard = 40 * 2**20
    write_model_files(tmp_path, Transformer(config), shard_bytes=shard)
    assert len(list(tmp_path.glob("*.safetensors"))) > 5
    command = [sys.executable, "-c", CHILD, str(tmp_path), dtype]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert found["held"] > 4 * shard
    assert found["grown"] < found["held"] + shard, found


class InMemory:
    """A source that reads no files."""

    quantised = False
    bytes_read = 0

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self.released = False

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def file(self, name: str) -> Path:
        return Path("memory")

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self.tensors[name].dtype

    def read(self, name: str) -> Tensor:
        return self.tensors[name].clone()

    def read_part(self, name: str, index: int) -> Tensor:
        return self.read(name)[index]

    def read_into(self, name: str, target: Tensor, part: Callable[[Tensor], Tensor] | None = None) -> None:
        target.copy_(self.tensors[name] if part is None else part(self.tensors[name]))

    def expect(self, name: str, part: Callable[[Tensor], Tensor]) -> None: ...

    def grid(self, name: str) -> Grid | None:
        return None

    def codes(self, name: str) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def release(self) -> None:
        self.released = True


def test_any_source_of_tensors_fills_a_model() -> None:
    original = Transformer(config_from_hf(SMALL))
    original.initialise(3)
    own = dict(original.named_parameters()) | dict(original.named_buffers())
    tensors = {
        name: disk_tensor(slots, own, torch.float32).clone() for name, slots in disk_tensors(original).items()
    }
    source = InMemory(tensors)
    checked: TensorSource = source
    with torch.device("meta"):
        model = Transformer(original.config)
    placement = place_tensors(checked, model, Path("memory"))
    assert [slot.disk for slot in placement.slots] == list(tensors) and not placement.ignored
    materialise(model, torch.float32, "cpu")
    fill_model(checked, model, Path("memory"))
    assert source.released
    assert all(torch.equal(own[name], parameter) for name, parameter in model.named_parameters())
    del tensors["model.norm.weight"]
    with pytest.raises(CheckpointError, match=r"1 tensor\(s\) missing, the first is 'model\.norm\.weight'"):
        place_tensors(checked, model, Path("memory"))
