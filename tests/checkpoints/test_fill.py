"""Loading holds the model and little more: measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from coterie.checkpoints.tensor_writer import write_model_files
from coterie.families import config_from_hf
from coterie.nn.transformer import Transformer

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
